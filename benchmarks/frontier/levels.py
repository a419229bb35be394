"""What share of the forget set's questions each model answers rightly by choosing: the levels behind recovered shares.

    python -m benchmarks.frontier.levels --write

Reads the scores of every cell that was run: four-way multiple choice as a model stands, means over seeds. One in four
is chance; a model that never knew can be above it, where some answers fit a question better than others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

from benchmarks.frontier.kinds import MAIN
from benchmarks.frontier.methods import PLAIN
from benchmarks.pages import made_by, table

PAGE = Path(__file__).with_name("levels.md")
SCORES = {
    "target": "references/evaluate/target",
    "never-knew": "references/evaluate/never_knew",
    PLAIN: f"evaluate/{PLAIN}",
    "auto": "evaluate/auto",
}
"""Models, and where a run keeps their scores."""


def read_level(runs: Path, kind: str, place: str) -> tuple[float, int] | None:
    """Mean over the seeds of a kind, and how many there are; ``None`` where there is none.

    Args:
        runs: With a folder for each cell, ``KIND-SEED``.
        kind: Its name.
        place: Of a model's scores within a run.
    """
    files = [
        path
        for path in runs.glob(f"{kind}-*/run/{place}/identity/summary.json")
        if path.relative_to(runs).parts[0].removeprefix(f"{kind}-").isdecimal()
    ]
    means = [json.loads(path.read_text(encoding="utf-8"))["forget"]["mc_accuracy"]["mean"] for path in files]
    return (fmean(means), len(means)) if means else None


def page(made: str, runs: Path) -> str:
    """A line for each kind of the study.

    Args:
        made: How the runs were read.
        runs: Folder of the runs.
    """
    rows = []
    for kind in MAIN:
        levels = [read_level(runs, kind, place) for place in SCORES.values()]
        if any(levels):
            rows.append([kind, *("–" if level is None else f"{level[0]:.3f} ({level[1]})" for level in levels)])
    says = "Share of right choices among four as a model stands, in brackets how many seeds. Chance is 0.250."
    return f"# Levels\n\n{made}\n\n{says}\n\n{table(['kind', *SCORES], rows)}\n"


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), help="folder of the runs")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    text = page(made_by("python -m benchmarks.frontier.levels --write", timed=False), arguments.out)
    print(text)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
