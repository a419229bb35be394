"""Activation patching: how deep is what was forgotten gone?

The hidden states of a model, after one layer and where the answer is predicted, are put into the target. If the model
lacks what the target knows there, the target's answer becomes less likely; if it only hides it further up, nothing
changes. The never-knew model shows how much would be lost if nothing were there, layer by layer.

Source: Lee et al., "Measuring the Depth of LLM Unlearning via Activation Patching" (arXiv 2605.24614), from its
published code: states are replaced at the positions that predict the answer, the score is the mean log-probability of
the answer's tokens, and layers count whose loss by the never-knew model is above a threshold. There an annotated span
of each answer counts, here the whole answer; and there the last layer's states are those behind the final norm, here
all are those that the layer returns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import encode_row
from ..data.example import DataBundle
from ..errors import RequestError
from ..runtime.files import open_private
from ..verification.intervals import Bootstrap, mean_estimate
from ..verification.scores import FactScores
from . import ATTACKS
from .base import LAYERS, Attack, Attacked, AttackResult
from .cost import AttackCost
from .model_cache import borrowed
from .prompting import question_budget

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEPTH = "unlearning_depth"
_JOB = "layers"
_FILE = "patched.jsonl"


@dataclass(frozen=True)
class PatchedRow:
    """One row of the forget set, asked of the target with another model's states in it.

    Attributes:
        id, fact, group: Of the row.
        own: Mean log-probability (nats) of the answer's tokens by the target as it is.
        patched: The same with the states after each layer replaced, the first layer first.
    """

    id: str
    fact: str
    group: str
    own: float
    patched: tuple[float, ...]


@ATTACKS.register(
    "activation-patching",
    summary="put the model's hidden states into the target, layer by layer: how deep is the answer gone",
    paper="arXiv 2605.24614 (Unlearning Depth Score)",
    defaults={"threshold": 0.05},
    needs=("never-knew control", "target model"),
    tier="deep",
)
@dataclass(frozen=True)
class ActivationPatching(Attack):
    """Settings of activation patching. It is a diagnosis: it measures no metric that a gate could judge.

    Attributes:
        threshold: A layer counts for a row if the never-knew model's states cost the answer more than this (nats per
            token).
    """

    threshold: float = 0.05

    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise RequestError(f"activation-patching.threshold is {self.threshold}: it must be at least 0")

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job: all layers in turn."""
        return [_JOB]

    def check(self, attacked: Attacked) -> None:
        """The target must have as many layers of the same width, and the same vocabulary."""
        from ..models.loading import empty_model

        own, target = (_sizes(empty_model(folder)) for folder in (attacked.folder, attacked.target))
        if own != target:
            raise RequestError(
                f"activation-patching puts hidden states into the target, which has {target[0]} layers of width "
                f"{target[1]} and {target[2]} tokens, and the attacked model {own[0]} of {own[1]} and {own[2]}: leave "
                "activation-patching out"
            )

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Both models are in memory at once."""
        from ..evaluation.batch_runner import Passes
        from ..evaluation.patching import patched_logps
        from ..models.loading import load_model
        from ..models.memory import batch_budget

        rows = attacked.bundle.forget.score
        with borrowed(attacked.folder, edits=False) as cached:
            encoded = [encode_row(row, cached.tokenizer, attacked.text_format, eos=False) for row in rows]
            target = load_model(attacked.target, "float32")
            passes = Passes(batch_budget("auto", target.device))
            found = patched_logps(target, cached.model, encoded, passes)
        with open_private(out / _FILE) as file:
            for row, (own, *patched) in zip(rows, found, strict=True):
                line = {"id": row.id, "fact": row.fact, "group": row.group, "own": own, "patched": patched}
                file.write(json.dumps(line, sort_keys=True) + "\n")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """What each layer costs on average; the depth itself needs a never-knew model's rows beside these."""
        rows = read_patched(folders[_JOB])
        lost = [_mean(row.own - row.patched[layer] for row in rows) for layer in range(len(rows[0].patched))]
        return AttackResult({}, [{"metric": "patched_logp", "value": _mean(row.own for row in rows), "lost": lost}])

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """None: a depth is no score of knowledge."""
        return ()

    def depth(self, folder: Path, never: Path) -> dict[str, Any] | None:
        """The depth score of a model, as an entry of the report.

        Args:
            folder: Where the model's job was done.
            never: The same for the never-knew model.

        Returns:
            Mean over facts with its interval: 0 where the model's states still carry the answer as the target's do, 1
            where they carry as little as a never-knew model's. ``None`` if no layer of any row counts.
        """
        return depth_entry(read_patched(folder), read_patched(never), self.threshold)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What is looked at."""
        given = "weights of both models, prompts and answers of the forget set"
        return {**question_budget(bundle, given), "layers": "all", "threshold": self.threshold}

    def cost(self, bundle: DataBundle) -> AttackCost:
        """One pass per layer and two more; layers are not known yet, and counted as thirty."""
        return AttackCost(1, rows_scored=LAYERS * len(bundle.forget.score))

    def records_kept(self, bundle: DataBundle) -> int:
        """A line for each row, with a few numbers for each layer: as long as four records."""
        return 4 * len(bundle.forget.score)


def _sizes(model: PreTrainedModel) -> tuple[int, int, int]:
    config = model.config.get_text_config()
    return config.num_hidden_layers, config.hidden_size, config.vocab_size


def read_patched(folder: Path) -> list[PatchedRow]:
    """Rows that a job wrote."""
    lines = (folder / _FILE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [PatchedRow(row["id"], row["fact"], row["group"], row["own"], tuple(row["patched"])) for row in rows]


def depth_entry(model: Sequence[PatchedRow], never: Sequence[PatchedRow], threshold: float) -> dict[str, Any] | None:
    """The depth score over the rows of two models; see :meth:`ActivationPatching.depth`."""
    beside = {row.id: row for row in never}
    values: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in model:
        depth = row_depth(row, beside[row.id], threshold)
        if depth is not None:
            values.setdefault(row.fact, []).append(depth)
            groups[row.fact] = row.group
    if not values:
        return None
    scores = FactScores({fact: _mean(found) for fact, found in values.items()}, groups)
    estimate = mean_estimate(scores, Bootstrap())
    interval = None if estimate.interval is None else list(estimate.interval)
    return {"metric": DEPTH, "value": scores.mean, "ci95": interval, "facts": len(values)}


def row_depth(model: PatchedRow, never: PatchedRow, threshold: float) -> float | None:
    r"""Depth of one row over the layers where the never-knew model's states cost more than ``threshold``.

    .. math:: \frac{\sum_l \Delta^1_l \, \mathrm{clip}(\Delta^2_l / \Delta^1_l, 0, 1)}{\sum_l \Delta^1_l}

    with :math:`\Delta^1_l` and :math:`\Delta^2_l` what the answer loses in mean log-probability by the states after
    layer :math:`l` of the never-knew model and of the judged one. ``None`` if no layer counts.
    """
    whole = part = 0.0
    for theirs, ours in zip(never.patched, model.patched, strict=True):
        lost = never.own - theirs
        if lost > threshold:
            whole += lost
            part += lost * min(1.0, max(0.0, (model.own - ours) / lost))
    return part / whole if whole > 0 else None


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
