"""Rows dealt to processes so that all make the same number of forward passes, which sharded weights require."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.processes import rank, world_size


@dataclass(frozen=True)
class EvenShare:
    """What a process gets of a list.

    Attributes:
        places: Positions in the list, equally many in every process.
        own: How many of them count, the first ones; the others repeat what another process has too.
    """

    places: list[int]
    own: int


def even_share(count: int) -> EvenShare:
    """The share of this process.

    Args:
        count: Length of the list.
    """
    own = list(range(rank(), count, world_size()))
    most = -(-count // world_size())
    return EvenShare(own + [0] * (most - len(own)), len(own))
