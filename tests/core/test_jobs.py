"""Independent jobs in worker processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time

import pytest

from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.runtime.jobs import Job, Workers


def square(value: int) -> int:
    return value * value


def refuse(value: int) -> int:
    raise RequestError(f"{value} is refused")


def lack() -> None:
    raise MissingExtraError("format x", "somelib", "quantization")


def vanish() -> None:
    os._exit(9)


@pytest.mark.parametrize("count", [0, 2])
def test_every_job_comes_back_with_its_result(count):
    with Workers(count) as workers:
        results = {job.title: result for job, result in workers.run([Job(str(n), square, (n,)) for n in range(5)])}
    assert results == {str(n): n * n for n in range(5)}


def frozen() -> int:
    return gc.get_freeze_count()


def test_workers_do_not_search_what_was_imported_for_garbage():
    with Workers(1) as workers:
        counts = [count for _, count in workers.run([Job("a", frozen), Job("b", frozen)])]
    assert 10_000 < counts[1] <= counts[0]  # once: some of it is freed later, nothing is added


def test_an_error_in_a_worker_is_the_users_error():
    with Workers(1) as workers, pytest.raises(RequestError, match="7 is refused"):
        list(workers.run([Job("bad", refuse, (7,))]))


def test_a_missing_library_in_a_worker_names_its_extra():
    with Workers(1) as workers, pytest.raises(MissingExtraError, match=r"needs somelib.*hf_unlearn\[quantization\]"):
        list(workers.run([Job("lack", lack)]))


def test_a_worker_that_dies_is_an_environment_failure():
    with Workers(1) as workers, pytest.raises(EnvironmentFailure, match="worker process died"):
        list(workers.run([Job("gone", vanish)]))


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from hf_unlearn.runtime.jobs import Job, Workers

            def wait(path):
                with open(path, "w") as file:
                    file.write(str(os.getpid()))
                time.sleep(60)

            if __name__ == "__main__":
                with Workers(1) as workers:
                    list(workers.run([Job("wait", wait, (sys.argv[1],))]))
            """
        )
    )
    marker = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(marker)])
    try:
        deadline = time.monotonic() + 60
        while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = int(marker.read_text())
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
