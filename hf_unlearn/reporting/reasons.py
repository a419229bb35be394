"""Why a verdict is what it is, one line for what is the same under several transforms."""

from __future__ import annotations

from collections.abc import Sequence

from ..verification.report_rows import Share, Transform, Utility
from .results import Results
from .words import listed, metric_phrase, show


def grouped_reasons(results: Results, model: str, reasons: Sequence[str]) -> list[str]:
    """The reasons of a verdict, the most telling first.

    Sentences of the report that say why a recovered share or a utility number did not pass are said again, from the
    same numbers, once for all transforms that share them. All other sentences are left as they are.

    Args:
        results: The report that was read.
        model: The judged model.
        reasons: Its reasons as the report has them.

    Returns:
        One sentence each.
    """
    shares = [share for share in results.shares(model) if share.is_judged]
    utility = list(results.utility(model))
    everything: list[Share | Utility] = [*shares, *utility]
    rows = [row for row in everything if row.status in ("failed", "inconclusive")]
    own = [reason for reason in reasons if not _is_about(results, reason, rows)]
    if len(own) == len(reasons):
        return list(reasons)
    # What stands first in the report, such as a never-knew model that knows, outweighs all numbers.
    leading = own[: next(i for i, reason in enumerate(reasons) if reason not in own)]
    failed = [share for share in shares if share.status == "failed"]
    return [
        *leading,
        *_share_groups(results, [share for share in failed if not share.over_forgotten]),
        *_share_groups(results, [share for share in failed if share.over_forgotten]),
        *_utility_groups(results, [row for row in utility if row.status == "failed"]),
        *own[len(leading) :],
        *_share_groups(results, [share for share in shares if share.status == "inconclusive"]),
        *_utility_groups(results, [row for row in utility if row.status == "inconclusive"]),
    ]


def where_words(results: Results, names: Sequence[str]) -> str:
    """Transforms within a sentence: ``as it stands and in all 5 formats``, ``in bnb-nf4 and bnb-fp4``."""
    wanted = set(names)
    chosen = [transform for transform in results.transforms if transform.name in wanted]
    parts = [transform.where for transform in chosen if transform.kind == "identity"]
    for kind, preposition, plural in (("format", "in", "formats"), ("attack", "after", "attacks")):
        some = [transform for transform in chosen if transform.kind == kind]
        every = [transform for transform in results.transforms if transform.kind == kind]
        if len(some) > 2 and len(some) == len(every):
            parts.append(f"{preposition} all {len(some)} {plural}")
        elif some:
            parts.append(f"{preposition} {listed([transform.name for transform in some])}")
    known = {transform.name for transform in chosen}
    parts += [results.where(name) for name in dict.fromkeys(names) if name not in known]
    return listed(parts)


def _is_about(results: Results, reason: str, rows: Sequence[Share | Utility]) -> bool:
    return any(
        row.reason and row.reason in reason and reason.startswith(_prefix(results, row.transform)) for row in rows
    )


def _prefix(results: Results, name: str) -> str:
    kinds = {transform.name: transform.kind for transform in results.transforms}
    return "As it stands: " if kinds.get(name) == "identity" else f"{name}: "


def _share_groups(results: Results, shares: Sequence[Share]) -> list[str]:
    """One sentence for all transforms that did not pass in the same metrics."""
    by_transform: dict[str, list[Share]] = {}
    for share in shares:
        by_transform.setdefault(share.transform, []).append(share)
    groups: dict[tuple[object, ...], list[Share]] = {}
    for name, rows in by_transform.items():
        attacked = _transform(results, name).kind == "attack"
        groups.setdefault((attacked, *sorted(row.metric for row in rows)), []).extend(rows)
    weight = {key: max(abs(row.share or 0.0) for row in rows) for key, rows in groups.items()}
    return [_share_sentence(results, groups[key]) for key in sorted(groups, key=lambda key: -weight[key])]


def _share_sentence(results: Results, rows: Sequence[Share]) -> str:
    where = where_words(results, [row.transform for row in rows])
    by_metric: dict[str, list[Share]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    order = sorted(by_metric, key=lambda name: -max(abs(row.share or 0.0) for row in by_metric[name]))
    amounts = [f"{metric_phrase(name)} {_amount(by_metric[name])}" for name in order]
    first = rows[0]
    if first.status == "inconclusive":
        needed = [row.more_needed for row in rows if row.more_needed is not None]
        more = f"; about {max(needed)} more facts would settle it" if needed else ""
        what = f"not settled whether the forgotten facts are gone: recovered share by {listed(amounts)}{more}"
    elif first.over_forgotten:
        what = f"the answers lie below a model that never knew, which marks them: recovered share by {listed(amounts)}"
    else:
        back = "is back" if any(_transform(results, row.transform).kind == "attack" for row in rows) else "is there"
        what = f"forgotten knowledge {back}: recovered share by {listed(amounts)}"
    limit = "" if first.over_forgotten or first.limit is None else f" (at most {show(first.limit, 2)} allowed)"
    return f"{where[:1].upper()}{where[1:]}, {what}{limit}."


def _amount(rows: Sequence[Share]) -> str:
    """One share with its interval, or the span of several."""
    if len(rows) == 1:
        row = rows[0]
        ends = "" if row.low is None or row.high is None else f" [{show(row.low, 2)}, {show(row.high, 2)}]"
        return f"{show(row.share, 2)}{ends}"
    return _span([row.share for row in rows])


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    low, high = show(min(known), 2), show(max(known), 2)
    return low if low == high else f"{low} to {high}"


def _utility_groups(results: Results, rows: Sequence[Utility]) -> list[str]:
    """One sentence for each utility check that did not pass."""
    groups: dict[tuple[str, str], list[Utility]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.metric), []).append(row)
    return [_utility_sentence(results, group) for group in groups.values()]


def _utility_sentence(results: Results, rows: Sequence[Utility]) -> str:
    where = where_words(results, [row.transform for row in rows])
    first = rows[0]
    start = f"{where[:1].upper()}{where[1:]}, "
    if any(row.shown is None for row in rows) or first.threshold is None:
        return start + " ".join(dict.fromkeys(row.reason for row in rows if row.reason))
    span = _span([row.shown for row in rows])
    if first.is_ceiling:
        return f"{start}the KL to the target on generic text is {span} (at most {show(first.threshold, 2)} allowed)."
    what = f"the retain {metric_phrase(first.metric)}" if first.kind == "retain_score" else metric_phrase(first.metric)
    return f"{start}{what} is only {span} of the target's (at least {show(first.threshold, 2)} needed)."


def _transform(results: Results, name: str) -> Transform:
    return next(transform for transform in results.transforms if transform.name == name)
