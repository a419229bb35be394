"""What a person sees of a run at work: one bar on a terminal, a few plain lines elsewhere, never a raw mapping."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.runtime import progress as module
from hf_unlearn.runtime.jobs import Job
from hf_unlearn.runtime.progress import Progress, time_left
from hf_unlearn.runtime.steps import is_heard, tell_steps


def work(jobs: int, steps: int, pause: float) -> Iterator[tuple[Job, Any]]:
    """Jobs that tell their steps."""
    for number in range(jobs):
        for step in range(1, steps + 1):
            tell_steps(step, steps)
            time.sleep(pause)
        yield Job(f"job{number}", len), number


def shown(console: Console, jobs: int, steps: int, pause: float = 0.0) -> str:
    """What following these jobs prints."""
    results = [result for _, result in Progress(console).follow("train", jobs, work(jobs, steps, pause))]
    assert results == list(range(jobs))
    assert not is_heard()
    return console.file.getvalue()


def test_a_pipe_gets_a_line_at_each_quarter_of_the_jobs() -> None:
    text = shown(Console(file=io.StringIO(), width=100), jobs=8, steps=50)
    assert [line.split()[-2:] for line in text.splitlines()] == [
        ["2/8", "job1"],
        ["4/8", "job3"],
        ["6/8", "job5"],
        ["8/8", "job7"],
    ]


def test_a_pipe_gets_a_line_at_each_quarter_of_a_long_job(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    text = shown(Console(file=io.StringIO(), width=100), jobs=1, steps=200)
    lines = [" ".join(line.split()[1:]) for line in text.splitlines()]
    assert [line.split(",")[0] for line in lines] == [
        "train step 50 of 200",
        "train step 100 of 200",
        "train step 150 of 200",
        "train 1/1 job0",
    ]
    assert all("left" in line for line in lines[:3])


def test_a_terminal_gets_one_bar_that_moves_within_a_job() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, _environ={})
    text = shown(console, jobs=2, steps=2, pause=0.15)
    assert "2/2" in text and "step 1 of 2" in text
    assert text.count("\n") <= 2, "the bar is drawn over itself, not line by line"


@pytest.mark.parametrize(
    ("elapsed", "share", "expected"),
    [
        (0.5, 0.5, ""),
        (60, 0.0, ""),
        (60, 1.0, ""),
        (30, 0.5, "less than a minute left"),
        (60, 0.25, "about 3 min left"),
        (3600, 0.1, "about 9 hours left"),
    ],
)
def test_time_left_is_what_the_work_so_far_says(elapsed: float, share: float, expected: str) -> None:
    assert time_left(elapsed, share) == expected


def test_nobody_listens_in_a_worker() -> None:
    assert not is_heard()
    tell_steps(1, 2)
