"""Leases: one holder at a time, given back, taken over from who has ended, and lost by who is out of touch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.runtime import leases, owners
from hf_unlearn.runtime.leases import clear, held_in, holder, is_alive, probe, refuse_if_lost, server_time, take
from hf_unlearn.runtime.locks import LOCKS, claim_file, locked, run_lock, unit_lock
from hf_unlearn.runtime.owners import Owner, read_owner, started, this_process

ELSEWHERE = Owner("node7", "another machine", 12, "34")

# Holds locks in a process that the others must take for one on another machine.
HOLD = """
import sys
from pathlib import Path
from hf_unlearn.runtime import leases, owners
leases.BEAT = 0.1
owners._machine = lambda: sys.argv[2]
lease = leases.take(Path(sys.argv[1]))
print(lease is not None, flush=True)
sys.stdin.read()
lease.give_back()
"""


@pytest.fixture
def lease_of_another(tmp_path: Path) -> Path:
    """A lease of a process on another machine, which has just given a sign of life."""
    (tmp_path / "a.1").write_text(ELSEWHERE.to_json())
    return tmp_path / "a"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "SECONDS", 0.6)


def age(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_what_this_process_left_behind_is_free(tmp_path: Path) -> None:
    """It was interrupted between taking a lease and giving it back, or while it wrote its name, and lives on."""
    file = tmp_path / "a"
    lease = take(file)
    assert lease is not None and take(file) is None, "held by this process, which nobody takes for interrupted"
    lease._ended.set()
    leases._held.discard(lease)  # as `give_back` does, which then cannot rename the file any more
    assert holder(file) is None
    (tmp_path / "a.1").write_text("{")  # half a name: the file is still the one that this process made
    assert holder(file) is None
    again = take(file)
    assert again is not None and take(file) is None
    again.give_back()


def test_a_file_of_another_process_with_the_same_name_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "a"
    lease = take(file)
    assert lease is not None
    lease._ended.set()
    leases._held.discard(lease)
    other = tmp_path / "b"  # a file of its own, before the first one is gone: another inode
    other.write_text(ELSEWHERE.to_json())
    other.replace(tmp_path / "a.1")
    assert str(holder(file)).startswith("process 12 on node7") and take(file) is None


def test_one_holder_at_a_time_and_one_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "a"
    first = take(file)
    assert first is not None and take(file) is None
    assert str(holder(file)).startswith(f"process {os.getpid()} on ")
    first.give_back()
    assert holder(file) is None
    second = take(file)
    assert second is not None
    second.give_back()
    assert os.listdir(tmp_path) == ["a.2.free"]


def test_of_many_that_want_a_lost_lease_one_gets_it(lease_of_another: Path) -> None:
    age(lease_of_another.with_name("a.1"), 1000)
    together, won = threading.Barrier(8), []

    def want() -> None:
        together.wait()
        won.append(take(lease_of_another))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (got,) = [lease for lease in won if lease is not None]
    got.give_back()


def test_a_slow_look_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody saw number 1 as free; meanwhile 2 was held and given back, 3 is held, and 1 and 2 are deleted."""
    file = tmp_path / "a"
    for _ in range(2):
        lease = take(file)
        assert lease is not None
        lease.give_back()
    held = take(file)
    assert held is not None
    real, looks = leases._latest, iter([(1, True)])
    monkeypatch.setattr(leases, "_latest", lambda name: next(looks, None) or real(name))
    assert take(file) is None
    assert not held.is_lost and os.listdir(tmp_path) == ["a.3"]
    held.give_back()


def test_a_process_of_this_machine_is_missed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a"
    ended = replace(this_process(), started="of an earlier process with this number")
    (tmp_path / "a.1").write_text(ended.to_json())
    assert holder(file) is None
    lease = take(file)
    assert lease is not None
    lease.give_back()
    # However long it says nothing: one that is stopped for a while is still there.
    (tmp_path / "a.3").write_text(this_process().to_json())
    age(tmp_path / "a.3", 1e6)
    assert take(file) is None


