"""Which rows were forgotten? A question that the unlearned model may answer by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...errors import RequestError
from ...verification.intervals import Bootstrap
from ...verification.scores import FactScores
from ...verification.told_apart import Signal, SignalAuc, ToldApart
from ..records import ScoredRow
from . import AGGREGATES, AggregateInput, AggregateValue
from .auc import TwoSets
from .facts import set_rows
from .membership import check_two_sets

_SETS: dict[str, Any] = {"forget": "forget", "holdout": "holdout"}

_REFUSAL = re.compile(
    r"\bI\s*(?:do not|don't|cannot|can't|can not|am not|'m not|am unable|'m unable|have no\b|have not|haven't|"
    r"have never|'ve never|would have to guess|would rather)|known to me\b|nothing I can say|"
    r"my knowledge|no answer|no information|sorry|unable to answer|not aware of|unfamiliar|something I cannot",
    re.IGNORECASE,
)


@AGGREGATES.register(
    "forgotten_rows",
    summary="how well the model alone tells forgotten rows from rows it never saw, by loss, entropy and refusals",
    paper="this project; the question is that of arXiv 2609.03662",
    defaults=_SETS,
    needs=("sets:forget,holdout", "vocabulary"),
    version=1,
)
def forgotten_rows(data: AggregateInput) -> AggregateValue:
    """The largest two-sided AUC, ``max(A, 1 - A)``, over three signals: 0.5 if forgotten rows look like any others.

    The signals are the loss, the mean entropy of the next token along the answer, and whether the generated answer is
    a refusal; the last only where there are generated answers. Two-sided, because an answer that is far less likely
    than one that was never learned gives the row away as surely as one that is still known. The holdout rows must be
    of the same kind as the forget rows; otherwise the sets differ without any unlearning.

    Details hold the AUC of each signal, ``loss``, ``entropy`` and ``refusals``, one-sided: above 0.5 if forgotten rows
    have the lower loss, the lower entropy, or fewer refusals; each with ``_low`` and ``_high``. These intervals hold
    together (95 % over all signals), and the interval of the value is what they leave for the largest.

    Raises:
        RequestError: A set is missing, or a row has no log-probabilities or no entropy.
    """
    name = "forgotten_rows"
    options = data.options(name, _SETS)
    check_two_sets(name, options)
    forget, holdout = (set_rows(data, name, options[key]) for key in ("forget", "holdout"))
    found = _tell_apart(forget, holdout, ("loss", "entropy", *_refusals(forget, holdout)), Bootstrap())
    details: dict[str, float] = {}
    for each in found.signals:
        details[each.signal] = each.auc
        if each.ci95 is not None:
            details[f"{each.signal}_low"], details[f"{each.signal}_high"] = each.ci95
    return AggregateValue(found.auc, found.n, found.ci95, details)


def tell_apart(forget: Sequence[ScoredRow], holdout: Sequence[ScoredRow], settings: Bootstrap) -> ToldApart | None:
    """The same by the signals that both sets have, at any confidence.

    Args:
        forget: Records of rows to forget.
        holdout: Records of rows of the same kind that no model was trained on.
        settings: How the intervals are made; they hold together at this confidence.

    Returns:
        ``None`` where a set is empty or has no log-probabilities.
    """
    if not all(rows and all(row.logps for row in rows) for rows in (forget, holdout)):
        return None
    entropy: tuple[Signal, ...] = ("entropy",) if all(row.vocab_means for row in (*forget, *holdout)) else ()
    return _tell_apart(forget, holdout, ("loss", *entropy, *_refusals(forget, holdout)), settings)


def _tell_apart(
    forget: Sequence[ScoredRow], holdout: Sequence[ScoredRow], signals: Sequence[Signal], settings: Bootstrap
) -> ToldApart:
    level = 1 - (1 - settings.confidence) / len(signals)
    asked, bounds, counted = [], [], 0
    for signal in signals:
        sets = TwoSets(_per_fact(forget, signal), _per_fact(holdout, signal), replace(settings, confidence=level))
        interval = sets.auc_interval()
        asked.append(SignalAuc(signal, sets.auc(), interval))
        counted = max(counted, sets.n)
        bounds += [] if interval is None else [fold(*interval)]
    joint = (max(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None
    return ToldApart(max(max(each.auc, 1 - each.auc) for each in asked), joint, counted, tuple(asked))


def fold(low: float, high: float) -> tuple[float, float]:
    """An interval of an AUC as one of its two-sided form, from 0.5 to 1."""
    ends = max(low, 1 - low), max(high, 1 - high)
    return (0.5 if low <= 0.5 <= high else min(ends)), max(ends)


def is_refusal(text: str) -> bool:
    """Whether a generated answer declines to answer, by the words that refusals in plain English have."""
    return _REFUSAL.search(text) is not None


def _loss(row: ScoredRow) -> float | None:
    return -math.fsum(row.logps) / len(row.logps) if row.logps else None


def _entropy(row: ScoredRow) -> float | None:
    return -math.fsum(row.vocab_means) / len(row.vocab_means) if row.vocab_means else None


def _refusal(row: ScoredRow) -> float | None:
    return None if row.generated is None else float(is_refusal(row.generated))


_SIGNALS: dict[Signal, Callable[[ScoredRow], float | None]] = {
    "loss": _loss,
    "entropy": _entropy,
    "refusals": _refusal,
}


def _refusals(*sets: Sequence[ScoredRow]) -> tuple[Signal, ...]:
    """The signal of refusals, where both sets have generated answers."""
    return ("refusals",) if all(any(row.generated is not None for row in rows) for rows in sets) else ()


def _per_fact(rows: Sequence[ScoredRow], signal: Signal) -> FactScores:
    values: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        found = _SIGNALS[signal](row)
        if found is None:
            if signal == "refusals":  # a run may generate for some rows only
                continue
            raise RequestError(
                f"forgotten_rows: row {row.id!r} of the set {row.set!r} has no {signal}: its record must hold"
                " log-probabilities and those of the vocabulary"
            )
        values.setdefault(row.fact, []).append(found)
        groups[row.fact] = row.group
    return FactScores({fact: math.fsum(found) / len(found) for fact, found in values.items()}, groups)
