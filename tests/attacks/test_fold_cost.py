"""What making folds costs grows with the rows, not with their square: counted, not timed."""

from __future__ import annotations

import pytest

from hf_unlearn.attacks import rtt_sets
from hf_unlearn.data import independence
from hf_unlearn.data.example import Example, RowSet


def rows(count: int, folds: int = 0) -> RowSet:
    """Independent rows; with ``folds``, in a split of their own."""
    made = tuple(
        Example(f"r{n}", f"where is stone {n}?", f"hill {n}", f"f{n}", f"g{n}", fold=str(n % folds) if folds else "")
        for n in range(count)
    )
    return RowSet(made, made)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often all rows are hashed, and how often a single row is looked at for what it shares."""
    calls = {"all": 0, "one": 0}
    leaks_of, content_key = rtt_sets.leaks_of, independence.content_key

    def all_rows(forget: RowSet):
        calls["all"] += 1
        return leaks_of(forget)

    def one_row(row: Example):
        calls["one"] += 1
        return content_key(row)

    leaks_of.cache_clear()
    monkeypatch.setattr(rtt_sets, "leaks_of", all_rows)
    monkeypatch.setattr(independence, "content_key", one_row)
    return calls


@pytest.mark.parametrize(("own", "most"), [(0, 100_000), (5, 20_000)])
def test_all_rows_are_hashed_once_however_many_groups_there_are(own: int, most: int, counted: dict[str, int]):
    spent = []
    for count in (100, most):
        counted.update(all=0, one=0)
        folds = rtt_sets.make_folds(rows(count, own), 5, 0, "apart", "rtt")
        assert sorted(len(fold.ask) for fold in folds) == [count // 5] * 5
        spent.append((counted["all"], counted["one"] / count))
    assert spent[0][0] == spent[1][0] == 1
    assert spent[0][1] == spent[1][1] <= 3
