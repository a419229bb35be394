"""The results in a terminal: one table, and below it the verdict with its reasons."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from .results import Results
from .rows import Report, Subject, Transform
from .words import metric_label, show

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}
MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
ASCII_MARKS = {"passed": "+", "failed": "x", "inconclusive": "?"}
# A pipe has no width of its own, and the library's answer of 80 columns would cut the table in two.
PIPE_WIDTH = 120
MAX_REASONS = 6
MAX_NAME = 24
_INFINITIVES = {"passed": "pass", "failed": "fail"}


def print_results(report: Report, console: Console | None = None, *, report_path: Path | str | None = None) -> None:
    """Print models against transforms, then the verdict, its reasons and the controls.

    Every cell has the forget score above the retain score in the headline metric. The marks sum up *all* gate metrics
    (forget line) and all utility checks (retain line) under that transform, and say without colour what colour says.

    Args:
        report: The report dictionary.
        console: Where to print; standard output if left out.
        report_path: Where the report lies, to tell the reader.
    """
    console = console or _stdout_console()
    printer = _Printer(Results(report), console)
    printer.table()
    printer.verdict()
    printer.other_candidates()
    printer.controls()
    printer.closing(report_path)


def _stdout_console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(PIPE_WIDTH, console.width))


class _Printer:
    """One printing of one report."""

    def __init__(self, results: Results, console: Console) -> None:
        self.results = results
        self.console = console
        self.marks = ASCII_MARKS if console.options.ascii_only else MARKS

    def table(self) -> None:
        """The table; more transforms than the terminal is wide go to further tables below."""
        if not self.results.transforms:
            return
        title = f"{self.results.name}: forget and retain {metric_label(self.results.headline)}"
        for transforms in self._blocks():
            self._print(self._table(transforms, title))
            title = "... continued"
        self._line(
            f"{self.marks['passed']} passed  {self.marks['failed']} failed  {self.marks['inconclusive']} "
            "inconclusive, over all gate metrics (forget) and utility checks (retain)",
            style="dim",
        )

    def verdict(self) -> None:
        """The verdict and why."""
        release = self.results.release
        about = f" for {release.name}" if release else ""
        self._blank()
        self._line(f"Verdict: {self.results.status.upper()}{about}", style=STYLES.get(self.results.status, "bold"))
        for reason in self.results.reasons[:MAX_REASONS]:
            self._bullet("-", reason)
        rest = len(self.results.reasons) - MAX_REASONS
        if rest > 0:
            self._bullet("-", f"{rest} more {'reason' if rest == 1 else 'reasons'} in the report")

    def other_candidates(self) -> None:
        """One line for each method that is not the release candidate."""
        others = [subject for subject in self.results.subjects if subject.role == "candidate"]
        if others:
            self._blank()
            self._line("Other candidates", style="bold")
        for subject in others:
            why = f": {subject.reasons[0]}" if subject.reasons else ""
            more = f" (and {len(subject.reasons) - 1} more)" if len(subject.reasons) > 1 else ""
            self._bullet(self._mark(subject.status), f"{subject.name} {subject.status or 'not judged'}{why}{more}")

    def controls(self) -> None:
        """Whether each control came out as it must."""
        if not self.results.controls:
            return
        self._blank()
        self._line("Controls", style="bold")
        for control in self.results.controls:
            self._bullet(self._mark("passed" if control.as_expected else "failed"), control_sentence(control))

    def closing(self, report_path: Path | str | None) -> None:
        """What was not tested and where the report lies."""
        not_tested = [str(item) for item in self.results.report.get("not_tested") or ()]
        self._blank()
        if not_tested:
            self._line(f"Not tested: {', '.join(not_tested)}", style="dim")
        if report_path is not None:
            self._line(f"Report: {report_path}")

    def _blocks(self) -> list[list[Transform]]:
        """Transforms in as many groups as the width needs."""
        from rich.measure import Measurement

        groups: list[list[Transform]] = [[]]
        for transform in self.results.transforms:
            wider = self._table([*groups[-1], transform], "")
            too_wide = Measurement.get(self.console, self.console.options.update(width=10_000), wider).maximum
            if groups[-1] and too_wide > self.console.width:
                groups.append([])
            groups[-1].append(transform)
        return groups

    def _table(self, transforms: list[Transform], title: str) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            title=self._text(title) if title else None,
            title_justify="left",
            title_style="bold",
            box=box.ASCII if self.console.options.ascii_only else box.HORIZONTALS,
            padding=0,
        )
        table.add_column("model", max_width=MAX_NAME, overflow="fold", vertical="bottom")
        table.add_column("set", style="dim", vertical="bottom")
        for transform in transforms:
            table.add_column(
                self._text("\n".join(transform.label.replace(" ", "-").split("-"))),
                justify="right",
                no_wrap=True,
                vertical="bottom",
            )
        table.add_column(" verdict", vertical="bottom")
        previous = None
        for subject in self.results.subjects:
            group = {"release": "candidate", "never_knew": "target"}.get(subject.role, subject.role)
            if previous not in (None, group):
                table.add_section()
            previous = group
            cells = [self._cell(subject, transform) for transform in transforms]
            table.add_row(self._name(subject), "forget\nretain", *cells, self._outcome(subject))
        return table

    def _name(self, subject: Subject) -> Text:
        from rich.text import Text

        roles = {
            "target": "knows the facts",
            "never_knew": "reference",
            "release": "release",
            "candidate": "candidate",
            "control": "control",
            "other": "",
        }
        name = self._text(subject.label, style="bold" if subject.role == "release" else "")
        return Text.assemble(name, "\n", self._text(roles[subject.role], style="dim"))

    def _cell(self, subject: Subject, transform: Transform) -> Text:
        from rich.text import Text

        results, name = self.results, transform.name
        forget = results.forget_status(subject.name, name)
        retain = results.retain_status(subject.name, name)
        lines = []
        for split, status in (("forget", forget), ("retain", retain)):
            score = results.score(subject.name, name, split, results.headline)
            mark = self.marks.get(status or "", " ")
            style = "dim" if subject.is_reference else STYLES.get(status or "", "")
            lines.append(self._text(show(score.value if score else None) + mark, style=style))
        return Text("\n").join(lines)

    def _outcome(self, subject: Subject) -> Text:
        from rich.text import Text

        if subject.is_reference or subject.status is None:
            return self._text("")
        status = subject.status
        if subject.role != "control":
            return self._text(f" {status}\n", style=STYLES.get(status, ""))
        must = f"must {_INFINITIVES.get(subject.expected or '', 'differ')}"
        note = "as it must" if subject.as_expected else "not caught" if status == subject.expected else must
        style = "green" if subject.as_expected else "bold red"
        return Text.assemble(self._text(f" {status}\n "), self._text(note, style=style))

    def _mark(self, status: str | None) -> Text:
        return self._text(self.marks.get(status or "", "-"), style=STYLES.get(status or "", ""))

    def _bullet(self, mark: Text | str, text: str) -> None:
        from rich.table import Table

        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=3, justify="right")
        grid.add_column(overflow="fold")
        grid.add_row(mark, self._text(text))
        self._print(grid)

    def _line(self, text: str, style: str = "") -> None:
        self._print(self._text(text, style=style))

    def _blank(self) -> None:
        self._print(self._text(""))

    def _print(self, renderable: Table | Text) -> None:
        self.console.print(renderable, soft_wrap=False)

    def _text(self, text: str, style: str = "") -> Text:
        """Text that is shown as it stands: no markup, no control characters, nothing the terminal cannot encode."""
        from rich.text import Text

        clean = "".join(char for char in text if char == "\n" or unicodedata.category(char) != "Cc")
        if self.console.options.ascii_only:
            clean = clean.replace("–", "-").encode("ascii", "replace").decode("ascii")
        return Text(clean, style=style)


def control_sentence(control: Subject) -> str:
    """Whether a control came out as it must, in words."""
    if control.status is None:
        return f"{control.name} was not judged"
    caught = f", caught by {', '.join(control.caught_by)}" if control.caught_by else ""
    if control.as_expected:
        return f"{control.name} {control.status}, as it must{caught}"
    if control.status == control.expected:
        return f"{control.name} {control.status}, but {_missed(control)}{caught}"
    must = _INFINITIVES.get(control.expected or "", "come out otherwise")
    return f"{control.name} {control.status}, but must {must}{caught}"


def _missed(control: Subject) -> str:
    """Why a control that has the verdict it must have is not as it must be: nothing found what was hidden."""
    missing = [name for name in control.required_by if name not in control.caught_by]
    return f"was not caught by {', '.join(missing)}" if missing else "not because the facts were found"
