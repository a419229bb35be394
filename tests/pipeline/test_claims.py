"""Jobs of several processes: what one holds the others leave alone, and what its end gives back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hf_unlearn.runtime.jobs import Job, Workers
from hf_unlearn.runtime.locks import claim_file, claimed
from hf_unlearn.stages.attack import _Task, _until_done
from hf_unlearn.stages.units import Unit

HOLD = """
import sys
from pathlib import Path
from hf_unlearn.runtime.locks import claimed
with claimed(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def make(unit: Unit, claim: Path) -> None:
    with claimed(claim) as mine:
        if mine:
            unit.run(lambda out: (out / "done").write_text("yes"))


def tasks_in(folder: Path, *names: str) -> list[_Task]:
    units = [Unit(folder / name, {"name": name}) for name in names]
    return [_Task(unit, Job(unit.path.name, make, (unit, claim_file(folder, unit.path)))) for unit in units]


def hold(claim: Path) -> subprocess.Popen:
    """Another process with a claim in hand."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(claim)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "True\n"
    return holder


def test_a_claim_is_held_by_one_and_free_when_its_holder_is_killed(tmp_path):
    claim = tmp_path / "claims" / "one"
    claim.parent.mkdir()
    holder = hold(claim)
    with claimed(claim) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    with claimed(claim) as mine:
        assert mine


def test_a_helper_leaves_what_others_hold_and_does_the_rest(tmp_path):
    first, second = tasks_in(tmp_path, "a", "b")
    claim = claim_file(tmp_path, first.unit.path)
    claim.parent.mkdir()
    holder = hold(claim)
    try:
        done = [job.title for job, _ in _until_done(Workers(0), [first, second], helps=True)]
    finally:
        holder.kill()
        holder.wait()
    assert done == ["b"]
    assert (first.unit.done, second.unit.done) == (False, True)


def test_the_main_process_waits_for_what_others_hold_and_takes_it_over_when_they_die(tmp_path):
    first, second = tasks_in(tmp_path, "a", "b")
    claim = claim_file(tmp_path, first.unit.path)
    claim.parent.mkdir()
    holder = hold(claim)
    results = _until_done(Workers(0), [first, second], helps=False)
    assert next(results)[0].title == "b"
    holder.kill()
    holder.wait()
    assert [job.title for job, _ in results] == ["a"]
    assert first.unit.done


def test_what_needs_something_else_first_waits_for_it(tmp_path):
    start, later = tasks_in(tmp_path, "weights", "attack")
    later.first = [start.unit]
    assert [job.title for job, _ in _until_done(Workers(0), [later, start], helps=False)] == ["weights", "attack"]
