"""Membership inference: can one still tell which texts the model was trained on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import RequestError
from ...verification.intervals import Bootstrap
from ...verification.scores import FactScores
from ..metrics.membership import LOWEST_SHARE, min_k_share, standardized
from ..records import ScoredRow
from . import AGGREGATES, AggregateInput, AggregateValue
from .auc import TwoSets
from .facts import fact_values, reference_rows, set_rows

_SETS: dict[str, Any] = {"forget": "forget", "holdout": "holdout"}
_WITH_K: dict[str, Any] = {**_SETS, "k": LOWEST_SHARE}
_FALSE_POSITIVES = (0.01, 0.05)
_NEEDS = ("sets:forget,holdout",)

#: From the records of one set, and whose they are, to one value per fact.
_Scorer = Callable[[Sequence[ScoredRow]], FactScores]


@AGGREGATES.register(
    "mia_loss",
    summary="membership inference by the loss: AUC, and TPR at 1 % and 5 % FPR",
    paper="Yeom et al., CSF 2018; arXiv 2112.03570 (TPR at low FPR)",
    defaults=_SETS,
    needs=_NEEDS,
    version=1,
)
def mia_loss(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``loss``."""
    return _by_metric(data, "mia_loss", "loss")


@AGGREGATES.register(
    "mia_zlib",
    summary="membership inference by the loss over the zlib length",
    paper="arXiv 2012.07805",
    defaults=_SETS,
    needs=_NEEDS,
    version=1,
)
def mia_zlib(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``zlib_ratio``."""
    return _by_metric(data, "mia_zlib", "zlib_ratio")


@AGGREGATES.register(
    "mia_min_k",
    summary="membership inference by the least likely tokens",
    paper="arXiv 2310.16789; 40 % as in arXiv 2407.06460",
    defaults=_WITH_K,
    needs=_NEEDS,
    version=1,
)
def mia_min_k(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``min_k`` with the share ``k``."""
    options = data.options("mia_min_k", _WITH_K)
    return separate(data, "mia_min_k", options, min_k_scorer("mia_min_k", options["k"]))


@AGGREGATES.register(
    "mia_min_k_plus_plus",
    summary="membership inference by the least likely tokens, standardized",
    paper="arXiv 2404.02936",
    defaults=_WITH_K,
    needs=(*_NEEDS, "vocabulary"),
    version=1,
)
def mia_min_k_plus_plus(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``min_k_plus_plus`` with the share ``k``."""
    name = "mia_min_k_plus_plus"
    options = data.options(name, _WITH_K)
    share = checked_share(name, options["k"])

    def scorer(rows: Sequence[ScoredRow]) -> FactScores:
        return fact_values(rows, name, "min_k_plus_plus", lambda row: min_k_share(standardized(row), share))

    return separate(data, name, options, scorer)


@AGGREGATES.register(
    "mia_grad_norm",
    summary="membership inference by the norm of the gradient",
    paper="arXiv 2402.17012",
    defaults=_SETS,
    needs=(*_NEEDS, "gradient"),
    version=1,
)
def mia_grad_norm(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``grad_norm``."""
    return _by_metric(data, "mia_grad_norm", "grad_norm")


@AGGREGATES.register(
    "mia_reference",
    summary="membership inference by the loss minus that of a reference model",
    paper="arXiv 2012.07805; the difference as in arXiv 2111.08440",
    defaults=_SETS,
    needs=(*_NEEDS, "reference"),
    version=1,
)
def mia_reference(data: AggregateInput) -> AggregateValue:
    """See :func:`separate`; the score is ``loss`` of the model minus ``loss`` of the reference on the same row."""
    name = "mia_reference"
    options = data.options(name, _SETS)
    check_two_sets(name, options)
    losses: dict[str, FactScores] = {}
    for split in (options["forget"], options["holdout"]):
        reference = fact_values(reference_rows(data, name, split), name, "loss")
        own = fact_values(set_rows(data, name, split), name, "loss")
        differences = {fact: value - reference.values[fact] for fact, value in own.values.items()}
        losses[split] = FactScores(differences, own.groups)
    return _compared(losses[options["forget"]], losses[options["holdout"]])


def separate(data: AggregateInput, name: str, options: dict[str, Any], scorer: _Scorer) -> AggregateValue:
    """AUC of a score between two sets.

    The AUC is the probability that a member's score is below that of another row, a tie counting one half:
    1 if members are all recognized, 0.5 if they are indistinguishable. Below 0.5 they are less likely than unseen
    rows, which gives them away too. Its details hold ``tpr_at_0.01`` and ``tpr_at_0.05``, the largest share of
    members that any threshold finds while taking at most 1 % or 5 % of the others for members, each with ``_low`` and
    ``_high`` (95 %), and the numbers of ``members`` and ``others`` (facts). With fewer than 100 others, 1 % of them
    means none.

    Args:
        data: Records.
        name: Name of the aggregate, for messages.
        options: Its settings, with ``forget`` and ``holdout`` naming two sets.
        scorer: Values per fact of a set, lower for members.

    Raises:
        RequestError: A set is missing, or a row has no value.
    """
    check_two_sets(name, options)
    members, others = (scorer(set_rows(data, name, options[key])) for key in ("forget", "holdout"))
    return _compared(members, others)


def min_k_scorer(name: str, share: Any) -> _Scorer:
    """Values of ``min_k`` with another share of tokens."""
    checked = checked_share(name, share)
    return lambda rows: fact_values(rows, name, "min_k", lambda row: min_k_share(row.logps, checked))


def checked_share(name: str, share: Any) -> float:
    """A share of tokens.

    Raises:
        RequestError: It is not above 0 and at most 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise RequestError(f"{name}.k is {share!r}: it must be a share of tokens above 0 and at most 1")
    return float(share)


def check_two_sets(name: str, options: dict[str, Any]) -> None:
    """Raise :class:`RequestError` where members and others are the same set."""
    if options["forget"] == options["holdout"]:
        raise RequestError(f"{name}.forget and {name}.holdout are both {options['forget']!r}: name two sets")


def _by_metric(data: AggregateInput, name: str, metric: str) -> AggregateValue:
    return separate(data, name, data.options(name, _SETS), lambda rows: fact_values(rows, name, metric))


def _compared(members: FactScores, others: FactScores) -> AggregateValue:
    sets = TwoSets(members, others, Bootstrap())
    details: dict[str, float] = {"members": len(members.values), "others": len(others.values)}
    for level in _FALSE_POSITIVES:
        key = f"tpr_at_{level}"
        details[key] = sets.tpr(level)
        interval = sets.tpr_interval(level)
        if interval is not None:
            details[f"{key}_low"], details[f"{key}_high"] = interval
    return AggregateValue(sets.auc(), sets.n, sets.auc_interval(), details)
