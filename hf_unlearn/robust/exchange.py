"""Other values for weights, for a while, without a copy of what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def exchanged(values: Iterable[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Parameters that hold other tensors as long as this lasts, and then their own again, bit for bit.

    The tensors themselves change places, so nothing is copied and nothing has to be added back. Gradients that are
    taken meanwhile are those at the other values, and are left with the parameters as ever.

    Args:
        values: Parameters with the tensors they get, of the same shape, type and device; may be made one by one.
    """
    own: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for parameter, value in values:
                own.append((parameter, parameter.data))
                parameter.data = value
        yield
    finally:
        for parameter, kept in reversed(own):
            parameter.data = kept
