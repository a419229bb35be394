"""Single facts that are still known, for people: how many, where, and which by salted id. Never a text."""

from __future__ import annotations

from collections.abc import Sequence

from ..verification.references import IDENTITY
from ..verification.single_facts import KnownFactsRow
from .results import Results, severity
from .words import metric_phrase, p_value, show

_SHOWN_IDS = 12


def counts_to_show(results: Results, model: str) -> list[KnownFactsRow]:
    """One count per transform, in their order.

    Of several metrics the one with the worst verdict is shown, and among those the one with the most known facts. A
    count that is not judged is shown only where it is above what a model that never knew shows.

    Args:
        results: The report that was read.
        model: The judged model.

    Returns:
        The counts; empty for a report from before they were made.
    """
    worst: dict[str, KnownFactsRow] = {}
    for row in results.known_facts(model):
        if not _is_telling(row):
            continue
        other = worst.get(row.transform)
        if other is None or _weight(row) > _weight(other):
            worst[row.transform] = row
    return list(worst.values())


def known_facts_sentence(results: Results, model: str) -> str:
    """``4 of 74 facts are still known as it stands; in bnb-nf4 7 (at most 1 allowed).``; empty for an older report.

    Args:
        results: The report that was read.
        model: The judged model.
    """
    rows = counts_to_show(results, model)
    if not rows:
        return ""
    most = max(rows, key=_weight)
    first = next((row for row in rows if row.transform == IDENTITY), most)
    if most.known == 0:
        return f"None of {most.n} facts is still known{_everywhere(rows)}."
    text = f"{_amount(first)} still known {results.where(first.transform)}"
    if most is not first and _weight(most) > _weight(first):
        of = f" of {most.n}" if most.n != first.n else ""
        text += f"; {results.where(most.transform)} {most.known}{of}"
    elif len(rows) > 1:
        text += ", and nowhere more"
    return f"{text}{_bound(most)}."


def anti_known_sentence(results: Results, model: str) -> str:
    """How many facts lie far below the never-knew model, where these are more than chance makes; empty otherwise."""
    rows = [row for row in results.known_facts(model) if _is_pushed(row)]
    if not rows:
        return ""
    row = max(rows, key=lambda each: (each.anti_known or 0) - (each.anti_known_by_chance or 0))
    return (
        f"{row.anti_known} of {row.n} facts are anti-known {results.where(row.transform)} by "
        f"{metric_phrase(row.metric)} ({show(row.anti_known_by_chance, 1)} expected by chance): a score so far below "
        "that of a model that never knew tells that the fact was in the forget set."
    )


def allowed_words(row: KnownFactsRow) -> str:
    """How many known facts are allowed, for a table: a number, or the p value by which fewer are too many."""
    if row.status == "failed" and not _is_over(row):
        return f"p {p_value(row.known_p)}"
    return "not judged" if row.allowed is None else str(row.allowed)


def limit_phrase(row: KnownFactsRow) -> str:
    """What one count is held against, within a sentence; ``not judged`` where it is held against nothing."""
    return "not judged" if row.allowed is None and row.status != "failed" else bound_words([row])


def bound_words(rows: Sequence[KnownFactsRow]) -> str:
    """What these counts are held against: the number that is allowed, or what chance makes."""
    allowed = sorted({row.allowed for row in rows if row.allowed is not None})
    if rows[0].status == "failed" and not all(map(_is_over, rows)):
        largest = max((row.known_p for row in rows if row.known_p is not None), default=None)
        return f"more than a model that never knew shows, p {p_value(largest)}"
    most = "–" if not allowed else " to ".join(map(str, dict.fromkeys((allowed[0], allowed[-1]))))
    return f"at most {most} allowed"


def salted_ids(row: KnownFactsRow) -> str:
    """The salted ids of the known facts, the first dozen of many."""
    more = len(row.facts) - _SHOWN_IDS
    return ", ".join(row.facts[:_SHOWN_IDS]) + (f" and {more} more in the report" if more > 0 else "")


def _is_over(row: KnownFactsRow) -> bool:
    """Whether the number alone is too large. Fewer facts can be too much where all of them are known for sure."""
    return row.allowed is not None and (row.known or 0) > row.allowed


def _is_pushed(row: KnownFactsRow) -> bool:
    """Whether more facts are anti-known than chance makes; older reports have no p value."""
    more = (row.anti_known or 0) > (row.anti_known_by_chance or 0)
    return more and (row.anti_known_p is None or row.anti_known_p <= 0.025)


def _is_telling(row: KnownFactsRow) -> bool:
    return row.known is not None and (row.status != "reported" or row.known > (row.by_chance or 0))


def _weight(row: KnownFactsRow) -> tuple[int, int]:
    return severity(row.status), row.known or 0


def _amount(row: KnownFactsRow) -> str:
    return f"{row.known} of {row.n} facts {'is' if row.known == 1 else 'are'}"


def _everywhere(rows: list[KnownFactsRow]) -> str:
    return f", in any of {len(rows)} forms" if len(rows) > 1 else ""


def _bound(row: KnownFactsRow) -> str:
    if limit_phrase(row) == "not judged":
        return f" (not judged: a model that never knew shows about {show(row.by_chance, 1)})"
    return f" ({bound_words([row])})"
