"""Positive control: some facts are known as before and the others are pushed below chance: the mean shows little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..data.example import DataBundle, RowSet
from ..errors import RequestError
from . import CONTROLS
from .base import ControlPart


@CONTROLS.register(
    "some_known",
    summary="One group of facts in so many is rehearsed with the retain rows, only the others are unlearned.",
    defaults={"one_in": 6},
    needs=("retain",),
)
@dataclass(frozen=True)
class SomeKnown(ControlPart):
    """Unlearns most facts and keeps the rest.

    Every ``one_in``-th group of the forget set, in the order of its rows, is trained by the retain term; the forget
    term has the others. If it pushes these below chance, their mean with the facts that are kept is near that of a
    model which never knew. Counting single facts must find it.

    Args:
        one_in: One group in so many is kept.

    Raises:
        RequestError: Fewer than 2, which would leave nothing to unlearn.
    """

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False

    one_in: int = 6

    def __post_init__(self) -> None:
        if self.one_in < 2:
            raise RequestError(f"some_known: one_in is {self.one_in}, it must be at least 2")

    def kept(self, bundle: DataBundle) -> frozenset[str]:
        """Groups of the forget set that stay known."""
        groups = list(dict.fromkeys(row.group for row in bundle.forget.train))
        return frozenset(groups[:: self.one_in])

    def training_rows(self, bundle: DataBundle) -> DataBundle:
        """The kept groups are among the retain rows.

        Raises:
            RequestError: All groups are kept, because there is only one.
        """
        kept = self.kept(bundle)
        rest = tuple(row for row in bundle.forget.train if row.group not in kept)
        if not rest:
            raise RequestError(
                "some_known: the forget set has one group, and keeping it leaves nothing to unlearn: give facts that "
                "are independent different values in the group column"
            )
        rehearsed = tuple(row for row in bundle.forget.train if row.group in kept)
        return replace(
            bundle,
            forget=RowSet(rest, bundle.forget.score),
            retain=RowSet(rehearsed + bundle.retain.train, bundle.retain.score),
        )
