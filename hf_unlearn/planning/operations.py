"""Floating-point operations of a pass: two for each multiplication with a matrix, in the forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from .shape import ModelShape


@dataclass(frozen=True)
class Pass:
    """What goes through the model at once.

    Attributes:
        rows: Rows.
        length: Tokens in each, padding included.
        labels: Positions that reach the output head, over all rows.
    """

    rows: float
    length: float
    labels: float

    @property
    def tokens(self) -> float:
        """Of all rows, padding included."""
        return self.rows * self.length


def forward(shape: ModelShape, given: Pass) -> float:
    """Operations of a forward pass.

    Attention counts every pair of positions, as kernels without a causal short cut do.
    """
    return _body(shape, given) + _attention(shape, given) + _head(shape, given)


def training(shape: ModelShape, given: Pass, *, recomputed: bool = False) -> float:
    """Operations of a forward and a backward pass.

    The backward pass makes a gradient of every input and of every trained matrix, each for as much as the forward
    pass. What a fused attention kernel computes again is not counted.

    Args:
        shape: The model's sizes, which say what is trained.
        given: What goes through it.
        recomputed: Whether decoder layers are computed again (gradient checkpointing).
    """
    body, attention, head = _body(shape, given), _attention(shape, given), _head(shape, given)
    trained = 2 * shape.body_trained * given.tokens
    again = body + attention if recomputed else 0.0
    return 2 * body + trained + 3 * attention + head * (3 if shape.head_trained else 2) + again


def _body(shape: ModelShape, given: Pass) -> float:
    return 2 * shape.body * given.tokens


def _attention(shape: ModelShape, given: Pass) -> float:
    pairs = given.rows * given.length**2
    return sum(2 * pairs * (each.scores + each.values) for each in shape.attention)


def _head(shape: ModelShape, given: Pass) -> float:
    return 2 * given.labels * shape.head
