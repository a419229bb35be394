"""Tries settings on the tuning seeds: one line each, appended to a file, so that the number of tries can be stated.

    python -m benchmarks.frontier.trial years 100 '{"name": "a", "loss_type": "ga", "robust": ["cycles"], ...}'

One fold of RTT, no formats: recovered shares with their intervals as a model stands and under RTT, and the least of
what is kept of the retain set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.frontier.arguments import add_run_arguments, sources_of
from benchmarks.frontier.cells import Cell
from benchmarks.frontier.kinds import KINDS, METRICS
from benchmarks.frontier.methods import METHODS, PLAIN

LOG = Path(__file__).with_name("trials.jsonl")


def line_of(report: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What a report says of one method, as far as tuning looks at it."""
    found: dict[str, Any] = {}
    for row in report["recovered"]:
        if row["model"] == method and row["metric"] in METRICS and row["recovered_share"] is not None:
            lo, hi = row["ci95"] or (None, None)
            found.setdefault(row["transform"], {})[row["metric"]] = [row["recovered_share"], lo, hi]
    ratios = [row["ratio"] for row in report["utility"] if row["model"] == method and row["ratio"] is not None]
    return {"shares": found, "utility": min(ratios, default=None)}


def main() -> None:
    """Run the tries and write their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("seed", type=int)
    parser.add_argument("methods", nargs="+", help="entries of a recipe's methods, as JSON")
    add_run_arguments(parser)
    parser.set_defaults(out=Path("runs/frontier-tuning"))
    parser.add_argument("--folds", type=int, default=1, help="folds of RTT that are attacked, of five")
    arguments = parser.parse_args()
    methods = [METHODS[PLAIN].entry(), *({"save_strategy": "no", **json.loads(text)} for text in arguments.methods)]
    out = arguments.out / f"{arguments.kind}-{arguments.seed}"
    kind = KINDS[arguments.kind]
    cell = Cell(
        kind, arguments.seed, methods, out, arguments.folds, sources_of(arguments), arguments.workers, formats=False
    )
    report = cell.run()
    for method in methods:
        training = cell.training_of(str(method["name"]))
        line = {"kind": arguments.kind, "seed": arguments.seed, "folds": arguments.folds, "method": method}
        line |= {"training": training, **line_of(report, str(method["name"]))}
        if method["name"] != PLAIN:
            with LOG.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        print(method["name"], json.dumps(line["shares"]), line["utility"], training["seconds"])


if __name__ == "__main__":
    main()
