"""What a person sees while a run is at work: stages, a bar on a terminal, a few lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from ..errors import printable
from .jobs import Job
from .steps import heard_by

# Jobs that end sooner are told by their end alone.
_LONG = 20.0


class Progress:
    """Announces stages and follows their jobs.

    Attributes:
        console: Where everything is printed.
        seconds: Time taken by each stage so far.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=False, highlight=False)
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"[dim]{self._clock()}[/dim] {escape(printable(text))}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage that has no jobs."""
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def follow(self, stage: str, jobs: int, results: Iterable[tuple[Job, Any]]) -> Iterator[tuple[Job, Any]]:
        """Pass results on while showing how many of ``jobs`` are done, and how long the rest takes.

        On a terminal that is one bar, which also moves within a job that tells its steps
        (:func:`~hf_unlearn.runtime.steps.tell_steps`). Elsewhere it is a line at each quarter.

        Args:
            stage: Name of the stage.
            jobs: How many results there will be; nothing is shown for 0.
            results: Pairs of job and result, as they end.
        """
        if jobs == 0:
            return
        start = time.monotonic()
        show = self._follow_on_terminal if self.console.is_terminal else self._follow_in_log
        yield from show(stage, jobs, results)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    def _follow_on_terminal(
        self, stage: str, jobs: int, results: Iterable[tuple[Job, Any]]
    ) -> Iterator[tuple[Job, Any]]:
        columns = (
            TextColumn("[bold]{task.fields[stage]:<9}"),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.total:.0f}"),
            TimeElapsedColumn(),
            _TimeLeft(),
            TextColumn("{task.description}"),
        )
        with RichProgress(*columns, console=self.console) as bars:
            task = bars.add_task("", total=jobs, stage=stage, done=0)
            finished = 0

            def within(done: int, total: int) -> None:
                bars.update(task, completed=finished + done / total, description=f"[dim]step {done} of {total}")

            with heard_by(within):
                for job, result in results:
                    finished += 1
                    bars.update(task, completed=finished, done=finished, description=f"[dim]{escape(job.title)}")
                    yield job, result
            bars.update(task, description="")

    def _follow_in_log(self, stage: str, jobs: int, results: Iterable[tuple[Job, Any]]) -> Iterator[tuple[Job, Any]]:
        marks = {max(1, jobs * quarter // 4) for quarter in (1, 2, 3, 4)}
        lines = _StepLines(lambda text: self.say(f"{stage:<9} {text}"))
        with heard_by(lines.heard):
            for done, (job, result) in enumerate(results, start=1):
                lines.begin()
                if done in marks:
                    self.say(f"{stage:<9} {done}/{jobs}  {job.title}")
                yield job, result

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        return f"{minutes:2d}:{seconds:02d}"


class _TimeLeft(ProgressColumn):
    """How long the rest takes if it goes on as it has: from the start, because jobs differ more than moments do."""

    def render(self, task: Task) -> Text:
        """``about 3 min left``; nothing before there is something to go by."""
        return Text(time_left(task.elapsed or 0.0, task.completed / task.total if task.total else 0.0), "cyan")


class _StepLines:
    """A line at each quarter of a job that takes long."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.begin()

    def begin(self) -> None:
        """Another job begins."""
        self._started = time.monotonic()
        self._told = 0

    def heard(self, done: int, total: int) -> None:
        """A step is made."""
        quarter = 4 * done // total
        elapsed = time.monotonic() - self._started
        if self._told < quarter < 4 and elapsed > _LONG:
            left = time_left(elapsed, done / total)
            self._say(f"step {done} of {total}" + (f", {left}" if left else ""))
        self._told = max(self._told, quarter)


def time_left(elapsed: float, share: float) -> str:
    """How long the rest takes, in words; empty where nothing is done yet, or all of it.

    Args:
        elapsed: Seconds so far.
        share: What is done, from 0 to 1.
    """
    if elapsed < 1 or not 0 < share < 1:
        return ""
    seconds = elapsed * (1 - share) / share
    if seconds < 60:
        return "less than a minute left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 120 else f"about {round(minutes / 60)} hours left"
