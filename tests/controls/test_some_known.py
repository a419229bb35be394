"""The control that keeps one fact in so many: which rows it rehearses, and which it unlearns."""

from __future__ import annotations

import pytest

from hf_unlearn.controls.some_known import SomeKnown
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.errors import RequestError


def bundle(groups: int) -> DataBundle:
    """Two rows in each group, and one retain row."""
    forget = tuple(
        Example(f"f{group}-{row}", "Q", " A", f"f{group}", f"g{group}") for group in range(groups) for row in range(2)
    )
    retain = (Example("r0", "Q", " B", "r0", "r0"),)
    return DataBundle(RowSet(forget, forget), RowSet(retain, retain))


def test_one_group_in_six_is_rehearsed_and_not_unlearned() -> None:
    given = bundle(12)
    rows = SomeKnown().training_rows(given)
    kept = {"g0", "g6"}
    assert {row.group for row in rows.forget.train} == {f"g{number}" for number in range(12)} - kept
    assert [row.id for row in rows.retain.train] == ["f0-0", "f0-1", "f6-0", "f6-1", "r0"]
    assert rows.forget.score == given.forget.score and rows.retain.score == given.retain.score


def test_one_group_alone_cannot_be_kept_and_unlearned() -> None:
    with pytest.raises(RequestError, match="different values in the group column"):
        SomeKnown().training_rows(bundle(1))


def test_one_in_one_would_unlearn_nothing() -> None:
    with pytest.raises(RequestError, match="one_in is 1, it must be at least 2"):
        SomeKnown(one_in=1)
