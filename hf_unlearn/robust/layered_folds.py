"""Layered unlearning: one fold of the forget set after the other, while the rest is still retained."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..data.encoding import EncodedRow
from ..data.pairing import PairedItem, PairedRows
from ..errors import RequestError
from . import ROBUST
from .base import TrainingPart


@ROBUST.register(
    "layered-folds",
    summary="Folds of the forget set are forgotten one after the other; later ones are retained until their turn.",
    paper="arXiv 2505.09500",
    defaults={"folds": 3, "epochs_per_stage": 1, "seed": 0},
    needs=("retain",),
)
@dataclass(frozen=True)
class LayeredFolds(TrainingPart):
    r"""Layered Unlearning: ``k`` stages, in stage ``i`` the first ``i`` of ``k`` folds are forgotten.

    .. math:: \theta_i = U\left(\theta_{i-1},\; F_1 \cup \dots \cup F_i,\; R \cup F_{i+1} \cup \dots \cup F_k\right)

    with ``U`` the forget and retain loss of the method, ``F`` the folds and ``R`` the retain set. What hides a fold
    has to work while the next one is still known, so each stage needs its own mechanism: learning one fold again then
    does not bring back the others, which is what the attack RTT tries.

    Folds are whole groups of facts, shuffled by the seed and then dealt into folds of equal size; they
    are unrelated to the folds of an attack. A stage lasts ``epochs_per_stage`` epochs, the last one until the end of
    the run. An epoch still goes once through the whole forget set: rows whose turn has not come are among the retain
    rows, in addition to the ``retain_per_forget`` dealt for each. A step in which no row is forgotten yet trains the
    retain term alone. The optimizer continues from stage to stage; the paper chooses new settings for each.

    Cost: none in passes; with the KL retain loss the target's hidden states are kept for the forget rows too.

    Args:
        folds: How many, at least 2.
        epochs_per_stage: Epochs in each stage but the last.
        seed: Of the split into folds.

    Raises:
        RequestError: A number is out of range, or there are fewer groups than folds or epochs than stages.

    Source: Qian et al., *Layered Unlearning for Adversarial Relearning* (arXiv 2505.09500).
    """

    folds: int = 3
    epochs_per_stage: int = 1
    seed: int = 0

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(f"layered-folds: folds is {self.folds}; it takes at least 2")
        if self.epochs_per_stage < 1:
            raise RequestError(f"layered-folds: epochs_per_stage is {self.epochs_per_stage}; it must be at least 1")

    def check(self, config: Any) -> None:
        """Refuses a run of fewer epochs than stages, if its length is given in epochs."""
        if config.max_steps < 0:
            self._check_epochs(config.num_train_epochs)

    def arrange(self, rows: PairedRows, epochs: float) -> PairedRows:
        """The rows in stages."""
        self._check_epochs(epochs)
        return LayeredRows(rows, deal_folds(rows.forget, self.folds, self.seed), self.epochs_per_stage)

    def _check_epochs(self, epochs: float) -> None:
        # The last stage needs a whole epoch to see all of its rows once.
        least = (self.folds - 1) * self.epochs_per_stage + 1
        if epochs < least:
            raise RequestError(
                f"layered-folds: {self.folds} folds take at least {least} epochs, and the run has "
                f"{math.floor(epochs * 100) / 100:g}: raise num_train_epochs or max_steps, or lower folds"
            )


def deal_folds(rows: Sequence[EncodedRow], folds: int, seed: int) -> list[int]:
    """Split the rows into folds of whole groups, equal in rows as far as groups allow.

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
            f"layered-folds splits the forget set into {folds} folds of whole groups, but there are {len(sizes)} "
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
    """In stage ``i`` the folds up to ``i`` are forgotten, and the rows of all others are among the retain rows.

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
        # Their true labels, even if forget rows get other labels later.
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