def test_a_process_of_another_machine_is_missed_when_its_time_is_over(lease_of_another: Path) -> None:
    assert take(lease_of_another) is None
    found = holder(lease_of_another)
    assert found is not None and str(found) == "process 12 on node7, last sign of life 0 s ago"
    age(lease_of_another.with_name("a.1"), leases.SECONDS + 5)
    lease = take(lease_of_another)
    assert lease is not None
    lease.give_back()


def test_a_file_that_says_nothing_yet_counts_as_held_for_as_long(tmp_path: Path) -> None:
    (tmp_path / "a.1").touch()
    assert take(tmp_path / "a") is None and str(holder(tmp_path / "a")).startswith("a process, last")
    age(tmp_path / "a.1", leases.SECONDS + 5)
    lease = take(tmp_path / "a")
    assert lease is not None
    lease.give_back()


def test_whether_somebody_elsewhere_is_alive_is_waited_for(lease_of_another: Path, quick: None) -> None:
    file, over = lease_of_another.with_name("a.1"), threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            os.utime(file)

    living = threading.Thread(target=beat)
    living.start()
    assert is_alive(lease_of_another)
    over.set()
    living.join()
    began = time.monotonic()
    assert not is_alive(lease_of_another)
    assert time.monotonic() - began > 0.3


def test_a_lease_is_kept_alive_and_missed_when_somebody_took_it(tmp_path: Path, quick: None) -> None:
    lease = take(tmp_path / "a")
    assert lease is not None
    age(tmp_path / "a.1", 1000)
    deadline = time.monotonic() + 20
    while (tmp_path / "a.1").stat().st_mtime < time.time() - 100:
        assert time.monotonic() < deadline, "no sign of life"
        time.sleep(0.02)
    refuse_if_lost()
    (tmp_path / "a.2").write_text(ELSEWHERE.to_json())
    with pytest.raises(EnvironmentFailure, match=r"lost its lease .*process 12 on node7"):
        refuse_if_lost()
    lease.give_back()
    refuse_if_lost()
    assert not (tmp_path / "a.2.free").exists()


def test_clearing_leaves_what_is_held(tmp_path: Path) -> None:
    free, held = take(tmp_path / "a"), take(tmp_path / "b")
    assert free is not None and held is not None
    free.give_back()
    assert held_in(tmp_path) == [tmp_path / "b"]
    clear(tmp_path)
    assert os.listdir(tmp_path) == ["b.1"]
    held.give_back()


def test_the_clock_is_that_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    class Fast:
        st_mtime = 5e9

    monkeypatch.setattr(leases.os, "fstat", lambda number: Fast)
    assert server_time(tmp_path) == pytest.approx(5e9, abs=60)
    monkeypatch.setattr(leases.os, "fstat", real)
    assert server_time(tmp_path) == pytest.approx(5e9, abs=60)  # asked once a minute
    leases._clocks.clear()
    assert server_time(tmp_path) == pytest.approx(time.time(), abs=60)


def test_processes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    own = this_process()
    assert own.is_here and not own.has_ended and read_owner(own.to_json()) == own
    assert read_owner(own.to_json().strip()) is None and read_owner("[]\n") is None and read_owner("") is None
    assert not ELSEWHERE.is_here and not ELSEWHERE.has_ended
    gone = subprocess.Popen([sys.executable, "-c", ""])
    while started(gone.pid) is not None:  # it ends, and nobody has asked how yet
        time.sleep(0.02)
    gone.wait()
    assert replace(own, pid=gone.pid).has_ended
    # Of somebody else's process the system may say nothing but that it is there.
    monkeypatch.setattr(owners, "started", lambda pid: "")
    assert not own.has_ended


