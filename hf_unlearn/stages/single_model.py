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
from ..quantization import FORMATS
from ..quantization.calibration import Calibration
from ..runtime.jobs import Workers
from ..runtime.progress import Progress
from ..verification.intervals import Bootstrap, recovered_share
from ..verification.scores import FactScores
from .attack import attack_result
from .context import VERSIONED, Role, Subject, data_fingerprint, library_version, library_versions
from .units import Unit, file_digests, fingerprint

SCHEMA_VERSION = 1


@dataclass
class SingleModel:
    """What stages know of a model that is attacked by itself, see :class:`~hf_unlearn.stages.context.Context`."""

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

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that attacks start from."""
        return tuple(sorted({after for attack in self.attacks.values() if (after := after_of(attack)) is not None}))

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """None: there is no text to calibrate on."""
        return {}

    @property
    def times_attacks(self) -> bool:
        """Seconds are always told: nothing else is said of an attack before it starts."""
        return True

    def folder(self, stage: str, subject: str) -> Path:
        """Attacks stand in a folder for each model, quantized variants apart."""
        return self.output_dir / subject if stage == "attack" else self.output_dir / stage / subject

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant."""
        inputs = {"stage": "export", "model": subject.digest, "format": format_name, "versions": self.versions}
        package = FORMATS.get(format_name).value.package
        if package not in VERSIONED:  # as for the others, whose version is among `versions`
            inputs["library"] = library_version(package)
        return Unit(self.folder("export", subject.name) / format_name, inputs)


@dataclass
class AttackRun:
    """What stages are given to attack one model, see :class:`~hf_unlearn.stages.context.AnyRun`.

    Attributes:
        context: Rows, attacks, folders, workers and progress.
        subjects: The model and those it is compared with.
        target: The model before unlearning, where it is named; it need not be among ``subjects``.
        is_main: Whether this is the main process of the launch.
    """

    context: SingleModel
    subjects: list[Subject]
    target: Subject | None
    is_main: bool


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


def attack_table(run: AttackRun) -> dict[str, Any]:
    """What every attack brought back from every model, as plain data; never a text.

    Returns:
        ``attacks``: for each its name, budget, and by metric the mean score of each model after it (``scores``), what
        it was before (``before``, the mean over folds), the recovered share with its 95 % interval where target and
        never-knew model were attacked too, and the settings that the attacker kept (``best``).
    """
    context, found = run.context, []
    for name, attack in context.attacks.items():
        results = {subject.name: attack_result(context, run.target, subject, name, attack) for subject in run.subjects}
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
