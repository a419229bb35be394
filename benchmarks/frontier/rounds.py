"""How many rounds `auto` made, and what rehearsals brought back of facts that they do not teach, round by round.

    python -m benchmarks.frontier.rounds --write

Reads what training wrote down in every cell that was run: how much more the model prefers right answers to those of
other rows, in nats a token, right after each rehearsal. The plot shows `auto` on the kinds of the study.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.frontier.kinds import KINDS, MAIN
from benchmarks.frontier.methods import METHODS
from benchmarks.pages import made_by, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHOWN = "auto"
"""The method that is plotted."""

Preferences = dict[str, dict[str, list[float]]]
"""By kind and seed, one number for each round."""


def read_rounds(runs: Path, method: str) -> Preferences:
    """What every cell in a folder of runs says of one method; kinds and seeds that say nothing are left out.

    Args:
        runs: With a folder for each cell, ``KIND-SEED``.
        method: Its name.
    """
    found: Preferences = {}
    for kind in KINDS:
        for path in sorted(runs.glob(f"{kind}-*/run/train/{method}/training.json")):
            seed = path.parents[3].name.removeprefix(f"{kind}-")
            told = json.loads(path.read_text(encoding="utf-8")).get("parts", {}).get("auto", {})
            if seed.isdecimal() and "brought_back" in told:
                found.setdefault(kind, {})[seed] = told["brought_back"]
    return found


def page(made: str, found: Mapping[str, Preferences]) -> str:
    """A line for each kind and method: rounds by seed.

    Args:
        made: How the runs were read.
        found: By method.
    """
    rows = [
        [kind, method, ", ".join(f"{len(values)} (seed {seed})" for seed, values in seeds.items())]
        for method, kinds in found.items()
        for kind, seeds in kinds.items()
    ]
    title = "# How many rounds there were\n\n"
    return f"{title}{made}\n\n{table(['kind', 'method', 'rounds'], rows)}\n\n![round by round](rounds.png)\n"


def rounds_figure(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A panel for each kind, a line for each seed; it ends where the rounds of that run ended."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for panel, (kind, seeds) in zip(panels, found.items(), strict=True):
        for seed, values in seeds.items():
            rounds = range(1, len(values) + 1)
            panel.plot(rounds, values, color=f"C{int(seed) % 10}", marker="o", ms=2.5, lw=1, label=f"seed {seed}")
        panel.axhline(0.0, color="black", lw=0.8, ls=":")
        panel.set_title(kind, fontsize=10)
        panel.set_xlabel("round")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("right over other answers\nafter a rehearsal (nats a token)")
    panels[-1].legend(fontsize=7)
    return figure


def main() -> None:
    """Read the runs and print, or write, what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), help="folder of the runs")
    parser.add_argument("--write", action="store_true", help="write figure and numbers beside this file")
    arguments = parser.parse_args()
    found = {name: told for name in METHODS if (told := read_rounds(arguments.out, name))}
    if not found:
        parser.error(f"{arguments.out} holds no cell that tells of rounds: run benchmarks.frontier first")
    made = made_by("python -m benchmarks.frontier.rounds --write", timed=False)
    text = page(made, found)
    print(text)
    if arguments.write:
        (HERE / "rounds.md").write_text(text, encoding="utf-8")
        content = {"made": made, "brought_back": found}
        (HERE / "rounds.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        shown = {kind: seeds for kind, seeds in found.get(SHOWN, {}).items() if kind in MAIN}
        rounds_figure(shown).savefig(HERE / "rounds.png", dpi=150)


if __name__ == "__main__":
    main()
