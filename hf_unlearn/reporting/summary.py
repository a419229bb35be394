"""The verdict in one or two plain sentences."""

from __future__ import annotations

from ..verification.report_rows import Share
from .reasons import grouped_reasons
from .results import Results
from .words import listed, metric_phrase, show


def summarize(results: Results) -> str:
    """What happened, for somebody who reads nothing else.

    Args:
        results: The report that was read.

    Returns:
        Up to three sentences made of numbers in the report.
    """
    release = results.release
    if release is None:
        return f"The verdict is {results.status}; the report names no release candidate."
    if results.status == "passed":
        return _passed(results, release.name)
    if results.status == "failed":
        return _failed(results, release.name)
    if results.status == "inconclusive":
        return _inconclusive(results, release.name)
    return f"The verdict on {release.name} is {results.status}."


def warning(results: Results) -> str:
    """Why no verdict of this run can be trusted; empty if all controls came out as they must."""
    wrong = list(results.wrong_controls)
    if not wrong:
        return ""
    return (
        f"Do not rely on this verdict: the run tests itself on models whose verdict is known beforehand, and "
        f"{listed(wrong)} did not come out as {'it' if len(wrong) == 1 else 'they'} must."
    )


def _passed(results: Results, model: str) -> str:
    judged = {share.transform for share in results.shares(model) if share.is_judged}
    forms = f"all {len(judged)} forms it was judged in" if len(judged) > 1 else "the one form it was judged in"
    top = results.largest_share(model)
    most = f" Most came back {results.where(top.transform)}: {_share_words(top)}." if top else ""
    return (
        f"{model} forgot what it had to: in {forms} no more of the forgotten facts came back than the gate allows, "
        f"and it kept what it had to keep.{most}{_before_and_after(results, model)}"
    )


def _failed(results: Results, model: str) -> str:
    failed = [share for share in results.shares(model) if share.status == "failed" and share.share is not None]
    back = [share for share in failed if share.limit is not None and (share.share or 0) > share.limit]
    over = [share for share in failed if share not in back]
    lost = next((row for row in results.utility(model) if row.status == "failed"), None)
    if back:
        top = max(back, key=lambda share: share.share or 0)
        kept = " It also lost too much of what it had to keep." if lost else ""
        return f"{model} did not forget for good: {_came_back(results, top)}{_before_and_after(results, model)}{kept}"
    if lost:
        why = lost.reason or f"{lost.kind.replace('_', ' ').replace('kl', 'KL')} is out of bounds."
        return f"{model} lost too much of what it had to keep ({results.transform_label(lost.transform)}): {why}"
    if over:
        low = min(over, key=lambda share: share.share or 0)
        return (
            f"{model} pushed the answers below what a model that never knew them gives, which marks them: recovered "
            f"share {show(low.share)} in {metric_phrase(low.metric)} ({results.transform_label(low.transform)})."
        )
    return f"{model} did not pass: {_first_reason(results, model)}"


def _came_back(results: Results, share: Share) -> str:
    there = "still there" if share.transform == "identity" else "back"
    where = results.where(share.transform)
    return f"{where}, {_part(share.share or 0.0)} of what had to go is {there} ({_share_words(share)})."


def _share_words(share: Share) -> str:
    limit = "" if share.limit is None else f"; the gate allows {show(share.limit, 2)}"
    return f"recovered share {show(share.share)} by {metric_phrase(share.metric)}{limit}"


def _part(share: float) -> str:
    """A share as a whole percentage."""
    return "all" if share >= 0.995 else f"{100 * share:.0f} %"


def _inconclusive(results: Results, model: str) -> str:
    open_shares = [share for share in results.shares(model) if share.status == "inconclusive"]
    why = _first_reason(results, model)
    if open_shares and why not in results.reasons:
        why = "some intervals reach over the limits of the gate"
    needed = [share.more_needed for share in open_shares if share.more_needed is not None]
    more = f" About {max(needed)} more facts would settle it." if needed else ""
    after = _before_and_after(results, model)
    return f"The measurements do not settle whether {model} forgot: {why.rstrip('.')}.{more}{after}"


def _first_reason(results: Results, model: str) -> str:
    reasons = grouped_reasons(results, model, results.reasons)
    return reasons[0] if reasons else "the report gives no reason"


def _before_and_after(results: Results, model: str) -> str:
    metric = results.headline
    after = results.score(model, "identity", "forget", metric)
    before = results.score("target", "identity", "forget", metric)
    if after is None or before is None:
        return ""
    never = results.score("never_knew", "identity", "forget", metric)
    beside = f"; a model that never knew has {show(never.value)}" if never else ""
    change = f"went from {show(before.value)} to {show(after.value)}"
    return f" As it stands, its forget {metric_phrase(metric)} {change}{beside}."
