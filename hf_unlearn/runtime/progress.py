"""What a person sees while a run is at work: stages, a bar on a terminal, a few lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ..errors import printable
from .jobs import Job


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
        """Pass results on while showing how many of ``jobs`` are done.

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
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with RichProgress(*columns, console=self.console) as bars:
            task = bars.add_task("", total=jobs, stage=stage)
            for job, result in results:
                bars.update(task, advance=1, description=f"[dim]{escape(job.title)}")
                yield job, result
            bars.update(task, description="")

    def _follow_in_log(self, stage: str, jobs: int, results: Iterable[tuple[Job, Any]]) -> Iterator[tuple[Job, Any]]:
        marks = {max(1, jobs * quarter // 4) for quarter in (1, 2, 3, 4)}
        for done, (job, result) in enumerate(results, start=1):
            if done in marks:
                self.say(f"{stage:<9} {done}/{jobs}  {job.title}")
            yield job, result

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        return f"{minutes:2d}:{seconds:02d}"
