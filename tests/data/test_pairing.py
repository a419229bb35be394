"""Which retain rows go with which forget row depends on seed and epoch alone."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import IGNORED, PairedCollator, PairedRows
from hf_unlearn.errors import RequestError


def rows(name: str, count: int) -> list[EncodedRow]:
    """Rows of lengths 3 to 7 with different tokens."""
    return [EncodedRow(f"{name}{n}", tuple(range(10 * n + 1, 10 * n + 4 + n % 5)), 1 + n % 2) for n in range(count)]


def paired(forget=7, retain=5, per_forget=2, seed=0) -> PairedRows:
    return PairedRows(rows("f", forget), rows("r", retain), per_forget, seed)


def pairs(dataset: PairedRows, epoch: int) -> list[list[int]]:
    dataset.set_epoch(epoch)
    return [dataset[index]["retain_rows"] for index in range(len(dataset))]


def by_forget_row(loader: DataLoader) -> dict[int, list[int]]:
    """Forget row to its retain rows, as the batches have them."""
    found = {}
    for batch in loader:
        chunks = batch["retain"]["row"].view(len(batch["forget"]["row"]), -1).tolist()
        found.update(zip(batch["forget"]["row"].tolist(), chunks, strict=True))
    return found


def test_item_holds_its_rows():
    dataset = paired()
    item = dataset[3]
    assert item["forget"] == dataset.forget[3] and item["forget_row"] == 3
    assert item["retain"] == [dataset.retain[n] for n in item["retain_rows"]] and len(item["retain"]) == 2


def test_asking_in_any_order_or_from_a_copy_gives_the_same():
    expected = [pairs(paired(), epoch) for epoch in range(4)]
    dataset = paired()
    for epoch in (3, 0, 2, 1, 3):  # as a resumed run would: straight into a later epoch
        dataset.set_epoch(epoch)
        assert [dataset[index]["retain_rows"] for index in reversed(range(7))] == expected[epoch][::-1]
    assert pairs(pickle.loads(pickle.dumps(dataset)), 2) == expected[2]


def test_seed_and_epoch_matter():
    assert pairs(paired(), 0) != pairs(paired(seed=1), 0)
    assert pairs(paired(), 0) != pairs(paired(), 1)


@pytest.mark.parametrize(("forget", "retain", "per_forget"), [(7, 5, 2), (3, 11, 1), (4, 4, 3), (2, 3, 5)])
def test_every_retain_row_is_used_equally_often_over_a_run(forget, retain, per_forget):
    dataset = paired(forget, retain, per_forget)
    used: Counter[int] = Counter()
    for epoch in range(9):
        used.update(number for numbers in pairs(dataset, epoch) for number in numbers)
        counts = [used[number] for number in range(retain)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_workers_and_batch_size_change_nothing(workers, batch_size):
    dataset = paired()
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=PairedCollator(0),
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    for epoch in (0, 1, 3):
        expected = dict(enumerate(pairs(paired(), epoch)))
        dataset.set_epoch(epoch)
        assert by_forget_row(loader) == expected


def test_a_shuffling_sampler_changes_nothing():
    dataset = paired()
    loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=PairedCollator(0))
    assert by_forget_row(loader) == dict(enumerate(pairs(paired(), 0)))


def test_without_retain_rows():
    for dataset in (paired(retain=0), paired(per_forget=0)):
        assert dataset[0]["retain"] == []
        assert set(PairedCollator(0)([dataset[0], dataset[1]])) == {"forget"}


def test_batch_is_padded_right_with_a_mask_of_true_lengths():
    pad = 12  # also a true token of these rows
    short, long = EncodedRow("a", (11, 12, 13), 1), EncodedRow("b", (21, 12, 23, 24, 25), 3)
    dataset = PairedRows([long, short], [short, long], 1, seed=0)
    batch = PairedCollator(pad)([dataset[0], dataset[1]])["forget"]
    assert batch["input_ids"].tolist() == [[21, 12, 23, 24, 25], [11, 12, 13, 12, 12]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    no = IGNORED
    assert batch["labels"].tolist() == [[no, no, no, 24, 25], [no, 12, 13, no, no]]
    assert batch["row"].tolist() == [0, 1]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_retain_rows_of_a_batch_keep_their_numbers():
    dataset = paired()
    items = [dataset[index] for index in (4, 1)]
    batch = PairedCollator(0)(items)["retain"]
    assert batch["row"].tolist() == items[0]["retain_rows"] + items[1]["retain_rows"]
    for place, number in enumerate(batch["row"].tolist()):
        real = batch["attention_mask"][place].bool()
        assert tuple(batch["input_ids"][place][real].tolist()) == dataset.retain[number].input_ids


def test_sizes_that_cannot_be():
    with pytest.raises(RequestError, match="no rows"):
        paired(forget=0)
    with pytest.raises(RequestError, match="retain_per_forget"):
        paired(per_forget=-1)
    with pytest.raises(IndexError):
        paired()[7]
