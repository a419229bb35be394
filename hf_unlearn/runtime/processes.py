"""Several processes of one run: who keeps the books, waiting for each other, and leaving the group after training.

The names are those of ``accelerate.PartialState``. It is not made before something is collective: most of the package
has to know who writes files, before torch is imported or without a process group.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import HfUnlearnError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")

# What launchers tell a process about the others; after training each is on its own.
LAUNCH_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"),
    *("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"),
)


@dataclass(frozen=True)
class Left:
    """A launch whose processes have separated.

    Attributes:
        variables: What the launcher told this process.
        token: A name of the launch that all of its processes know.
    """

    variables: Mapping[str, str]
    token: str

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self.variables.get("RANK", "0"))

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self.variables["WORLD_SIZE"])


_left: Left | None = None


def world_size() -> int:
    """Number of processes that a launcher started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process writes files and runs what is not collective: the one of rank 0."""
    return rank() == 0


def wait_for_everyone() -> None:
    """Return when every process has come here; at once in a run of one process."""
    if world_size() == 1:
        return
    _state().wait_for_everyone()


def gather(value: T) -> list[T]:
    """The values that all processes came with, in the order of their ranks, in every process.

    Args:
        value: Anything that can be pickled.
    """
    if world_size() == 1:
        return [value]
    import torch.distributed

    _state()
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def on_main_process(action: Callable[[], None]) -> None:
    """Let the main process do something while the others wait for it.

    Raises:
        HfUnlearnError: What the action raised, in every process: none waits for one that has given up.
    """
    error = None
    if is_main_process():
        try:
            action()
        except HfUnlearnError as raised:
            error = raised
    if (found := gather(error)[0]) is not None:
        raise found


def leave_group() -> None:
    """Leave the process group after the last collective stage: quantizers place devices themselves, and the others
    must not wait for them in a collective. From here on each process believes to be the only one."""
    global _left
    if world_size() == 1:
        return
    token = gather(secrets.token_hex(8))[0]
    wait_for_everyone()
    _state().destroy_process_group()
    _left = Left({name: os.environ.pop(name) for name in LAUNCH_VARIABLES if name in os.environ}, token)


@contextmanager
def alone() -> Iterator[None]:
    """Let this process believe to be the only one for the block: what it calls waits for no other."""
    hidden = {name: os.environ.pop(name) for name in LAUNCH_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def left_launch() -> Left | None:
    """The launch whose group this process has left; ``None`` in a run of one process."""
    return _left


def _state() -> PartialState:
    import torch
    from accelerate import PartialState

    # Without `cpu` accelerate finds no backend on a machine without an accelerator and believes to be alone.
    return PartialState(cpu=not torch.accelerator.is_available())
