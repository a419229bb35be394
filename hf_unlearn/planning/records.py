"""Bytes of what a run writes beside weights, at their most: records of rows, the report, its page and plots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..data.encoding import EncodedRow
from ..data.example import Example
from ..evaluation.records import AnswerScore, ScoredRow
from ..evaluation.spec import VARIANTS, SetRequest

FOLDER = 12 * 1024
"""Of a folder of records: its manifest, and blocks that are not full."""
MODEL_FOLDER = 48 * 1024
"""Of a model's folder: five small files beside weights and tokenizer, and what the weights' file says of them."""

_NUMBER = -0.1234567890123456
"""As long as numbers are in a record."""
_TOKEN_BYTES = 4
"""Of a token in text that is generated."""
_REPORT = 40_000
_REPORT_CELL = 10_000
"""Of the report, for a model under one transform or attack: scores, intervals, known facts."""
_PAGE = 150_000
_CARD = 30_000
_PLOTS = 450_000


@dataclass(frozen=True)
class Told:
    """Sizes of what is told of a run.

    Attributes:
        cells: Models times what they are scored under, attacks included.
    """

    cells: int

    @property
    def report(self) -> int:
        """``unlearning_report.json``."""
        return _REPORT + _REPORT_CELL * self.cells

    @property
    def page(self) -> int:
        """``report.html``."""
        return _PAGE + self.report

    @property
    def verified(self) -> int:
        """The report and the page of the run."""
        return self.report + self.page + FOLDER

    @property
    def published(self) -> int:
        """What a published folder of a variant has beside the model: its report and its card."""
        return self.report + _CARD + MODEL_FOLDER

    @property
    def plots(self) -> int:
        """One set of plots as pictures."""
        return _PLOTS


def records_bytes(rows: Iterable[tuple[Example, EncodedRow]], asked: SetRequest, layers: int) -> int:
    """Bytes of the records of some rows, as :func:`~hf_unlearn.evaluation.records.write_records` writes them.

    Args:
        rows: With their tokens.
        asked: What records hold.
        layers: Of the model.
    """
    return sum(len(_record(row, encoded, asked, layers).to_json().encode()) + 1 for row, encoded in rows)


def generated_bytes(new_tokens: int) -> int:
    """Text of so many tokens."""
    return _TOKEN_BYTES * new_tokens


def text_bytes(new_tokens: int) -> int:
    """A record of a row of generic text, with its continuation of so many tokens."""
    values = dict.fromkeys(("fluency", "nll", "kl_to_target"), _NUMBER)
    text = "x" * generated_bytes(new_tokens)
    return (
        len(
            ScoredRow(
                "generic-000000", "generic-000000", "generic-000000", "generic", generated=text, values=values
            ).to_json()
        )
        + 1
    )


def _record(row: Example, encoded: EncodedRow, asked: SetRequest, layers: int) -> ScoredRow:
    """A record as long as that of the row can be."""
    needs = asked.needs
    labels = (_NUMBER,) * (len(encoded.input_ids) - encoded.n_prompt)
    options = (_NUMBER,) * len(row.choices)
    text = "x" * generated_bytes(asked.max_new_tokens)
    return ScoredRow(
        id=row.id,
        fact=row.fact,
        group=row.group,
        set="holdout",
        logps=labels,
        hits=(False,) * len(labels),
        choice_logps=options,
        choice_lengths=(len(labels),) * len(options),
        answer=row.answer,
        generated=text if "generation" in needs else None,
        values=dict.fromkeys(asked.metrics, -_NUMBER),
        vocab_means=labels if "vocabulary" in needs else (),
        vocab_variances=labels if "vocabulary" in needs else (),
        variants={
            kind: (AnswerScore(_NUMBER, len(labels)),) * len(texts)
            for kind, texts in row.variants
            if VARIANTS + kind in needs
        },
        prior_logps=options if "prior" in needs else (),
        layer_logps=(_NUMBER,) * layers if "layers" in needs else (),
        grad_norm=-_NUMBER if "gradient" in needs else None,
        samples=(text,) * asked.sampling.count if asked.sampling else (),
        text=row.prompt + row.answer if "text" in needs else "",
    )
