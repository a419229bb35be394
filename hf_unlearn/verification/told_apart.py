"""How well a model alone tells the rows that it was made to forget from rows that nobody taught it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .typed_json import Schema
from .values import Count, Interval

Signal = Literal["loss", "entropy", "refusals"]
Auc = Annotated[float, Schema(minimum=0, maximum=1)]


@dataclass(frozen=True)
class SignalAuc:
    """What one signal says: part of a row of the report.

    Attributes:
        signal: ``loss`` of the answer, mean ``entropy`` of the next token along the answer, or whether the generated
            answer is one of ``refusals``.
        auc: Probability that a forgotten fact has the lower value than a holdout fact, ties counting one half: above
            0.5 if forgotten facts have the lower loss, the lower entropy, or fewer refusals.
        ci95: Its interval, which holds together with those of the other signals.
    """

    signal: Signal
    auc: Auc
    ci95: Interval = None


@dataclass(frozen=True)
class ToldApart:
    """What all signals of one model under one transform say.

    Attributes:
        auc: The largest two-sided AUC, ``max(A, 1 - A)``, over the signals: 0.5 if forgotten rows look like any
            others.
        ci95: Its interval, at the confidence that was asked for; ``None`` with fewer than 10 groups in a set.
        n: Facts of both sets.
        signals: The signals, one-sided.
    """

    auc: float
    ci95: Interval
    n: Count
    signals: tuple[SignalAuc, ...]
