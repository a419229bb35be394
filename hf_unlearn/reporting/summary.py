"""The verdict in one or two plain sentences."""

from __future__ import annotations

from .results import Results
from .rows import Share
from .words import metric_label, show


def summarize(results: Results) -> str:
    """What happened, for somebody who reads nothing else.

    Args:
        results: The report that was read.

    Returns:
        One or two sentences made of numbers in the report.
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


def _passed(results: Results, model: str) -> str:
    judged = {share.transform for share in results.shares(model)}
    forms = f"all {len(judged)} forms it was judged in" if len(judged) > 1 else "the one form it was judged in"
    return (
        f"{model} forgot what it had to: in {forms} no more of the forgotten facts came back than the gate allows, "
        f"and it kept what it had to keep.{_before_and_after(results, model)}"
    )


def _failed(results: Results, model: str) -> str:
    failed = [share for share in results.shares(model) if share.status == "failed" and share.share is not None]
    back = [share for share in failed if share.limit is not None and (share.share or 0) > share.limit]
    over = [share for share in failed if share not in back]
    if back:
        top = max(back, key=lambda share: share.share or 0)
        return f"{model} did not forget for good: {_came_back(results, top)}{_before_and_after(results, model)}"
    lost = [row for row in results.utility(model) if row.get("status") == "failed"]
    if lost:
        where = results.transform_label(str(lost[0].get("transform")))
        kind = str(lost[0].get("kind", "utility")).replace("_", " ").replace("kl", "KL")
        why = str(lost[0].get("reason") or f"{kind} is out of bounds.")
        return f"{model} lost too much of what it had to keep ({where}): {why}"
    if over:
        low = min(over, key=lambda share: share.share or 0)
        return (
            f"{model} pushed the answers below what a model that never knew them gives, which marks them: recovered "
            f"share {show(low.share)} in {metric_label(low.metric)} ({results.transform_label(low.transform)})."
        )
    return f"{model} did not pass: {_first_reason(results)}"


def _came_back(results: Results, share: Share) -> str:
    kind = {known.name: known.kind for known in results.transforms}[share.transform]
    phrases = {
        "identity": "{0} of what had to go is still there as trained",
        "format": "in {1}, {0} of what had to go is back",
        "attack": "after {1}, {0} of what had to go is back",
    }
    what = phrases[kind].format(show(share.share), share.transform)
    return f"{what} (recovered share, {metric_label(share.metric)}), and the gate allows at most {show(share.limit)}."


def _inconclusive(results: Results, model: str) -> str:
    open_shares = [share for share in results.shares(model) if share.status == "inconclusive"]
    why = "some intervals reach over the limits of the gate" if open_shares else _first_reason(results)
    needed = [share.more_needed for share in open_shares if share.more_needed is not None]
    more = f" About {max(needed)} more facts would settle it." if needed else ""
    after = _before_and_after(results, model)
    return f"The measurements do not settle whether {model} forgot: {why.rstrip('.')}.{more}{after}"


def _first_reason(results: Results) -> str:
    return results.reasons[0] if results.reasons else "the report gives no reason"


def _before_and_after(results: Results, model: str) -> str:
    metric = results.headline
    after = results.score(model, "identity", "forget", metric)
    before = results.score("target", "identity", "forget", metric)
    if after is None or before is None:
        return ""
    never = results.score("never_knew", "identity", "forget", metric)
    beside = f"; a model that never knew has {show(never.value)}" if never else ""
    change = f"went from {show(before.value)} to {show(after.value)}"
    return f" As trained, its forget {metric_label(metric)} {change}{beside}."
