"""Interrupt, terminate and hang-up end a command within seconds, with its workers, and nothing goes on after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_output_folder import alive_in_group, wait_until

from hf_unlearn import pipeline
from hf_unlearn.cli.main import main
from hf_unlearn.runtime import signals

SCRIPT = """
import hashlib, sys, time
from pathlib import Path
from hf_unlearn.runtime import signals
from hf_unlearn.runtime.jobs import Job, Workers

place = Path(sys.argv[2])

def wait(name):
    (place / name).write_text("at work")
    time.sleep(60)

def with_workers():
    with Workers(2, place / "workers.log") as workers:
        list(workers.run([Job(name, wait, (name,)) for name in ("one", "two")]))

def swallowed():
    try:
        wait("one")
    except BaseException:
        pass  # as a library may do

def deaf():
    (place / "one").write_text("at work")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)  # minutes, in which Python does nothing

def command(arguments):
    signals.SECONDS = 1.0 if arguments.how == "deaf" else 30.0
    globals()[arguments.how]()
    signals.refuse_if_stopped()
    (place / "published").touch()
    return 0

def arguments(parser):
    parser.add_argument("place")
    parser.add_argument("how")

if __name__ == "__main__":
    from hf_unlearn.cli import main as program
    from hf_unlearn.cli.command import Command

    program._commands = lambda: [Command("wait", "", arguments, command)]
    sys.exit(program.main())
"""


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Starts a command that works in one of these ways, in a group of its own, and waits until it is at work."""
    script = tmp_path / "command.py"
    script.write_text(SCRIPT)
    # Workers set the number of torch's threads, which takes seconds and is not what is asked here.
    (tmp_path / "torch.py").write_text("def set_num_threads(count): pass\n")

    def start(how: str, names: tuple[str, ...] = ("one",), **ignored: signal.Handlers) -> subprocess.Popen:
        def listen() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for name, handler in ignored.items():
                signal.signal(getattr(signal, name), handler)

        process = subprocess.Popen(
            [sys.executable, str(script), "wait", str(tmp_path), how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=listen,
        )
        wait_until(lambda: all((tmp_path / name).exists() for name in names) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    return start


TOLD = {signal.SIGINT: "stopped", signal.SIGTERM: "stopped by SIGTERM", signal.SIGHUP: "stopped by SIGHUP"}


def ended(process: subprocess.Popen, number: signal.Signals, within: float) -> None:
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < within
    assert process.returncode == 128 + number
    assert errors.endswith(f"hf-unlearn: {TOLD[number]}; run the same command again to continue\n")
    for complaint in ("Traceback", "Exception ignored", "resource_tracker", "leaked"):
        assert complaint not in errors
    wait_until(lambda: not alive_in_group(process.pid))


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGINT, "all"),  # as a terminal does
        (signal.SIGHUP, "all"),
        (signal.SIGTERM, "all"),  # as a batch system does
        (signal.SIGTERM, "main"),
        (signal.SIGINT, "stopped"),
    ],
)
def test_a_signal_ends_the_command_with_its_workers(number: signal.Signals, whom: str, started, tmp_path: Path):
    process = started("with_workers", ("one", "two"))
    if whom == "stopped":  # the system then gives the signal to another thread than the one that waits
        os.killpg(process.pid, signal.SIGSTOP)
        os.killpg(process.pid, number)
        os.killpg(process.pid, signal.SIGCONT)
    elif whom == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    ended(process, number, within=10)
    assert not (tmp_path / "published").exists()
    assert "Traceback" not in (tmp_path / "workers.log").read_text()


def test_no_stage_begins_after_a_signal_that_was_swallowed(started, tmp_path: Path):
    process = started("swallowed")
    os.kill(process.pid, signal.SIGTERM)
    ended(process, signal.SIGTERM, within=10)
    assert not (tmp_path / "published").exists()


def test_a_command_that_does_not_listen_is_ended(started, tmp_path: Path):
    """It is in the middle of a computation, or waits for threads: there is nobody to say the sentence."""
    process = started("deaf")
    time.sleep(1)  # it is at work before the computation begins
    os.kill(process.pid, signal.SIGTERM)
    assert "hf-unlearn: " not in process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "published").exists()


def test_a_command_that_shall_survive_a_hang_up(started):
    process = started("swallowed", SIGHUP=signal.SIG_IGN)
    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    ended(process, signal.SIGTERM, within=10)


def test_a_run_asks_before_every_stage(monkeypatch: pytest.MonkeyPatch):
    begun = []
    stage = SimpleNamespace(processes="together", run=begun.append)
    monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
    with pytest.raises(signals.Stopped, match="stopped by SIGTERM"):
        pipeline.run_stages(SimpleNamespace(is_main=True), [stage, stage])
    assert not begun


def test_handlers_are_given_back(capsys: pytest.CaptureFixture[str]):
    """For who calls the command line from Python."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["list", "losses"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before and signal.set_wakeup_fd(-1) == -1
    capsys.readouterr()
