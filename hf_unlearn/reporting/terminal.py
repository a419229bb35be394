"""The results in a terminal: one table, and below it the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable
from .earlier import earlier_entries, entry_sentence
from .explanation import Explained, came_back_sentences, explained, pooled_sentence
from .forgotten_rows import auc_words, forgotten_rows_sentence, limit_words, signals_words
from .known_facts import anti_known_sentence, counts_to_show, limit_phrase
from .results import Results, Subject, Transform
from .sentences import (
    control_note,
    control_sentence,
    first_reasons,
    grouped_reasons,
    outcome_sentences,
    shortened,
    verdict_reasons,
    warning,
)
from .to_try import what_to_try
from .words import SPACE, metric_label, metric_phrase, percent, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}
MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
ASCII_MARKS = {"passed": "+", "failed": "x", "inconclusive": "?"}
# A pipe has no width, and the library's default of 80 columns would split the table.
PIPE_WIDTH = 120
MAX_NAME = 24


def print_results(
    report: Mapping[str, Any], console: Console | None = None, *, report_path: Path | str | None = None
) -> None:
    """Print models against transforms, then the verdict, its reasons and the controls.

    Every cell has the forget score above the retain score in the headline metric. The marks sum up *all* gate metrics
    (forget line) and all utility checks (retain line) under that transform, and say the same as the colours.

    Args:
        report: The report as JSON has it.
        console: Where to print; standard output if left out.
        report_path: Where the report is, for the reader.
    """
    console = console or _stdout_console()
    printer = _Printer(Results(report), console)
    printer.table()
    printer.verdict()
    printer.known_facts()
    printer.forgotten_rows()
    printer.earlier()
    printer.other_candidates()
    printer.controls()
    printer.explanation()
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
        """The table; transforms that do not fit go into further tables below."""
        if not self.results.transforms:
            return
        title = f"{self.results.name}: forget and retain {metric_label(self.results.headline)}"
        groups, digits = self._layout()
        for transforms in groups:
            self._print(self._table(transforms, title, digits))
            title = "... continued"
        self._line(
            f"{self.marks['passed']} passed  {self.marks['failed']} failed  {self.marks['inconclusive']} "
            "inconclusive: by all gate metrics (forget) and utility checks (retain), not by the number shown alone",
            style="dim",
        )

    def verdict(self) -> None:
        """The verdict and why."""
        release = self.results.release
        about = f" for {release.name}" if release else ""
        self._blank()
        self._line(f"Verdict: {self.results.status.upper()}{about}", style=STYLES.get(self.results.status, "bold"))
        for reason in first_reasons(verdict_reasons(self.results)):
            self._bullet("-", reason)
        for sentence in outcome_sentences(self.results):
            self._bullet("-", sentence)
        for sentence in what_to_try(self.results):
            self._bullet(">", f"To try: {sentence}")
        if warning(self.results):
            self._bullet("!", warning(self.results), style="bold red")

    def known_facts(self) -> None:
        """One line per transform: how many single facts the candidate still knows there."""
        release = self.results.release
        rows = counts_to_show(self.results, release.name) if release else []
        if not release or not rows:
            return
        self._blank()
        self._line("Single facts that are still known", style="bold")
        self._line(
            "anti-known: far below a model that never knew, which tells that it was to be forgotten", style="dim"
        )
        for row in rows:
            self._bullet(
                self._mark(row.status),
                f"{self.results.transform_label(row.transform)}: {row.known} of {row.n} by "
                f"{metric_phrase(row.metric)}, {limit_phrase(row)} (by chance {show(row.by_chance, 1)}); "
                f"anti-known {row.anti_known} (by chance {show(row.anti_known_by_chance, 1)})",
            )
        anti = anti_known_sentence(self.results, release.name)
        if anti:
            self._bullet("!", anti)

    def forgotten_rows(self) -> None:
        """One line per transform: how well the candidate alone tells forgotten rows from holdout rows."""
        release = self.results.release
        rows = self.results.forgotten_rows(release.name) if release else ()
        if not release or not rows:
            return
        self._blank()
        self._line("Which rows were forgotten, told by the model alone (AUC, 0.5 is a guess)", style="bold")
        for row in rows:
            self._bullet(
                self._mark(row.status),
                f"{self.results.transform_label(row.transform)}: {auc_words(row)} over {row.n} facts "
                f"({signals_words(row)}), {'' if row.threshold is None else 'allowed '}{limit_words(row)}",
            )
        self._line(forgotten_rows_sentence(self.results, release.name))

    def earlier(self) -> None:
        """One line for each earlier deletion request."""
        entries = earlier_entries(self.results.report)
        if not entries:
            return
        self._blank()
        self._line("Earlier deletion requests, asked again", style="bold")
        for entry in entries:
            self._bullet(self._mark(entry.now), entry_sentence(entry))

    def other_candidates(self) -> None:
        """One line for each method that is not the release candidate."""
        others = [subject for subject in self.results.subjects if subject.role == "candidate"]
        if others:
            self._blank()
            self._line("Other candidates", style="bold")
        for subject in others:
            reasons = grouped_reasons(self.results, subject.name, subject.reasons)
            why = f": {reasons[0]}" if reasons else ""
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            self._bullet(self._mark(subject.status), f"{subject.name} {subject.status or 'not judged'}{why}{more}")

    def controls(self) -> None:
        """Whether each control came out as it must."""
        if not self.results.controls:
            return
        self._blank()
        self._line("Controls: models whose verdict is known beforehand", style="bold")
        for control in self.results.controls:
            self._bullet(
                self._mark("passed" if control.as_expected else "failed"), control_sentence(self.results, control)
            )

    def explanation(self) -> None:
        """Weights compared with the target's on every grid, noise next to formats, pooled retention."""
        rows = [row for row in explained(self.results) if row.formats]
        if rows:
            self._blank()
            self._line(
                "Weights compared with the target's: how many moved, and how many each format stores as another value",
                style="bold",
            )
            self._print(self._grids_table(rows))
        for sentence in (line for row in rows for line in came_back_sentences(self.results, row)):
            self._bullet("-", sentence)
        pooled = pooled_sentence(self.results)
        if pooled:
            self._blank()
            self._line(pooled)

    def _grids_table(self, rows: Sequence[Explained]) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            box=box.ASCII if self.console.options.ascii_only else box.HORIZONTALS,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        names = list(dict.fromkeys(on.format for row in rows for on in row.formats))
        for title in ("model", "moved", "vanish if\nsaved in\nbf16", *(name.replace("-", "-\n", 1) for name in names)):
            table.add_column(self._text(title), justify="left" if title == "model" else "right", overflow="fold")
        for row in rows:
            codes = {on.format: on.weights.codes_changed for on in row.formats}
            cells = [row.moved, row.lost, *(codes.get(name) for name in names)]
            table.add_row(self._text(row.model), *(self._text(percent(cell)) for cell in cells))
        return table

    def closing(self, report_path: Path | str | None) -> None:
        """What was not tested and where the report is."""
        not_tested = [shortened(item) for item in self.results.report.not_tested]
        self._blank()
        if not_tested:
            self._line(f"Not tested: {', '.join(not_tested)}", style="dim")
        if report_path is not None:
            self._line(f"Report: {report_path}")

    def _layout(self) -> tuple[list[list[Transform]], int]:
        """Transforms in as many groups as the width needs, and decimals: fewer of them rather than a second table."""
        groups = self._groups(3)
        if len(groups) > 1 and len(self._groups(2)) == 1:
            return self._groups(2), 2
        return groups, 3

    def _groups(self, digits: int) -> list[list[Transform]]:
        from rich.measure import Measurement

        groups: list[list[Transform]] = [[]]
        for transform in self.results.transforms:
            wider = self._table([*groups[-1], transform], "", digits)
            too_wide = Measurement.get(self.console, self.console.options.update(width=10_000), wider).maximum
            if groups[-1] and too_wide > self.console.width:
                groups.append([])
            groups[-1].append(transform)
        return groups

    def _table(self, transforms: list[Transform], title: str, digits: int) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            title=self._text(title) if title else None,
            title_justify="left",
            title_style="bold",
            box=box.ASCII if self.console.options.ascii_only else box.HORIZONTALS,
            padding=0,
            show_edge=False,
        )
        headers = {transform.name: transform.label.split("-") for transform in transforms}
        height = max(map(len, headers.values()), default=1)
        above = "\n" * (height - 1)
        table.add_column(f"{above}model", max_width=MAX_NAME, overflow="fold")
        table.add_column(f"{above}set", style="dim")
        for transform in transforms:
            lines = headers[transform.name]
            header = self._text("\n" * (height - len(lines)) + "\n".join(lines))
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column(f"{above}verdict")
        previous = None
        for subject in self.results.subjects:
            group = {"release": "candidate", "never_knew": "target"}.get(subject.role, subject.role)
            if previous not in (None, group):
                table.add_section()
            previous = group
            cells = [self._cell(subject, transform, digits) for transform in transforms]
            table.add_row(self._name(subject), "forget\nretain", *cells, self._outcome(subject))
        return table

    def _name(self, subject: Subject) -> Text:
        from rich.text import Text

        name = self._text(subject.label, style="bold" if subject.role == "release" else "")
        # On a line of its own, so that the column is not wider than the names.
        role = subject.role_words.replace(" and ", "\nand ")
        return Text.assemble(name, "\n", self._text(role, style="dim"))

    def _cell(self, subject: Subject, transform: Transform, digits: int) -> Text:
        from rich.text import Text

        results, name = self.results, transform.name
        forget = results.forget_status(subject.name, name)
        retain = results.retain_status(subject.name, name)
        lines = []
        for split, status in (("forget", forget), ("retain", retain)):
            value = results.value(subject.name, name, split, results.headline)
            mark = self.marks.get(status or "", " ")
            style = "dim" if subject.is_reference else STYLES.get(status or "", "")
            lines.append(self._text(show(value, digits) + mark, style=style))
        return Text("\n").join(lines)

    def _outcome(self, subject: Subject) -> Text:
        from rich.text import Text

        if subject.is_reference or subject.status is None:
            return self._text("")
        status = self._text(subject.status, style=STYLES.get(subject.status, ""))
        if not subject.is_control:
            return status
        note = self._text(control_note(subject), style="green" if subject.as_expected else "bold red")
        return Text.assemble(status, "\n", note)

    def _mark(self, status: str | None) -> Text:
        return self._text(self.marks.get(status or "", "-"), style=STYLES.get(status or "", ""))

    def _bullet(self, mark: Text | str, text: str, style: str = "") -> None:
        """A line with a mark before it, its continuation indented."""
        from rich.text import Text

        self._print_wrapped(
            Text.assemble("  ", mark if isinstance(mark, Text) else self._text(mark), " "), text, style
        )

    def _print_wrapped(self, head: Text | str, text: str, style: str) -> None:
        """Lines without the trailing spaces that the library adds: a pipe would keep them."""
        from rich.text import Text

        for line in self._text(text, style=style).wrap(self.console, max(20, self.console.width - len(head))) or [""]:
            whole = Text.assemble(head, line)
            whole.rstrip()
            self._print(whole)
            head = " " * len(head)

    def _line(self, text: str, style: str = "") -> None:
        self._print_wrapped("", text, style)

    def _blank(self) -> None:
        self._print(self._text(""))

    def _print(self, renderable: Table | Text) -> None:
        self.console.print(renderable, soft_wrap=False)

    def _text(self, text: str, style: str = "") -> Text:
        """Text that is shown as it is: no markup, no control characters, nothing the terminal cannot encode."""
        from rich.text import Text

        clean = printable(text, keep="\n")
        if self.console.options.ascii_only:
            clean = clean.replace("–", "-").replace(SPACE, " ").encode("ascii", "replace").decode("ascii")
        return Text(clean, style=style)
