"""Asking differently: what attacks have in common that only change the text a model is given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import write_records
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_try
from .cost import AttackCost
from .model_cache import borrowed
from .scoring import Asked, ask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN = "plain"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class PromptAttack(Attack):
    """Ways of asking, one job each, besides the questions as they are. Nothing is trained, no weight is changed."""

    name: ClassVar[str]
    numbered: ClassVar[str]
    too_long: ClassVar[str]

    @abstractmethod
    def ways(self, bundle: DataBundle) -> int:
        """How many ways of asking there are.

        Raises:
            RequestError: The data cannot be asked this way.
        """

    @abstractmethod
    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Way number ``way``, from 1, of asking for the forget set, and in the same way for :meth:`floor_rows`."""

    def plan(self, bundle: DataBundle) -> list[str]:
        """The questions as they are, and a job per way of asking."""
        return [PLAIN, *(f"{self.numbered}{way}" for way in range(1, self.ways(bundle) + 1))]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Ask for the forget set in one way."""
        way, bundle = self._way(job), attacked.bundle
        asked = Asked(bundle.forget.score, attacked.text_format, holdout=self.floor_rows(bundle))
        with borrowed(attacked.folder, edits=False) as cached:
            if way:
                asked = self.asked(way, bundle, attacked.text_format, cached.tokenizer)
                self._check_length(asked, cached.model, cached.tokenizer)
            write_records(out / RECORDS, ask(cached.model, cached.tokenizer, asked, attacked.metrics))

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best way of asking, as it is among them."""
        tries = [read_try(folder / RECORDS, self._way(job), changed=job != PLAIN) for job, folder in folders.items()]
        return best_of(tries, metrics, setting_name=self.numbered)

    def cost(self, bundle: DataBundle) -> AttackCost:
        """One pass over the forget set per way of asking."""
        jobs = len(self.plan(bundle))
        return AttackCost(jobs, rows_scored=jobs * self.rows_per_pass(bundle))

    def _way(self, job: str) -> int:
        return 0 if job == PLAIN else int(job.removeprefix(self.numbered))

    def _check_length(self, asked: Asked, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from ..models.limits import context_length

        limit = context_length(model)
        lengths = [
            len(encode_row(row, tokenizer, asked.text_format, eos=False).input_ids)
            for row in (*asked.rows, *asked.holdout)
        ]
        if limit is not None and max(lengths) > limit:
            raise RequestError(
                f"{self.name}: question and answer have {max(lengths)} tokens this way, more than the {limit} of the "
                f"model: {self.too_long}"
            )


def check_questions(name: str, rows: Sequence[Example]) -> None:
    """Refuse rows that are not questions.

    Raises:
        RequestError: Names the first row without a prompt.
    """
    row = next((row for row in rows if not row.prompt), None)
    if row is not None:
        raise RequestError(
            f"{row.origin or row.id}: {name} changes how questions are asked, and this row has no prompt: give the "
            f"forget set as prompts and answers, or leave {name} out"
        )


def question_budget(bundle: DataBundle, given: str) -> dict[str, Any]:
    """What every prompt attack's budget says: what is given to the attacker, and how much is asked."""
    return {
        "given": given,
        "trained": "nothing",
        "facts_asked_for": len({row.fact for row in bundle.forget.score}),
        "rows_asked": len(bundle.forget.score),
    }
