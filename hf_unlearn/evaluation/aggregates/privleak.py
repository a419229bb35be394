"""PrivLeak (MUSE): does membership inference see the forget set as it sees what was never trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import RequestError
from ...verification.intervals import Bootstrap, expanded_percentiles
from ..metrics.membership import LOWEST_SHARE
from ..records import ScoredRow
from . import AGGREGATES, AggregateInput, AggregateValue
from .auc import TwoSets
from .facts import reference_rows, set_rows
from .membership import check_two_sets, min_k_scorer

_DEFAULTS: dict[str, Any] = {"forget": "forget", "holdout": "holdout", "k": LOWEST_SHARE, "reference_auc": None}


@AGGREGATES.register(
    "privleak",
    summary="relative difference of the membership AUC (min-k, 40 %) from that of a retrained model, in percent",
    paper="arXiv 2407.06460, section 3.2",
    defaults=_DEFAULTS,
    needs=("sets:forget,holdout",),
    version=1,
)
def privleak(data: AggregateInput) -> AggregateValue:
    """``100 * (A - A_reference) / A_reference`` with ``A = 1 - AUC`` of ``mia_min_k``. The best value is 0.

    MUSE takes the holdout set for the positive class, so that its AUC, ``A`` here, is near 0 if the forget set is
    recognized. A model that did not forget is far below 0 (-100 at most), one that forgot so hard that the forget
    set stands out again is above 0. The divisor is the retrained model's AUC, as in MUSE; arXiv 2410.16454 writes
    the unlearned model's and computes with the retrained one's.

    ``A_reference`` is measured on the reference, a model trained without the forget set, over the same rows. Without
    a reference it is the setting ``reference_auc``, in MUSE's orientation (0.4772 for its news and 0.5393 for its
    books, with its retrained models); it then has no share in the interval. Details hold ``auc`` and
    ``reference_auc``, both in MUSE's orientation, and whether the latter was ``measured`` (1 or 0).

    Raises:
        RequestError: There is neither a reference nor ``reference_auc``, a set is missing, or rows do not line up.
    """
    options = data.options("privleak", _DEFAULTS)
    check_two_sets("privleak", options)
    members, others = options["forget"], options["holdout"]
    ours = _two_sets(options, set_rows(data, "privleak", members), set_rows(data, "privleak", others))
    theirs = None
    if data.reference is not None:
        theirs = _two_sets(
            options, reference_rows(data, "privleak", members), reference_rows(data, "privleak", others)
        )
    reference = _given(options["reference_auc"]) if theirs is None else 1 - theirs.auc()
    if reference == 0:
        raise RequestError(
            "privleak is not defined: the reference model's AUC is 0, so it recognizes every row of the set "
            f"{members!r} and was not trained without it"
        )
    value = 100 * ((1 - ours.auc()) / reference - 1)
    details = {"auc": 1 - ours.auc(), "reference_auc": reference, "measured": float(theirs is not None)}
    return AggregateValue(value, ours.n, _interval(ours, theirs, reference), details)


def _two_sets(options: dict[str, Any], members: Sequence[ScoredRow], others: Sequence[ScoredRow]) -> TwoSets:
    scorer = min_k_scorer("privleak", options["k"])
    return TwoSets(scorer(members), scorer(others), Bootstrap())


def _given(auc: Any) -> float:
    if auc is None:
        raise RequestError(
            "privleak needs the AUC of a model trained without the forget set: give that model as the reference, or "
            "its AUC as the setting reference_auc (MUSE publishes 0.4772 for news and 0.5393 for books)"
        )
    if isinstance(auc, bool) or not isinstance(auc, int | float) or not 0 < auc <= 1:
        raise RequestError(f"privleak.reference_auc is {auc!r}: it must be above 0 and at most 1")
    return float(auc)


def _interval(ours: TwoSets, theirs: TwoSets | None, given: float) -> tuple[float, float] | None:
    """Interval of the ratio; both models' AUCs come from the same resamples of rows."""
    interval = ours.auc_interval()
    if interval is None:
        return None
    low, high = (100 * ((1 - auc) / given - 1) for auc in reversed(interval))
    if theirs is None:
        return low, high
    draws, reference = ours.auc_draws(), theirs.auc_draws()
    if draws is None or reference is None or not (reference < 1).all():
        return None
    both = expanded_percentiles(100 * ((1 - draws) / (1 - reference) - 1), ours.groups, ours.settings.confidence)
    # Where one model separates the sets entirely, no resample says how sure that is: the model's own interval does.
    return (min(low, both[0]), max(high, both[1])) if ours.auc() in (0, 1) else both
