"""Signals that end a command: interrupt, terminate and hang-up all end it as Ctrl-C does, within seconds.

The signal becomes a ``KeyboardInterrupt`` in the main thread, so that every block on the way is left in order: workers
are ended, locks released, half-written files removed. Libraries can swallow such an exception, and it comes late while
a long computation is at work. So no stage begins after a signal, and a thread ends the process if it has not ended by
itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

SECONDS = 10.0
"""How long a command has for ending in order, and then its process for being gone."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal ended the command.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


_received: list[int] = []


def stopped_by() -> signal.Signals | None:
    """The signal that ended the command in hand; ``None`` if none came."""
    return signal.Signals(_received[0]) if _received else None


def refuse_if_stopped() -> None:
    """Nothing new begins after a signal, even if its exception was lost on the way.

    Raises:
        Stopped: A signal came.
    """
    if _received:
        raise Stopped(_received[0])


@contextlib.contextmanager
def ended_by_signals(*, whole_process: bool) -> Iterator[None]:
    """Let signals end what the block does. Signals that are ignored (``nohup``, a shell's background) stay ignored.

    Args:
        whole_process: The process ends after the block. If it was stopped, it is ended even if what comes afterwards,
            such as threads that are waited for, takes too long.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    wanted = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in wanted}
    heard, told = socket.socketpair()
    told.setblocking(False)
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(heard, ended, whole_process), daemon=True).start()
    try:
        yield
    finally:
        if not (whole_process and _received):
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            told.close()
        ended.set()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals wait until the block is over. Processes that are started in it never see an interrupt or a hang-up.

    A terminal sends those to all processes of a command, and it is the main one that ends the others.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_terminate_only() -> None:
    """In a worker: its parent ends it, and is told by the terminal itself."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:  # a second one would interrupt the ending
        raise Stopped(number)


def _watch(heard: socket.socket, ended: threading.Event, whole_process: bool) -> None:
    """Wait for a signal, which is told here at once even if the main thread is in the middle of a computation."""
    with heard:  # open to the end: further signals are told here too
        found: list[int] = []
        while not found:
            numbers = heard.recv(16)
            if not numbers:
                return
            found = [number for number in numbers if number in STOPPING]
        deadline = time.monotonic() + SECONDS
        _wake_main_thread(found[0], ended, deadline)
        if ended.wait(max(0.0, deadline - time.monotonic())):
            if not whole_process:
                return
            time.sleep(SECONDS)  # this thread ends with the process
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(128 + found[0])


def _wake_main_thread(number: int, ended: threading.Event, deadline: float) -> None:
    """Repeat a signal for the main thread until it has seen it.

    The system gives a signal to any thread, and the main one, which waits for a lock while workers are at work, is
    only woken by its own.
    """
    main = threading.main_thread().ident
    if main is None or not hasattr(signal, "pthread_kill"):
        return
    while not _received and not ended.wait(0.1) and time.monotonic() < deadline:
        signal.pthread_kill(main, number)
