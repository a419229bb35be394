"""Independent jobs over a few worker processes.

Small models leave most of a many-core machine idle when one operation at a time is spread over threads; independent
jobs with one thread each do not. Workers end with their parent, so a killed run leaves no process writing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, HfUnlearnError
from .garbage import leave_imports_alone
from .signals import heed_terminate_only, held_back, refuse_if_stopped


@dataclass(frozen=True)
class Job:
    """A picklable call.

    Attributes:
        title: What the user reads next to the progress bar.
        call: A module-level function.
        arguments: Its positional arguments.
    """

    title: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class Workers:
    """Runs jobs in ``count`` processes, or in this one if ``count`` is 0.

    Args:
        count: Number of processes.
        log: File that gets what workers print (libraries print a lot, and several workers would print over each
            other); ``None`` lets them print.
    """

    def __init__(self, count: int, log: Path | None = None) -> None:
        self.count = count
        self.log = log
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pool is None:
            return
        if exc_info[0] is not None:
            # Units are resumable, so jobs in hand are ended rather than waited for.
            for worker in multiprocessing.active_children():
                worker.kill()
        self._pool.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Run all jobs; yield each with its result as it ends. The first error ends the rest and is raised.

        Raises:
            EnvironmentFailure: A worker died (out of memory, most likely).
        """
        if self.count == 0:
            for job in jobs:
                with _named(job):
                    result = job.call(*job.arguments)
                yield job, result
            return
        with held_back():
            waiting: dict[Future[Any], Job] = {self._executor().submit(_work, job): job for job in jobs}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = waiting.pop(future)
                    with _named(job):
                        result = future.result()
                    refuse_if_stopped()
                    yield job, result
        except BrokenProcessPool:
            raise EnvironmentFailure(
                "a worker process died, most likely out of memory: run again with fewer --workers"
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            threads = max(1, (os.cpu_count() or 1) // self.count)
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(), threads, self.log),
            )
        return self._pool


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Say which job a user's error comes from: the same can happen in any of dozens."""
    try:
        yield
    except HfUnlearnError as error:
        error.args = (f"{job.title}: {error}",)
        raise


def _work(job: Job) -> Any:
    """In a worker: its first job was read a moment ago, and with it everything that the job needs was imported."""
    leave_imports_alone()
    return job.call(*job.arguments)


def _start_worker(parent: int, threads: int, log: Path | None) -> None:
    if log is not None:
        # Progress bars redraw themselves many times a second: in a file they are only noise.
        os.environ["TQDM_DISABLE"] = "1"
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    heed_terminate_only()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    # Its own lock is shared between processes, and a worker that is ended leaves such a lock behind.
    tqdm.set_lock(threading.RLock())


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def default_workers(jobs_fit_in_memory: bool) -> int:
    """How many processes suit this machine: none with an accelerator, otherwise two to four."""
    import torch

    cores = os.cpu_count() or 1
    if torch.cuda.is_available() or cores == 1 or not jobs_fit_in_memory:
        return 0
    return max(2, min(4, cores // 2))


def collect(pairs: Iterable[tuple[Job, Any]]) -> None:
    """Run jobs whose results are folders, not values."""
    for _ in pairs:
        pass
