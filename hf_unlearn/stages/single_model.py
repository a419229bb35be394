"""One model that is attacked by itself, with those it is compared with: what ``hf-unlearn attack MODEL`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attacks.base import Attack
from ..attacks.composed import after_of
from ..attacks.dequantize import is_quantized, write_dequantized
from ..data.encoding import TextFormat
from ..data.example import DataBundle
from ..errors import RequestError
from ..quantization import FORMATS
from ..runtime.jobs import Job, Workers
from ..runtime.progress import Progress
from ..verification.intervals import Bootstrap, recovered_share
from ..verification.scores import FactScores
from .attack import attack_result
from .context import Role, Subject, data_fingerprint, library_versions
from .export import export_job
from .units import Unit, file_digests, fingerprint

SCHEMA_VERSION = 1


@dataclass
class SingleModel:
    """What the attack stage has to know, see :class:`~hf_unlearn.stages.attack.AttackContext`."""

    output_dir: Path
    bundle: DataBundle
    workers: Workers
    progress: Progress
    attacks: Mapping[str, Attack]
    text_format: TextFormat
    attack_metrics: tuple[str, ...]

    @cached_property
    def data_digest(self) -> str:
        """Fingerprint of every row."""
        return data_fingerprint(self.bundle, self.text_format)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the numbers."""
        return library_versions()

    def folder(self, stage: str, subject: str) -> Path:
        """Attacks stand in a folder for each model, quantized variants apart."""
        return self.output_dir / subject if stage == "attack" else self.output_dir / stage / subject

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant."""
        inputs = {"stage": "export", "model": subject.digest, "format": format_name, "versions": self.versions}
        return Unit(self.folder("export", subject.name) / format_name, inputs)


def subject_of(context: SingleModel, name: str, role: Role, folder: Path) -> Subject:
    """A model to attack; of a quantized one the weights that it stands for, which are written first.

    Raises:
        EnvironmentFailure: The weights cannot be read off its layers.
    """
    digest = fingerprint(file_digests(folder))
    if not is_quantized(folder):
        return Subject(name, role, folder, digest)
    unit = Unit(context.folder("attack", name) / ".weights" / "stored", {"weights of": digest})
    unit.run(lambda out: write_dequantized(folder, out))
    return Subject(name, role, unit.path, digest)


def check_after(attacks: Mapping[str, Attack]) -> None:
    """Refuse what cannot be quantized without more text: :class:`RequestError`."""
    for name, attack in attacks.items():
        after = after_of(attack)
        if after is None:
            continue
        kind = FORMATS.get(after).value
        kind().check_available()
        if kind.calibrated:
            raise RequestError(
                f"{name}: {after} is calibrated on text, which is not named here: export it by a recipe, and attack "
                "the folder that this makes"
            )


def export_variants(context: SingleModel, subjects: Sequence[Subject]) -> None:
    """Make the variants that attacks start from, as far as they are not there."""
    formats = sorted({after for attack in context.attacks.values() if (after := after_of(attack)) is not None})
    waiting = [
        Job(f"{subject.name} {name}", export_job, (unit, name, subject.folder))
        for subject in subjects
        for name in formats
        if not (unit := context.export_unit(subject, name)).done
    ]
    for _ in context.progress.follow("export", len(waiting), context.workers.run(waiting)):
        pass


def attack_table(context: SingleModel, subjects: Sequence[Subject], target: Subject | None) -> dict[str, Any]:
    """What every attack brought back from every model, as plain data; never a text.

    Returns:
        ``attacks``: for each its name, budget, and by metric the mean score of each model after it (``scores``), what
        it was before (``before``, the mean over folds), the recovered share with its 95 % interval where target and
        never-knew model were attacked too, and the settings that the attacker kept (``best``).
    """
    found = []
    for name, attack in context.attacks.items():
        results = {subject.name: attack_result(context, target, subject, name, attack) for subject in subjects}
        metrics = [metric for metric in context.attack_metrics if metric in results["model"].scores]
        rows = []
        for metric in metrics:
            scores = {model: result.scores[metric] for model, result in results.items() if metric in result.scores}
            before = {model: _before(result.details, metric) for model, result in results.items()}
            means = {model: facts.mean for model, facts in scores.items()}
            facts = len(scores["model"].values)
            rows.append({"metric": metric, "facts": facts, "before": before, "scores": means, **_recovered(scores)})
        best = {model: result.details for model, result in results.items()}
        budget = attack.budget(context.bundle)
        found.append({"name": name, "budget": budget, "metrics": rows, "best": best})
    return {"schema_version": SCHEMA_VERSION, "versions": context.versions, "attacks": found}


def _before(details: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [row["before"] for row in details if row.get("metric") == metric and row.get("before") is not None]
    return sum(values) / len(values) if values else None


def _recovered(scores: Mapping[str, FactScores]) -> dict[str, Any]:
    if not {"model", "target", "never_knew"} <= scores.keys():
        return {}
    share = recovered_share(scores["model"], scores["target"], scores["never_knew"], Bootstrap())
    interval = list(share.interval) if share.interval else None
    return {"recovered_share": share.value, "ci95": interval, "undefined": share.undefined}
