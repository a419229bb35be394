"""Earlier deletion requests for people: a ledger with one entry each. Never a text of a forget set."""

from __future__ import annotations

from dataclasses import dataclass

from ..verification.report import Report
from ..verification.values import Status

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class LedgerEntry:
    """One deletion request.

    Attributes:
        id: Name of the request.
        date: When it was made; empty where nobody says.
        facts: How many facts it asked to forget.
        then: The verdict when it was granted.
        now: The verdict on the model of the report, as far as its facts are concerned.
        salted_hash: Salted hash of its forget set, by its own report where that was named.
        reasons: Why ``now`` is what it is.
    """

    id: str
    date: str
    facts: int | None
    then: Status | None
    now: Status | None
    salted_hash: str
    reasons: tuple[str, ...] = ()

    @property
    def short_hash(self) -> str:
        """The first digits of the hash."""
        return self.salted_hash[:_SHOWN_DIGITS]


def earlier_entries(report: Report) -> list[LedgerEntry]:
    """The earlier requests of a report, in the order of its recipe.

    Args:
        report: The report.
    """
    return [
        LedgerEntry(
            id=request.id or "–",
            date=request.date or "",
            facts=request.set.facts if request.set is not None else None,
            then=request.then,
            now=request.now,
            salted_hash=request.salted_hash_then or (request.set.salted_hash if request.set is not None else "") or "",
            reasons=request.reasons,
        )
        for request in report.earlier or ()
    ]


def own_entry(report: Report) -> LedgerEntry:
    """The request that a report was written for, under the name of its run."""
    forget = report.data.get("forget")
    return LedgerEntry(
        id=report.name or "–",
        date=(report.created or "")[:10],
        facts=None if forget is None else forget.facts,
        then=report.verdict.status,
        now=report.verdict.status,
        salted_hash="" if forget is None else forget.salted_hash or "",
    )


def entry_sentence(entry: LedgerEntry) -> str:
    """``request-1 (2026-03-01), 40 facts: passed then, failed now. As it stands: ...``."""
    date = f" ({entry.date})" if entry.date else ""
    facts = "" if entry.facts is None else f", {entry.facts} facts"
    why = f" {entry.reasons[0]}" if entry.reasons and entry.now != "passed" else ""
    return f"{entry.id}{date}{facts}: {entry.then or 'no report'} then, {entry.now or 'not judged'} now.{why}"


def ledger_table(entries: list[LedgerEntry]) -> str:
    """A table in plain text, one line for each request."""
    head = ("request", "date", "facts", "then", "now", "salted hash")
    rows = [
        (
            entry.id,
            entry.date or "–",
            "–" if entry.facts is None else str(entry.facts),
            entry.then or "–",
            entry.now or "–",
            entry.short_hash or "–",
        )
        for entry in entries
    ]
    wide = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = ("  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)
