"""Retrain or unlearn: what a model that never saw the rows costs, beside unlearning and verifying one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..data.example import Example
from ..models.scratch import ScratchSpec
from .fixed import Seconds


@dataclass(frozen=True)
class Retraining:
    """What is known of training the target once more, without the rows to forget and those of earlier requests.

    Attributes:
        tokens: That its training goes through, all epochs together, where the user gave them.
        spec: How it is built from scratch, where the recipe says that.
        rows: What it then learns in each epoch.
        seconds: What this very model took when it was built here.
    """

    tokens: float | None = None
    spec: ScratchSpec | None = None
    rows: Sequence[Example] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Cost:
    """Seconds, and whether they were measured rather than planned."""

    seconds: Seconds
    measured: bool = False


@dataclass(frozen=True)
class Advice:
    """Whether to retrain or to unlearn, by what each costs.

    Attributes:
        better: ``unlearn`` or ``retrain``, whichever is cheaper by all figures; ``either`` where they overlap.
        requests_per_retraining: How many requests can be unlearned and verified for the cost of one retraining, at
            least and at most.
        retrain_seconds: Of one retraining, at least and at most.
        retrain_tokens: That it goes through.
        retrain_source: Where its tokens are from: ``the recipe`` or ``--retrain-tokens``.
        request_seconds: Of one request, at least and at most: the plan without the models that are built for it.
        unlearn_seconds: Of it, training the methods alone.
        earlier: Requests before this one. A retraining leaves out their rows too.
        measured: What was measured rather than planned: ``retraining``, ``request``.
        measured_in: Folder of the run that the request was measured in.
    """

    better: Literal["unlearn", "retrain", "either"]
    requests_per_retraining: Seconds
    retrain_seconds: Seconds
    retrain_tokens: float
    retrain_source: str
    request_seconds: Seconds
    unlearn_seconds: Seconds
    earlier: int = 0
    measured: tuple[str, ...] = ()
    measured_in: str | None = None


def requests_per_retraining(retraining: Cost, request: Cost) -> Seconds:
    """How many requests cost as much as one retraining, at least and at most.

    Where both are planned they are planned with the same rates: both are at their least, or both at their most. A
    measured time has no such bond with a planned one.
    """
    (r_least, r_most), (q_least, q_most) = retraining.seconds, request.seconds
    if retraining.measured == request.measured:
        pairs = (r_least / q_least, r_most / q_most)
    else:
        pairs = (r_least / q_most, r_most / q_least)
    return min(pairs), max(pairs)


def better_of(ratio: Seconds) -> Literal["unlearn", "retrain", "either"]:
    """What is cheaper, from :func:`requests_per_retraining`."""
    least, most = ratio
    return "unlearn" if least > 1 else "retrain" if most <= 1 else "either"
