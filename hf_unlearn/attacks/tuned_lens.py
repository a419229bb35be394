"""Tuned lens: as the logit lens, with a map after every layer that was fitted to the model's own predictions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import write_records
from . import ATTACKS
from .base import LAYERS, Attack, Attacked, AttackResult
from .best import best_of, read_try
from .cost import AttackCost
from .lens import layer_records, values_only
from .model_cache import borrowed
from .prompting import question_budget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JOB = "layers"


@ATTACKS.register(
    "tuned-lens",
    summary="read the answer after every layer through a map fitted to the model's own predictions on retain rows",
    paper="arXiv 2303.08112",
    defaults={"examples": 512, "tokens": 4096, "steps": 200},
    needs=("never-knew control", "retain"),
    tier="deep",
)
@dataclass(frozen=True)
class TunedLens(Attack):
    """Settings of the tuned lens. It is a diagnosis: what it reads is told, and no gate can judge it.

    Attributes:
        examples: Maximum number of retain and generic rows to fit the maps on, drawn once with the seed.
        tokens: Maximum number of positions of them.
        steps: Steps of Adam for each layer; the best on positions that were not fitted to is kept.
        seed: Seed of the draws.
    """

    examples: int = 512
    tokens: int = 4096
    steps: int = 200
    seed: int = 0

    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key, least in (("examples", 2), ("tokens", 16), ("steps", 1)):
            if getattr(self, key) < least:
                raise RequestError(f"tuned-lens.{key} is {getattr(self, key)}: it must be at least {least}")

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job: all layers are fitted and read."""
        if len(self._fitted(bundle)) < 2:
            raise RequestError(
                "tuned-lens is fitted on retain rows whose groups hold no forgotten fact, and there are fewer than 2: "
                "give the retain set such rows, or leave tuned-lens out"
            )
        return [_JOB]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fit the maps, and score the forget set after every layer."""
        from ..evaluation.batch_runner import Passes
        from ..evaluation.metrics import apply_metrics
        from ..evaluation.tuned_lens import Fit, fit_translators
        from ..models.memory import batch_budget

        bundle, fmt = attacked.bundle, attacked.text_format
        rows, holdout = bundle.forget.score, self.floor_rows(bundle)
        with borrowed(attacked.folder, edits=False) as cached:
            texts = self._texts(bundle, fmt, cached.tokenizer)
            passes = Passes(batch_budget("auto", cached.model.device))
            fit = Fit(self.tokens, self.steps, seed=self.seed)
            translators = fit_translators(cached.model, texts, fit, passes)
            layers = layer_records(cached.model, cached.tokenizer, rows, fmt, holdout, translators)
            for number, records in enumerate(layers, start=1):
                scored = apply_metrics(records, attacked.metrics)
                write_records(out / f"layer{number}.jsonl", map(values_only, scored))

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best layer, told but not judged; the last one is the model as it is."""
        found = {int(path.stem.removeprefix("layer")): path for path in folders[_JOB].glob("layer*.jsonl")}
        tries = [read_try(path, layer, changed=layer != max(found)) for layer, path in sorted(found.items())]
        return AttackResult({}, best_of(tries, metrics, setting_name="layer").details)

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """None: what a fitted map reads is told, and judged by nobody."""
        return ()

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What the maps are fitted on."""
        given = "weights, prompts of the forget set, retain rows and generic text"
        return {
            **question_budget(bundle, given),
            "trained": "a map per layer, to the model's own predictions",
            "rows_fitted": len(self._fitted(bundle)),
            "layers": "all",
        }

    def cost(self, bundle: DataBundle) -> AttackCost:
        """A pass over what the maps are fitted on, and one over the forget set."""
        return AttackCost(1, rows_scored=len(self._fitted(bundle)) + self.rows_per_pass(bundle))

    def records_kept(self, bundle: DataBundle) -> int:
        """One for each layer, of values alone: half as long as others at most."""
        return LAYERS * self.rows_per_pass(bundle) // 2

    def _fitted(self, bundle: DataBundle) -> list[Example]:
        forgotten = {row.group for row in bundle.forget}
        rows = [row for row in (*bundle.retain.score, *bundle.generic.score) if row.group not in forgotten]
        return random.Random(f"tuned-lens-{self.seed}").sample(rows, min(self.examples, len(rows)))

    def _texts(self, bundle: DataBundle, fmt: TextFormat, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
        encoded = [encode_row(row, tokenizer, fmt, eos=False).input_ids for row in self._fitted(bundle)]
        return [text for text in encoded if len(text) > 1]
