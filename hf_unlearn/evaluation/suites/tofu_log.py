"""Published TOFU evaluation logs (``eval_log_aggregated.json``), read in place of a model.

The layout: one object per split, and in it per quantity an object from row number (``"0"``, ``"1"`` ...) to value.
Read are ``avg_gt_loss``, ``avg_paraphrased_loss``, ``average_perturb_loss`` (mean negative log-likelihood per token in
nats; the last one a list), their ``num_token_*``, ``rougeL_recall``, ``rouge1_recall`` and ``generated_text``
(prompt, continuation, true answer), by which rows are identified. Source: the repository ``locuslab/tofu`` and the
logs it publishes.

These losses count the token that ends an answer; scores made here do not. Numbers of both kinds agree closely, not
exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.example import Example
from ...errors import RequestError
from ..records import AnswerScore, ScoredRow

#: Splits of a log and the sets of the suite ``tofu`` that they are.
LOG_SPLITS = {
    "eval_log.json": "retain",
    "eval_log_forget.json": "forget",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
_NEEDED = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss")


def is_tofu_log(path: Path) -> bool:
    """Whether a file looks like such a log."""
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(log, dict) and any(split in log for split in LOG_SPLITS)


def read_tofu_log(path: Path, sets: Mapping[str, Sequence[Example]]) -> dict[str, list[ScoredRow]]:
    """Records of the rows of a suite as a log has them.

    Args:
        path: The log.
        sets: Rows of the suite as their files have them. Sets that no split of the log is about are left out.

    Returns:
        Records by set, in the order of the rows: log-likelihoods of answers and their variants and the values of
        ``probability`` and ROUGE recall. There are no per-token numbers in a log.

    Raises:
        RequestError: The file is no such log, lacks a quantity, or its rows are not those of the suite; the message
            names file and key.
    """
    log = _read(path)
    records = {}
    for split, name in LOG_SPLITS.items():
        if name in sets and split in log:
            records[name] = _Split(log[split], f"{path}: {split}", name).records(sets[name])
    if not records:
        known = ", ".join(f"{split} ({name})" for split, name in LOG_SPLITS.items())
        raise RequestError(f"{path} has no split that is a set of this suite: splits are {known}")
    return records


def _read(path: Path) -> dict[str, Any]:
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RequestError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(log, dict):
        raise RequestError(f"{path} is not an evaluation log: it must hold one object with splits")
    return log


class _Split:
    """One split of a log."""

    def __init__(self, columns: Any, where: str, name: str) -> None:
        self.where, self.name = where, name
        if not isinstance(columns, dict):
            raise RequestError(f"{where} must be an object of quantities")
        missing = [key for key in _NEEDED if not isinstance(columns.get(key), dict)]
        if missing:
            raise RequestError(f"{where} has no {missing[0]}: it is not a log of a whole TOFU evaluation")
        self.columns = columns
        self.size = len(columns["avg_gt_loss"])

    def records(self, rows: Sequence[Example]) -> list[ScoredRow]:
        """One record per row; the first rows of the log, where it has more and says which they are."""
        texts = self.columns.get("generated_text")
        if len(rows) > self.size or (len(rows) < self.size and not isinstance(texts, dict)):
            raise RequestError(
                f"{self.where}.avg_gt_loss has {self.size} rows and the set {self.name} has {len(rows)}: set "
                f"set.{self.name}.limit={self.size}, or use the log of another split"
            )
        return [self._record(number, row) for number, row in enumerate(rows)]

    def _record(self, number: int, row: Example) -> ScoredRow:
        self._check_text(number, row)
        perturbed = self._losses("average_perturb_loss", number)
        expected = dict(row.variants).get("perturbed", ())
        if expected and len(expected) != len(perturbed):
            raise RequestError(
                f"{self.where}.average_perturb_loss.{number} has {len(perturbed)} answers and {row.origin or row.id} "
                f"has {len(expected)}: the log is about other rows"
            )
        loss = self._loss("avg_gt_loss", number)
        tokens = self._tokens("num_token_gt", number)
        paraphrased = AnswerScore(
            -self._loss("avg_paraphrased_loss", number) * self._tokens("num_token_paraphrased", number),
            self._tokens("num_token_paraphrased", number),
        )
        lengths = self._token_list("num_token_perturb", number, len(perturbed))
        wrong = tuple(AnswerScore(-one * size, size) for one, size in zip(perturbed, lengths, strict=True))
        return ScoredRow(
            id=row.id,
            fact=row.fact,
            group=row.group,
            set=self.name,
            answer=row.answer,
            choice_logps=(-loss * tokens, *(score.logp for score in wrong)),
            choice_lengths=(tokens, *(score.tokens for score in wrong)),
            right_choice=0,
            generated=self._generated(number),
            values={"probability": math.exp(-loss), **self._rouge(number)},
            variants={"paraphrased": (paraphrased,), "perturbed": wrong},
        )

    def _check_text(self, number: int, row: Example) -> None:
        text = self._text(number)
        if text is None:
            return
        said, true = _letters(text[0]), _letters(text[2])
        question, answer = _letters(row.prompt), _letters(row.answer)
        if question not in said or not true or not answer.startswith(true):
            raise RequestError(
                f"{self.where}.generated_text.{number} is about another row than {row.origin or row.id}: the log's "
                "rows and the suite's do not line up"
            )

    def _text(self, number: int) -> list[str] | None:
        texts = self.columns.get("generated_text")
        if not isinstance(texts, dict):
            return None
        text = texts.get(str(number))
        if not isinstance(text, list) or len(text) != 3 or not all(isinstance(part, str) for part in text):
            raise RequestError(f"{self.where}.generated_text.{number} must be prompt, continuation and answer")
        return text

    def _generated(self, number: int) -> str | None:
        text = self._text(number)
        return None if text is None else text[1]

    def _rouge(self, number: int) -> dict[str, float]:
        names = {"rougeL_recall": "rouge_l_stem", "rouge1_recall": "rouge_1_stem"}
        found = {ours: self.columns.get(theirs) for theirs, ours in names.items()}
        return {name: float(column[str(number)]) for name, column in found.items() if column and str(number) in column}

    def _loss(self, key: str, number: int) -> float:
        return self._number(self.columns[key].get(str(number)), f"{key}.{number}")

    def _losses(self, key: str, number: int) -> list[float]:
        values = self.columns[key].get(str(number))
        if not isinstance(values, list) or not values:
            raise RequestError(f"{self.where}.{key}.{number} must be a list of losses")
        return [self._number(value, f"{key}.{number}") for value in values]

    def _number(self, value: Any, key: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            said = "is missing" if value is None else f"is {value!r}, not a finite number"
            raise RequestError(f"{self.where}.{key} {said}: rows are counted from 0, one for each row of the set")
        return float(value)

    def _tokens(self, key: str, number: int) -> int:
        value = self.columns.get(key, {}).get(str(number), 1)
        return int(value)

    def _token_list(self, key: str, number: int, size: int) -> list[int]:
        values = self.columns.get(key, {}).get(str(number), [1] * size)
        if not isinstance(values, list) or len(values) != size:
            raise RequestError(f"{self.where}.{key}.{number} must be a list of {size} numbers")
        return [int(value) for value in values]


def _letters(text: str) -> str:
    """Letters and digits alone: tokenizers change spaces when they write text back."""
    return "".join(char for char in text.casefold() if char.isalnum())
