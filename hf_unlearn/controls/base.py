"""What a control needs besides taking part in training: rows of its own, and a target of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from ..data.example import DataBundle, RowSet
from ..robust.base import TrainingPart


class ControlPart(TrainingPart):
    """A training part that makes a model which hides.

    Attributes:
        learns_first: Whether the facts are first learned in the control's own way, before they are hidden: its
            training then starts from a model made from the never-knew model, not from the target.
        learning: Fields of ``UnlearnConfig`` for that learning, unless the recipe sets them.
    """

    learns_first: ClassVar[bool] = False
    learning: ClassVar[Mapping[str, Any]] = {}

    def training_rows(self, bundle: DataBundle) -> DataBundle:
        """The sets as this control is trained on them; only rows for training may differ.

        Args:
            bundle: The run's sets.

        Raises:
            RequestError: The rows are not of a kind that can be hidden this way.
        """
        return bundle


def everything_retained(bundle: DataBundle) -> DataBundle:
    """Forget rows among the retain rows: the retain term over them learns what is to be hidden later."""
    rows = bundle.forget.train + bundle.retain.train + bundle.practice.train + bundle.generic.train
    return replace(bundle, retain=RowSet(rows, bundle.retain.score))
