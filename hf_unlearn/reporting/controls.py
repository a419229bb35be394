"""What a control shows, in words."""

from __future__ import annotations

from ..verification.report_rows import Subject
from .results import Results
from .words import listed, metric_phrase, show

_INFINITIVES = {"passed": "pass", "failed": "fail"}


def control_sentence(results: Results, control: Subject) -> str:
    """Whether a control came out as it must, and what that shows."""
    if control.status is None:
        return f"{control.name} was not judged"
    return f"{control.name} {control.status}, {_outcome(control)}: {control_meaning(results, control)}"


def control_note(control: Subject) -> str:
    """The same in two or three words, for a table."""
    if control.as_expected is None:
        return ""
    if control.as_expected:
        return "as it must"
    if control.status != control.expected:
        return f"must {_INFINITIVES.get(control.expected or '', 'differ')}"
    return "not caught" if _missing(control) else "no proof"


def control_meaning(results: Results, control: Subject) -> str:
    """What the outcome of a control says about the tests themselves."""
    if control.status is None:
        return "it was not judged"
    if control.expected == "passed":
        return _negative(results, control)
    return _positive(results, control)


def caught_by(results: Results, control: Subject) -> tuple[str, ...]:
    """What caught a control, the largest recovered share first."""

    def size(name: str) -> float:
        share = results.largest_share(control.name, name)
        return -(share.share or 0.0) if share else 0.0

    return tuple(sorted(control.caught_by, key=size))


def _outcome(control: Subject) -> str:
    if control.as_expected:
        return "as it must"
    if control.status != control.expected:
        return f"but must {_INFINITIVES.get(control.expected or '', 'come out otherwise')}"
    return "but not as it must"


def _negative(results: Results, control: Subject) -> str:
    if control.status == "passed":
        return "the tests do not accuse a model that has nothing to hide"
    if control.caught_by:
        found = listed([results.transform_label(name) for name in caught_by(results, control)])
        return f"the tests find knowledge where there is none ({found})"
    if control.status == "failed":
        return "it has nothing to hide, and failed for something else than knowledge"
    return "the numbers do not clear a model that has nothing to hide"


def _positive(results: Results, control: Subject) -> str:
    missing = _missing(control)
    if control.status == "failed" and not control.caught_by:
        return "the tests do not find what is left in it; it failed for something else"
    if control.status == "failed" and missing:
        where = listed([results.where(name) for name in missing])
        other = f", only {listed([results.where(name) for name in control.caught_by])}"
        return f"the tests do not find what is left in it {where}{other}"
    if control.status != "failed":
        return "the tests do not find what is left in it"
    found = f"what is left in it is found {_best(results, control)}"
    if control.as_expected:
        return found
    looks = _looks(results, control)
    return f"{found}, but that proves little, because as it stands it does not look forgotten and useful{looks}"


def _missing(control: Subject) -> list[str]:
    return [name for name in control.required_by if name not in control.caught_by]


def _best(results: Results, control: Subject) -> str:
    """Where most of it was found, among the transforms that had to find it, beside the model as it stands."""
    first = [name for name in caught_by(results, control) if name in (control.required_by or control.caught_by)]
    share = results.largest_share(control.name, first[0])
    if share is None:
        return results.where(first[0])
    plain = next(
        (row for row in results.shares(control.name) if (row.transform, row.metric) == ("identity", share.metric)),
        None,
    )
    beside = f", {show(plain.share, 2)} as it stands" if plain and plain != share else ""
    by = metric_phrase(share.metric)
    return f"{results.where(first[0])} (recovered share {show(share.share, 2)} by {by}{beside})"


def _looks(results: Results, control: Subject) -> str:
    metric = "exact_match" if results.was_scored(control.name, "forget", "exact_match") else results.headline
    scores = [
        f"{split} {metric_phrase(metric)} {show(score.value, 2)}"
        for split in ("forget", "retain")
        if (score := results.score(control.name, "identity", split, metric))
    ]
    return f" ({listed(scores)})" if scores else ""
