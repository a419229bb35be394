"""How far the job in hand is, told to whoever shows the progress of this process.

A job may run in this process or in a worker, and does not know which. In a worker nobody listens: its output is a
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int], None]
_listeners: list[Listener] = []


def tell_steps(done: int, total: int) -> None:
    """Say that ``done`` of ``total`` steps of the job in hand are made."""
    if _listeners and total > 0:
        _listeners[-1](min(done, total), total)


def is_heard() -> bool:
    """Whether somebody shows the steps that are told."""
    return bool(_listeners)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Whoever is told about steps within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