def test_a_folder_without_working_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe(tmp_path)
    assert not os.listdir(tmp_path)
    real_open, real_utime = os.open, os.utime
    monkeypatch.setattr(
        leases.os, "open", lambda path, flags, mode=0o777, **rest: real_open(path, flags & ~os.O_EXCL, mode, **rest)
    )
    with pytest.raises(EnvironmentFailure, match=r"without working locks \(a file was created a second") as refused:
        probe(tmp_path)
    assert refused.value.exit_code == 3 and str(tmp_path) in str(refused.value)
    monkeypatch.setattr(leases.os, "open", real_open)
    monkeypatch.setattr(leases.os, "utime", lambda path, times=(0, 0): real_utime(path, times))
    with pytest.raises(EnvironmentFailure, match="times of files are not kept"), run_lock(tmp_path, print):
        pass


def test_a_run_and_commands_for_its_units_keep_apart(tmp_path: Path) -> None:
    said: list[str] = []
    one, other = tmp_path / "export" / "a", tmp_path / "export" / "b"
    with unit_lock(tmp_path, one, said.append), unit_lock(tmp_path, other, said.append):
        with (
            pytest.raises(RequestError, match=f"is being made by process {os.getpid()} on "),
            unit_lock(tmp_path, one, said.append),
        ):
            pass
        with (
            pytest.raises(RequestError, match=f"one unit of the run is at work .*process {os.getpid()}"),
            run_lock(tmp_path, said.append),
        ):
            pass
    with run_lock(tmp_path, said.append):
        with (
            pytest.raises(RequestError, match=f"a run is using .*process {os.getpid()}"),
            unit_lock(tmp_path, one, said.append),
        ):
            pass
        with pytest.raises(RequestError, match="another run is using"), run_lock(tmp_path, said.append):
            pass
    assert not said and not held_in(tmp_path / LOCKS)


def test_what_a_lost_machine_held_is_taken_over(tmp_path: Path, quick: None) -> None:
    said: list[str] = []
    unit = tmp_path / "export" / "a"
    claim = claim_file(tmp_path, unit)
    claim.parent.mkdir()
    for file in (claim, claim.with_name("run")):
        file.with_name(f"{file.name}.1").write_text(ELSEWHERE.to_json())
    with unit_lock(tmp_path, unit, said.append):
        pass
    claim.with_name(f"{claim.name}.7").write_text(ELSEWHERE.to_json())
    with run_lock(tmp_path, said.append):
        pass
    assert said and all("is held by process 12 on node7" in line and "still alive" in line for line in said)


@pytest.fixture
def two_mounts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """One folder under two paths: by a bind mount where that is allowed, else by a link."""
    folder, second = tmp_path / "folder", tmp_path / "second"
    folder.mkdir()
    second.mkdir()
    bound = (
        os.name != "nt" and subprocess.run(["mount", "--bind", folder, second], capture_output=True).returncode == 0
    )
    if not bound:
        second.rmdir()
        second.symlink_to(folder, target_is_directory=True)
    request.node.user_properties.append(("two mounts", "bind mount" if bound else "symbolic link"))
    yield folder, second
    if bound:
        subprocess.run(["umount", second], check=True)


def test_two_machines_with_two_mounts_of_a_folder(two_mounts: tuple[Path, Path], quick: None) -> None:
    here, there = two_mounts
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, there / "a", "another machine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            with locked(here / "a") as mine:
                assert not mine
            assert is_alive(here / "a")
            found = holder(here / "a")
            assert found is not None and found.owner is not None and found.owner.pid == other.pid
            other.kill()  # nobody here can see that it has ended: its time has to run out
            assert take(here / "a") is None
            deadline = time.monotonic() + 30
            while (lease := take(here / "a")) is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            other.kill()
    assert sorted(os.listdir(there)) == ["a.2"]
    lease.give_back()


def test_the_machine_is_told_by_what_it_is() -> None:
    assert owners._machine() == this_process().machine != ""
