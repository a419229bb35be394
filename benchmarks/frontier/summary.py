"""The study in one table: what retraining brings back by each method, on each kind of fact."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.frontier.cells import NEVER
from benchmarks.frontier.kinds import MAIN
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.outcome import JUDGED, Outcome
from benchmarks.frontier.table import plain_costs, relative_cost
from hf_unlearn.reporting.words import show

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "results.md"
BLOCK = re.compile(r"(<!-- frontier -->\n).*?(<!-- /frontier -->)", re.DOTALL)


def read_results(path: Path = RESULTS) -> tuple[str, list[Outcome]]:
    """How the results were made, and all outcomes."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content["made"], [Outcome(**plain) for plain in content["outcomes"]]


def write_results(made: str, outcomes: Sequence[Outcome], path: Path = RESULTS) -> None:
    """Keep them for :func:`read_results`."""
    content = {"made": made, "outcomes": [one.plain() for one in outcomes]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def summary(made: str, outcomes: Sequence[Outcome]) -> str:
    """Means over seeds: recovered share under RTT by probability and multiple choice, what is kept, and the cost."""
    kinds = [name for name in MAIN if any(one.kind == name for one in outcomes)]
    costs = plain_costs(outcomes)
    heads = [f"{name}: RTT, p / mc | kept | cost" for name in kinds]
    lines = [made, "", f"| method | {' | '.join(heads)} |", f"|---|{'---|' * 3 * len(kinds)}"]
    for name in (*METHODS, NEVER):
        mine = [one for one in outcomes if one.method == name and one.kind in kinds]
        if mine:
            cells = [_cells([one for one in mine if one.kind == kind], costs) for kind in kinds]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cells(outcomes: Sequence[Outcome], costs: dict[tuple[str, int], float]) -> str:
    if not outcomes:
        return "– | – | –"
    shares = " / ".join(show(fmean(one.rtt[metric] for one in outcomes), 2) for metric in JUDGED)
    seeds = len({one.seed for one in outcomes})
    cost = fmean(relative_cost(one, costs) for one in outcomes)
    return f"{shares} ({seeds}) | {show(fmean(one.utility for one in outcomes), 2)} | {cost:.1f}"


def filled(text: str, block: str) -> str:
    """A page with the block made anew."""
    return BLOCK.sub(lambda found: found[1] + block + found[2], text)
