"""Rows of similar length together: in the slices of a micro-batch, and in the order of an epoch.

Forget and retain rows share a forward pass, and all rows of a pass are padded to the longest of them. Losses are sums
over rows, so a micro-batch can be run slice by slice with the same gradient up to rounding: less padding, and the
activations of one slice at a time. Small slices starve a GPU, so only large micro-batches are sliced.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Sampler

from ..data.pairing import PaddedRows, PairedRows

CPU_TOKENS = 512
ACCELERATOR_TOKENS = 16384

_TOGETHER = ("forget", "alternate")
"""Splits whose rows belong together, row by row."""

Unit = tuple[str, int, int]
"""A split, a row of it, and its length; an alternate goes with its forget row."""


def tokens_of_a_pass(setting: int | None, device: torch.device) -> int:
    """Most tokens of a pass: as set, or what keeps a device of this kind busy."""
    if setting is not None:
        return setting
    return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


def cut_by_length(inputs: dict[str, PaddedRows], most: int) -> list[dict[str, PaddedRows]]:
    """Slices of a micro-batch, with rows of similar length in each.

    Args:
        inputs: The micro-batch.
        most: Tokens of a slice, padding included; a row that has more is a slice of its own.

    Returns:
        Slices that contain every row once, with empty splits left out; the micro-batch itself if it is small enough.
    """
    size = sum(rows["input_ids"].shape[0] for rows in inputs.values())
    if size * max(rows["input_ids"].shape[1] for rows in inputs.values()) <= most:
        return [inputs]
    slices: list[list[Unit]] = [[]]
    for unit in sorted(_units(inputs), key=lambda unit: unit[2]):
        if slices[-1] and _rows(inputs, [*slices[-1], unit]) * unit[2] > most:
            slices.append([])
        slices[-1].append(unit)
    return [_slice(inputs, units) for units in slices]


def cut_by_tokens(inputs: dict[str, PaddedRows], most: int) -> list[dict[str, PaddedRows]]:
    """As few slices of a micro-batch as have about so many tokens, padding not counted, all about equally full.

    Args:
        inputs: The micro-batch.
        most: Tokens of a slice, which its last row may exceed.

    Returns:
        Slices that contain every row once, with empty splits left out.
    """
    units = sorted(_units(inputs), key=lambda unit: unit[2], reverse=True)
    sizes = [unit[2] * _rows(inputs, [unit]) for unit in units]
    slices: list[list[Unit]] = [[] for _ in range(math.ceil(sum(sizes) / most))]
    filled = [0] * len(slices)
    for unit, size in zip(units, sizes, strict=True):
        emptiest = filled.index(min(filled))
        slices[emptiest].append(unit)
        filled[emptiest] += size
    return [_slice(inputs, chosen) for chosen in slices if chosen]


def _units(inputs: dict[str, PaddedRows]) -> list[Unit]:
    units = []
    for split, rows in inputs.items():
        lengths = rows["attention_mask"].sum(1).tolist()
        if split == "alternate" and "forget" in inputs:
            continue
        if split == "forget" and "alternate" in inputs:
            others = inputs["alternate"]["attention_mask"].sum(1).tolist()
            lengths = [max(pair) for pair in zip(lengths, others, strict=True)]
        units += [(split, row, length) for row, length in enumerate(lengths)]
    return units


def _rows(inputs: dict[str, PaddedRows], units: Sequence[Unit]) -> int:
    pairs = sum(split == "forget" for split, _, _ in units) if "alternate" in inputs else 0
    return len(units) + pairs


def _slice(inputs: dict[str, PaddedRows], units: Sequence[Unit]) -> dict[str, PaddedRows]:
    picked: dict[str, PaddedRows] = {}
    for split in inputs:
        owner = "forget" if split in _TOGETHER and "forget" in inputs else split
        chosen = sorted(row for name, row, _ in units if name == owner)
        if chosen:
            picked[split] = _chosen(inputs[split], chosen)
    return picked


def _chosen(rows: PaddedRows, chosen: Sequence[int]) -> PaddedRows:
    index = torch.tensor(chosen, device=rows["input_ids"].device)
    longest = int(rows["attention_mask"][index].sum(1).max())
    picked: dict[str, Any] = {}
    for key, tensor in cast(dict[str, torch.Tensor], rows).items():
        picked[key] = tensor[index][:, :longest] if tensor.dim() == 2 else tensor[index]
    return cast(PaddedRows, picked)


MEGA_BATCHES = 50
"""Items are sorted within this many batches: enough for similar lengths, few enough to keep an epoch shuffled."""


class LengthGroupedPairs(Sampler[int]):
    """A shuffled order in which neighbours have rows of similar length.

    A forget row is padded to the longest row of its batch, which may be a retain row, so the longest row of
    an item counts. The order depends on seed and epoch alone: processes and resumed runs draw the same.
    The sampler of transformers does not promise that: it takes one length per item for the whole run, while the retain
    rows of an item change with the epoch, and its order depends on how often its generator was used before.

    Args:
        data: Items; their retain rows change with the epoch.
        batch_size: Items of a micro-batch.
        seed: Of the shuffling.
    """

    def __init__(self, data: PairedRows, batch_size: int, seed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"length-{self._seed}-{self._data.epoch}")
        order = draw.sample(range(len(self)), len(self))
        size = self._batch_size * MEGA_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            # The longest first, so that a run that does not fit stops at once.
            grouped = sorted(order[start : start + size], key=self._length, reverse=True)
            batches += [grouped[at : at + self._batch_size] for at in range(0, len(grouped), self._batch_size)]
        first, *others = batches
        # A batch that is not full stays last: a loader cuts the order into batches again.
        last = [others.pop()] if others and len(others[-1]) < self._batch_size else []
        draw.shuffle(others)
        for batch in [first, *others, *last]:
            yield from batch

    def _length(self, index: int) -> int:
        data = self._data
        rows = [data.forget[index], *(data.retainable[row] for row in data.retain_rows(index))]
        return max(len(row.input_ids) for row in rows)
