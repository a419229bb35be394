"""Logit lens: what the model would have answered, had it ended after an earlier layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import TextFormat, encode_answer, encode_row
from ..data.example import DataBundle, Example
from ..evaluation.records import ScoredRow, write_records
from . import ATTACKS
from .base import LAYERS, Attack, Attacked, AttackResult
from .best import best_of, read_try
from .cost import AttackCost
from .model_cache import borrowed
from .prompting import question_budget

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..evaluation.lens import Translator
    from ..evaluation.scoring import TextScores

_JOB = "layers"


@ATTACKS.register(
    "logit-lens",
    summary="read the answer from the hidden states after every layer with the model's own output head",
    paper="nostalgebraist 2020 (logit lens); as an attack on unlearning arXiv 2309.17410",
    defaults={},
    needs=("never-knew control",),
    tier="release",
)
@dataclass(frozen=True)
class LogitLensAttack(Attack):
    """The logit lens has no settings: every layer is read, and the attacker keeps the best one per metric."""

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job: all layers are read in the same forward."""
        return [_JOB]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Score the forget set after every layer; each has its file."""
        from ..evaluation.metrics import apply_metrics

        rows, holdout = attacked.bundle.forget.score, self.floor_rows(attacked.bundle)
        with borrowed(attacked.folder, edits=False) as cached:
            layers = layer_records(cached.model, cached.tokenizer, rows, attacked.text_format, holdout)
            for number, records in enumerate(layers, start=1):
                scored = apply_metrics(records, attacked.metrics)
                write_records(out / f"layer{number}.jsonl", map(values_only, scored))

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best layer; the last one is the model as it is."""
        found = {int(path.stem.removeprefix("layer")): path for path in folders[_JOB].glob("layer*.jsonl")}
        tries = [read_try(path, layer, changed=layer != max(found)) for layer, path in sorted(found.items())]
        return best_of(tries, metrics, setting_name="layer")

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What is read."""
        return {**question_budget(bundle, "weights, prompts of the forget set"), "layers": "all"}

    def cost(self, bundle: DataBundle) -> AttackCost:
        """One pass, with the output head once per layer."""
        return AttackCost(1, rows_scored=self.rows_per_pass(bundle))

    def records_kept(self, bundle: DataBundle) -> int:
        """One for each layer, of values alone: half as long as others at most."""
        return LAYERS * self.rows_per_pass(bundle) // 2


def layer_records(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    fmt: TextFormat,
    holdout: Sequence[Example] = (),
    translators: Mapping[int, Translator] | None = None,
) -> Iterator[list[ScoredRow]]:
    """Records of the sets ``forget`` and ``holdout`` after each layer, the first layer first, options included.

    With ``translators`` (by the number of the layer, from 0) it is a tuned lens that reads.

    Raises:
        RequestError: The lens does not know the model's layers; see also
            :func:`~hf_unlearn.evaluation.scoring.score_rows`.
    """
    from ..evaluation.batch_runner import Passes
    from ..evaluation.scoring import LabelledText, right_choice, score_texts
    from ..models.memory import batch_budget

    splits = ["forget"] * len(rows) + ["holdout"] * len(holdout)
    rows = [*rows, *holdout]
    rights = [right_choice(row) for row in rows]
    texts = []
    for row in rows:
        answers = [encode_answer(row, option, tokenizer, fmt) for option in row.choices]
        texts += [LabelledText(answer, layers=True) for answer in answers]
        texts.append(LabelledText(encode_row(row, tokenizer, fmt, eos=False), layers=True, layer_tokens=True))
    origins = {row.id: row.origin or row.id for row in rows}
    passes = Passes(batch_budget("auto", model.device))
    scores = score_texts(model, texts, passes, origins=origins, translators=translators)
    for layer in range(len(scores[-1].layers)):
        found = iter(scores)
        yield [
            _record(row, split, right, [next(found) for _ in (*row.choices, row)], layer)
            for row, split, right in zip(rows, splits, rights, strict=True)
        ]


def _record(row: Example, split: str, right: int, scores: Sequence[TextScores], layer: int) -> ScoredRow:
    *options, own = scores
    return ScoredRow(
        row.id,
        row.fact,
        row.group,
        split,
        logps=tuple(own.layer_logps[layer]),
        hits=tuple(own.layer_hits[layer]),
        choice_logps=tuple(option.layers[layer] * len(option.logps) for option in options),
        choice_lengths=tuple(len(option.logps) for option in options),
        right_choice=right,
        answer=row.answer,
    )


def values_only(record: ScoredRow) -> ScoredRow:
    """A record without the numbers that its metrics were made of: many layers have many records."""
    return replace(record, logps=(), hits=(), choice_logps=(), choice_lengths=())
