"""Each forget row with some retain rows, in an order that depends only on seed and epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypedDict

import torch
from torch.utils.data import Dataset

from ..errors import RequestError
from .encoding import EncodedRow

IGNORED = -100


class PairedItem(TypedDict):
    """One forget row, another answer to its prompt, its retain rows, and their positions in their lists.

    ``forget`` is ``None`` if the item's row is not forgotten in the current epoch.
    """

    forget: EncodedRow | None
    forget_row: int
    alternate: EncodedRow | None
    alternate_row: int
    retain: list[EncodedRow]
    retain_rows: list[int]


class PairedRows(Dataset[PairedItem]):
    """Item ``i`` is forget row ``i`` with ``retain_per_forget`` retain rows.

    The retain rows are dealt like cards: all of them in a shuffled order, then all again in another. The deal goes on
    from one epoch to the next, so that over a run every retain row is used equally often (give or take one), however
    small the forget set is. What item ``i`` gets depends on seed, epoch and ``i`` alone: the order in which a sampler
    asks, resuming in the middle of an epoch, and the number of workers or processes change nothing.

    Args:
        forget: Encoded forget rows.
        retain: Encoded retain rows; may be empty.
        retain_per_forget: Retain rows per item; 0 for none.
        seed: Seed of the shuffled orders.
        alternates: Other answers to the prompt of each forget row, at least one for each; empty for none. If there are
            several, each epoch draws one.

    Attributes:
        retainable: All rows that may be in the batch part ``retain``; row numbers index this list.

    Raises:
        RequestError: There are no forget rows, or ``retain_per_forget`` is negative, or a forget row has no alternate.
    """

    retainable: Sequence[EncodedRow]

    def __init__(
        self,
        forget: Sequence[EncodedRow],
        retain: Sequence[EncodedRow],
        retain_per_forget: int = 1,
        seed: int = 0,
        alternates: Sequence[Sequence[EncodedRow]] = (),
    ) -> None:
        if not forget:
            raise RequestError("the forget set has no rows: there is nothing to unlearn")
        if retain_per_forget < 0:
            raise RequestError(f"retain_per_forget is {retain_per_forget}: it must be 0 or more")
        if alternates and not (len(alternates) == len(forget) and all(alternates)):
            raise RequestError("alternates were given, but not for every forget row: each needs at least one")
        self.forget = list(forget)
        self.retain = list(retain)
        self.retainable = self.retain
        self.alternates = [row for rows in alternates for row in rows]
        self._first_alternate = [0, *accumulate(len(rows) for rows in alternates)]
        self.retain_per_forget = retain_per_forget if retain else 0
        self.seed = seed
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._deals: dict[int, list[int]] = {}
        self._deals_epoch = 0

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Deal the retain rows of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: int) -> PairedItem:
        if not 0 <= index < len(self.forget):
            raise IndexError(f"index {index} is outside the {len(self.forget)} forget rows")
        rows = self.retain_rows(index)
        other = self.alternate_row(index) if self.alternates else 0
        return {
            "forget": self.forget[index],
            "forget_row": index,
            "alternate": self.alternates[other] if self.alternates else None,
            "alternate_row": other,
            "retain": [self.retain[row] for row in rows],
            "retain_rows": rows,
        }

    def alternate_row(self, index: int) -> int:
        """Index in ``alternates`` of the one that goes with forget row ``index`` in the current epoch."""
        first, end = self._first_alternate[index : index + 2]
        return first + random.Random(f"alternate-{self.seed}-{self.epoch}-{index}").randrange(end - first)

    def retain_rows(self, index: int) -> list[int]:
        """Indices of the retain rows that go with forget row ``index`` in the current epoch."""
        if self._deals_epoch != self.epoch:
            self._deals_epoch = self.epoch
            self._deals.clear()
        first = (self.epoch * len(self.forget) + index) * self.retain_per_forget
        return [self._card(first + number) for number in range(self.retain_per_forget)]

    def _card(self, position: int) -> int:
        deal, place = divmod(position, len(self.retain))
        if deal not in self._deals:
            order = range(len(self.retain))
            self._deals[deal] = random.Random(f"retain-{self.seed}-{deal}").sample(order, len(order))
        return self._deals[deal][place]


class PaddedRows(TypedDict):
    """Right-padded int64 tensors: ``row`` is [rows], all others are [rows, time]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    row: torch.Tensor


def pad_rows(rows: Sequence[EncodedRow], numbers: Sequence[int], pad_token_id: int) -> PaddedRows:
    """Pad rows on the right to the longest.

    Args:
        rows: Encoded rows, at least one.
        numbers: Each row's position in its list; kept as ``row`` for caches of reference values.
        pad_token_id: Fills ``input_ids``. It may be a token that also appears in texts (often the end-of-text token):
            the attention mask comes from the rows' lengths.

    Returns:
        Tensors; ``labels`` is -100 on prompts and padding.
    """
    time = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), time), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(rows), time), dtype=torch.int64)
    labels = torch.full((len(rows), time), IGNORED, dtype=torch.int64)
    for place, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[place, :length] = torch.tensor(row.input_ids)
        attention_mask[place, :length] = 1
        labels[place, row.n_prompt : length] = (
            input_ids[place, row.n_prompt : length] if row.labels is None else torch.tensor(row.labels)
        )
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "row": torch.tensor(numbers, dtype=torch.int64),
    }


@dataclass(frozen=True)
class PairedCollator:
    """Items of :class:`PairedRows` to a batch ``{"forget": PaddedRows, "alternate": ..., "retain": ...}``.

    Parts of which no item has a row are left out.

    Attributes:
        pad_token_id: See :func:`pad_rows`.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[PairedItem]) -> dict[str, PaddedRows]:
        batch: dict[str, PaddedRows] = {}
        forget = [(item["forget"], item["forget_row"]) for item in items if item["forget"] is not None]
        if forget:
            batch["forget"] = pad_rows([row for row, _ in forget], [number for _, number in forget], self.pad_token_id)
        alternates = [(item["alternate"], item["alternate_row"]) for item in items if item["alternate"] is not None]
        if alternates:
            numbers = [number for _, number in alternates]
            batch["alternate"] = pad_rows([row for row, _ in alternates], numbers, self.pad_token_id)
        retain = [row for item in items for row in item["retain"]]
        if retain:
            numbers = [number for item in items for number in item["retain_rows"]]
            batch["retain"] = pad_rows(retain, numbers, self.pad_token_id)
        return batch
