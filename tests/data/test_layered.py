"""Rows that are retained until their fold's turn comes."""

from collections import Counter

import pytest

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import PairedCollator, PairedRows
from hf_unlearn.errors import RequestError
from hf_unlearn.robust.layered_folds import LayeredRows, deal_folds


def rows(name, count, groups=0):
    return [
        EncodedRow(f"{name}{n}", (1, 10 + n, 40 + n, 2), 2, f"{name}-{n % groups}" if groups else f"{name}-{n}")
        for n in range(count)
    ]


def layered(folds=3, epochs_per_stage=2, retain_per_forget=1):
    forget, retain = rows("forget", 9), rows("retain", 5)
    plain = PairedRows(forget, retain, retain_per_forget, seed=3)
    return LayeredRows(plain, deal_folds(forget, folds, 0), epochs_per_stage)


def test_folds_are_whole_groups_of_equal_size():
    given = rows("forget", 20, groups=10)
    folds = deal_folds(given, 5, seed=1)
    assert sorted(Counter(folds).values()) == [4] * 5
    for group in {row.group for row in given}:
        assert len({fold for row, fold in zip(given, folds, strict=True) if row.group == group}) == 1
    assert folds == deal_folds(given, 5, seed=1) != deal_folds(given, 5, seed=2)


def test_rows_without_a_group_stand_alone():
    given = [EncodedRow(f"r{n}", (1, 2, 3), 1) for n in range(4)]
    assert sorted(deal_folds(given, 4, 0)) == [0, 1, 2, 3]


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(RequestError, match=r"3 folds of whole groups, but there are 2 groups"):
        deal_folds(rows("forget", 6, groups=2), 3, 0)


@pytest.mark.parametrize(("epoch", "stage"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (9, 2)])
def test_folds_up_to_the_stage_are_forgotten_and_all_others_retained(epoch, stage):
    data = layered()
    data.set_epoch(epoch)
    assert data.stage == stage
    for index in range(len(data)):
        item = data[index]
        forgotten = data.fold_of[index] <= stage
        assert (item["forget"] is not None) == forgotten
        own = [row for row in item["retain"] if row.id.startswith("forget")]
        assert own == ([] if forgotten else [data.forget[index]])
        assert len(item["retain"]) == (1 if forgotten else 2)
        assert [data.retainable[number] for number in item["retain_rows"]] == item["retain"]


def test_dealt_retain_rows_are_those_of_the_plain_rows():
    data, plain = layered(), PairedRows(rows("forget", 9), rows("retain", 5), 1, seed=3)
    for epoch in range(6):
        data.set_epoch(epoch)
        plain.set_epoch(epoch)
        for index in range(9):
            assert data[index]["retain_rows"][-1:] == plain[index]["retain_rows"]
    assert data.retain == plain.retain  # what is measured on the retain set is not


def test_a_batch_without_a_forgotten_row_has_no_forget_part():
    data = layered()
    waiting = [index for index in range(9) if data.fold_of[index] > 0]
    batch = PairedCollator(0)([data[index] for index in waiting])
    assert set(batch) == {"retain"}
    mixed = PairedCollator(0)([data[index] for index in range(9)])
    assert mixed["forget"]["row"].tolist() == [index for index in range(9) if index not in waiting]
    assert len(mixed["retain"]["row"]) == 9 + len(waiting)


def test_alternates_go_with_their_forgotten_rows():
    forget = rows("forget", 4)
    others = [[EncodedRow(f"other{n}", (1, 10 + n, 50 + n), 2)] for n in range(4)]
    data = LayeredRows(PairedRows(forget, rows("retain", 3), 1, 0, others), [0, 1, 0, 1], 1)
    batch = PairedCollator(0)([data[index] for index in range(4)])
    assert batch["forget"]["row"].tolist() == batch["alternate"]["row"].tolist() == [0, 2]


def test_labels_of_a_row_may_be_others_than_its_tokens():
    row = EncodedRow("a", (1, 5, 6, 7, 2), 2, "a", labels=(8, 9, 2))
    batch = PairedCollator(0)([{**PairedRows([row], [], 0)[0]}])
    assert batch["forget"]["input_ids"].tolist() == [[1, 5, 6, 7, 2]]
    assert batch["forget"]["labels"].tolist() == [[-100, -100, 8, 9, 2]]
