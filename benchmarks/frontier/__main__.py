"""Which method forgets for good: every method on every kind of fact, seed by seed, as one table and one plot.

    python -m benchmarks.frontier --source forget=FILE --source retain=FILE    # everything, resumable
    python -m benchmarks.frontier --kinds years --seeds 0 1 --methods npo-kl auto
    python -m benchmarks.frontier --report --write             # table and plot of what is there

A cell is one kind of fact with one seed; its methods share target and never-knew model. Training, export, scoring,
attacks and verdict are the package's own stages, and what is finished is not repeated. ``--source`` names local files
for the rows of TOFU; without it they come from the Hub.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.frontier.anew import operations_anew
from benchmarks.frontier.arguments import add_run_arguments, sources_of
from benchmarks.frontier.cells import NEVER, Cell
from benchmarks.frontier.kinds import KINDS, MAIN
from benchmarks.frontier.methods import METHODS, PLAIN
from benchmarks.frontier.outcome import Outcome, outcome_of
from benchmarks.frontier.page import write_page

SEEDS = (0, 1, 2, 3, 4)
OUTCOMES = "outcomes.json"


def main() -> None:
    """Run what is missing, then print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(MAIN))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--folds", type=int, default=5, help="folds of RTT that are attacked, of five")
    add_run_arguments(parser)
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--write", action="store_true", help="write the page, the plot and the outcomes")
    arguments = parser.parse_args()
    if not arguments.report:
        # Seed by seed, so that a run that is cut short has every kind with as many seeds.
        for seed in arguments.seeds:
            for kind in arguments.kinds:
                _run(kind, seed, arguments)
    text = write_page(read_outcomes(arguments.out), arguments.write)
    print(text)


def _run(kind: str, seed: int, arguments: argparse.Namespace) -> None:
    # Costs are told over those of plain NPO + KL.
    names = list(dict.fromkeys([PLAIN, *arguments.methods]))
    out = arguments.out / f"{kind}-{seed}"
    methods = [METHODS[name].entry() for name in names]
    cell = Cell(KINDS[kind], seed, methods, out, arguments.folds, sources_of(arguments), arguments.workers)
    report = cell.run()
    found = [outcome_of(report, cell.training_of(name), kind, seed, name) for name in names]
    found.append(outcome_of(report, {"floating_point_ops": operations_anew(out / "recipe.yaml")}, kind, seed, NEVER))
    kept = {one.method: one.plain() for one in found}
    path = out / OUTCOMES
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**before, **kept}, indent=1), encoding="utf-8")


def read_outcomes(folder: Path) -> list[Outcome]:
    """Outcomes of all cells in a folder."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{OUTCOMES}"))]
    return [Outcome(**plain) for cell in cells for plain in cell.values()]


if __name__ == "__main__":
    main()
