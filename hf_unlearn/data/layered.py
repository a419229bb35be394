"""Forget rows that are retained until their turn comes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..errors import RequestError
from .encoding import EncodedRow
from .pairing import PairedItem, PairedRows


def deal_folds(rows: Sequence[EncodedRow], folds: int, seed: int) -> list[int]:
    """Part the rows into folds of whole groups, equal in rows as far as groups allow.

    Args:
        rows: Encoded rows; those without a group are each a group of their own.
        folds: How many.
        seed: Of the split.

    Returns:
        The fold of every row, from 0; every fold has rows.

    Raises:
        RequestError: There are fewer groups than folds.
    """
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.group or row.id] = sizes.get(row.group or row.id, 0) + 1
    if len(sizes) < folds:
        raise RequestError(
            f"layered-folds parts the forget set into {folds} folds of whole groups, but there are {len(sizes)} "
            "groups: lower folds, or give rows that are independent facts different values in the group column"
        )
    order = sorted(sizes)
    random.Random(f"folds-{seed}").shuffle(order)
    filled, fold_of = [0] * folds, {}
    for group in sorted(order, key=lambda group: -sizes[group]):  # large ones first, or folds differ in size
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return [fold_of[row.group or row.id] for row in rows]


class LayeredRows(PairedRows):
    """In stage ``i`` the folds up to ``i`` are forgotten, and the rows of all others stand among the retain rows.

    An epoch still goes once through the whole forget set: an item whose row is not yet forgotten has it as its first
    retain row, before those that are dealt. After the last stage all folds are forgotten.

    Args:
        rows: The rows as they would be without folds.
        fold_of: Fold of every forget row, from 0.
        epochs_per_stage: Epochs in each stage but the last.
    """

    def __init__(self, rows: PairedRows, fold_of: Sequence[int], epochs_per_stage: int) -> None:
        self.__dict__.update(rows.__dict__)
        self.fold_of = list(fold_of)
        self.epochs_per_stage = epochs_per_stage
        # Their true labels, also if what has to be forgotten is given other ones later.
        self.retainable = [*self.retain, *self.forget]

    @property
    def stage(self) -> int:
        """The current stage, from 0."""
        return min(self.epoch // self.epochs_per_stage, max(self.fold_of))

    def __getitem__(self, index: int) -> PairedItem:
        item = super().__getitem__(index)
        if self.fold_of[index] <= self.stage:
            return item
        number = len(self.retain) + index
        retain, numbers = [self.retainable[number], *item["retain"]], [number, *item["retain_rows"]]
        return {**item, "forget": None, "alternate": None, "retain": retain, "retain_rows": numbers}
