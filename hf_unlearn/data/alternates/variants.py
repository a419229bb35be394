"""Alternates from a column of the data."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError
from . import ALTERNATES
from .base import AlternateSource, Given, shaped_like

CHOSEN = "chosen"
"""Kind of the chosen answers of pairs (``chosen`` and ``rejected``)."""


@ALTERNATES.register(
    "variants",
    summary="Further answers from a column of the data, of the named kind.",
    defaults={"kind": "perturbed"},
)
@dataclass(frozen=True)
class VariantAlternates(AlternateSource):
    """Answers of one kind among the rows' :attr:`~hf_unlearn.data.example.Example.variants`.

    Args:
        kind: ``perturbed`` (wrong answers in the right one's form), ``paraphrased``, or ``chosen`` (of pairs of a
            chosen and a rejected answer): columns of the data.
    """

    kind: str = "perturbed"

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """All variants of the kind, for each row."""
        found = []
        for row in given.forget:
            texts = dict(row.variants).get(self.kind, ())
            if not texts:
                kinds = ", ".join(name for name, _ in row.variants) or "none"
                raise RequestError(
                    f"alternates: {row.origin or row.id} has no variants of kind {self.kind!r} (it has {kinds}): name "
                    "their column in the data (perturbed=), or use refusals, other-answers or generated"
                )
            found.append(tuple(shaped_like(row, text) for text in texts))
        return found
