"""Tables of results in the pages, from the reports ``benchmarks/results/NAME/unlearning_report.json``.

    python benchmarks/results_table.py REPORT              # print the table of one report
    python benchmarks/results_table.py REPORT --metric mc_accuracy
    python benchmarks/results_table.py --write             # fill every <!-- results:NAME --> block of the pages
    python benchmarks/results_table.py --check             # end with 1 if one is out of date

Models stand below each other, transforms beside each other; a cell holds the forget and the retain score.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_unlearn.reporting.results import Results, Subject
from hf_unlearn.reporting.words import metric_label, show
from hf_unlearn.verification.report_file import REPORT_FILE, load_report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "results.md")
BLOCK = re.compile(r"(<!-- results:(?P<name>[\w.-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def results_table(report: Mapping[str, Any], metric: str | None = None) -> str:
    """Markdown of one report.

    Args:
        report: A verification report.
        metric: The metric shown; the report's headline metric if left out.

    Returns:
        A line that says what was measured, and the table. A forget score is bold where the gate failed it.
    """
    results = Results(report)
    metric = metric or results.headline
    labels = [transform.label for transform in results.transforms]
    lines = [
        _caption(results, metric),
        "",
        f"| model | {' | '.join(labels)} | verdict |",
        f"|---|{'---|' * len(labels)}---|",
    ]
    for subject in _once(results.subjects):
        cells = [_cell(results, subject, transform.name, metric) for transform in results.transforms]
        lines.append(f"| {subject.label} | {' | '.join(cells)} | {_outcome(results, subject)} |")
    return "\n".join(lines) + "\n"


def _caption(results: Results, metric: str | None) -> str:
    environment = results.report.environment
    made = str(results.report.created)[:10]
    versions = environment.get("versions", {})
    tools = ", ".join(
        f"{name} {versions[name]}" for name in ("hf_unlearn", "torch", "transformers") if name in versions
    )
    found = results.report.data
    facts = " / ".join(str(found[name].facts if name in found else None) for name in ("forget", "retain"))
    return (
        f"`{results.name}`: {metric_label(metric)}, *forget / retain* ({facts} facts). "
        f"Bold: failed by at least one metric of the gate. Made {made} on {environment.get('device')} with {tools}."
    )


def _once(subjects: Sequence[Subject]) -> list[Subject]:
    """A method that serves as its own control has one line."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        found.setdefault(subject.name, subject)
    return list(found.values())


def _cell(results: Results, subject: Subject, transform: str, metric: str | None) -> str:
    forget, retain = (
        show(results.value(subject.name, transform, split, metric), digits=2) for split in ("forget", "retain")
    )
    if results.forget_status(subject.name, transform) == "failed":
        forget = f"**{forget}**"
    return f"{forget} / {retain}"


def _outcome(results: Results, subject: Subject) -> str:
    if subject.status is None:
        return "reference"
    control = next((control for control in results.controls if control.name == subject.name), None)
    if control is None:
        return str(subject.status)
    return f"{subject.status}, {'as it must' if control.as_expected else '**not as it must**'}"


def filled(text: str, folder: Path = RESULTS) -> str:
    """A page with the block of every report in ``folder`` made anew; blocks without a report stay as they are."""

    def block(found: re.Match[str]) -> str:
        path = folder / found["name"] / REPORT_FILE
        return f"{found[1]}{results_table(load_report(path))}{found[3]}" if path.is_file() else found[0]

    return BLOCK.sub(block, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table, or write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path, metavar="REPORT")
    parser.add_argument("--metric", help="show this metric instead of the headline")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="fill the pages")
    what.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    arguments = parser.parse_args(argv)
    if arguments.report is not None:
        print(results_table(json.loads(arguments.report.read_text(encoding="utf-8")), arguments.metric))
        return 0
    if not (arguments.write or arguments.check):
        parser.error("name a report, or use --write or --check")
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = [page for page, text in old.items() if filled(text) != text]
    for page in stale:
        if arguments.write:
            page.write_text(filled(old[page]), encoding="utf-8")
        else:
            shown = page.relative_to(ROOT)
            print(f"{shown} is out of date: run  python benchmarks/results_table.py --write", file=sys.stderr)
    if stale and arguments.check:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
