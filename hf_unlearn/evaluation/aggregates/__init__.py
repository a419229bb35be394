"""Aggregates: numbers about whole sets, or about two models, made from scored records.

``AGGREGATES.get(name).value(AggregateInput(...))`` is the number with its interval. An entry's ``needs`` says what has
to be there: ``sets:forget,holdout`` (scored sets), ``reference`` (records of a reference model over the same rows),
and what the records must hold, in the words of :mod:`hf_unlearn.evaluation.metrics`. Its ``defaults`` are the settings
that an input may change, names of sets among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import RequestError
from ...registry import Registry, suggest
from ..records import ScoredRow


@dataclass(frozen=True)
class AggregateInput:
    """What an aggregate is made from.

    Attributes:
        records: Records of the scored model by set.
        reference: Records of the reference model (for most aggregates one that never knew the forget set) over the
            same rows, by set; ``None`` if there is none.
        settings: What differs from the aggregate's defaults.
    """

    records: Mapping[str, Sequence[ScoredRow]]
    reference: Mapping[str, Sequence[ScoredRow]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def options(self, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of the aggregate ``name`` with these settings on top.

        Raises:
            RequestError: A setting is not one of the aggregate's.
        """
        for key in self.settings:
            if key not in defaults:
                raise RequestError(f"{name} has no setting {key!r}: {suggest(key, list(defaults))}")
        return {**defaults, **self.settings}


@dataclass(frozen=True)
class AggregateValue:
    """A number about a model.

    Attributes:
        value: The number.
        n: Number of facts it rests on.
        ci95: Its 95 % interval; ``None`` if it has none.
        details: Further numbers by name, such as the parts it is made of.
    """

    value: float
    n: int
    ci95: tuple[float, float] | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As summaries hold it."""
        interval = None if self.ci95 is None else list(self.ci95)
        return {"value": self.value, "n": self.n, "ci95": interval, "details": dict(self.details)}


Aggregate = Callable[[AggregateInput], "AggregateValue | None"]

AGGREGATES: Registry[Aggregate] = Registry("aggregate", "hf_unlearn.evaluation.aggregates")

__all__ = ["AGGREGATES", "Aggregate", "AggregateInput", "AggregateValue"]
