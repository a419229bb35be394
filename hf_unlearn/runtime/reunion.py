"""Processes of a launch that have separated after training, as one group again for a while: they share what is scored.

The first process exports alone in between, for as long as that takes. So the others do not wait for it in a
collective, which would time out, but look for a file in the run's folder that says where to meet. They give up only if
the first process is gone. The group passes plain objects between main memories, whatever devices there are; only a
sharded attack needs more.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EnvironmentFailure
from .files import write_atomically
from .processes import Left, left_launch

if TYPE_CHECKING:
    from torch.distributed import Store

_PAUSE = 0.5
# One batch is no longer than that; a process that was killed is missed at once, because its connections are closed.
_PATIENCE = timedelta(hours=2)
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed out|timeout|socket error", re.IGNORECASE
)


@contextmanager
def together_again(place: Path, first_is_there: Callable[[], bool], *, on_devices: bool = False) -> Iterator[None]:
    """Be one group for the block, with the ranks of the launch. Nothing happens in a run of one process.

    All processes of the launch call this together, after
    :func:`~hf_unlearn.runtime.processes.leave_group`.

    Args:
        place: A folder that all of them see.
        first_is_there: Whether the first process is still at work.
        on_devices: Whether tensors on GPUs are passed too, and not only objects between main memories.

    Raises:
        EnvironmentFailure: Another process was lost.
    """
    left = left_launch()
    if left is None:
        yield
        return
    import torch.distributed

    file = place / f".meeting-{left.token}.json"
    ranks = {name: left.variables[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in left.variables}
    try:
        store = _opened(file, left) if left.rank == 0 else _found(file, left, first_is_there)
        torch.distributed.init_process_group(
            _backend(on_devices), store=store, rank=left.rank, world_size=left.world_size, timeout=_PATIENCE
        )
        if left.rank == 0:
            file.unlink()  # everybody is here; at their next meeting nobody may find this one
        os.environ.update(ranks)
        yield
        torch.distributed.barrier()
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise EnvironmentFailure(
            "another process of this launch was lost: run the same command again, what is finished is kept"
        ) from error
    finally:
        if left.rank == 0:
            file.unlink(missing_ok=True)
        for name in ranks:
            os.environ.pop(name, None)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _backend(on_devices: bool) -> str:
    import torch

    return "cpu:gloo,cuda:nccl" if on_devices and torch.cuda.is_available() else "gloo"


def _opened(file: Path, left: Left) -> Store:
    from torch.distributed import TCPStore

    host = left.variables.get("MASTER_ADDR", "127.0.0.1")
    store = TCPStore(host, 0, left.world_size, is_master=True, timeout=_PATIENCE, wait_for_workers=False)
    write_atomically(file, json.dumps({"host": host, "port": store.port}))
    return store


def _found(file: Path, left: Left, first_is_there: Callable[[], bool]) -> Store:
    from torch.distributed import TCPStore

    while not file.exists():
        if not first_is_there():
            raise EnvironmentFailure(
                "the first process of this launch was lost: run the same command again, what is finished is kept"
            )
        time.sleep(_PAUSE)
    where = json.loads(file.read_text(encoding="utf-8"))
    return TCPStore(where["host"], where["port"], left.world_size, is_master=False, timeout=_PATIENCE)
