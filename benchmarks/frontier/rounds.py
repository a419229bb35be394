"""What rehearsals bring back of facts that they do not teach, round by round, as one plot.

    python -m benchmarks.frontier.rounds --write

Reads what training wrote down of `auto` in every cell that was run: how much more the model prefers right answers to
those of other rows, in nats a token, right after each rehearsal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.frontier.kinds import MAIN
from benchmarks.pages import made_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
METHOD = "auto"

Preferences = dict[str, dict[str, list[float]]]
"""By kind and seed, one number for each round."""


def read_rounds(runs: Path) -> Preferences:
    """What every cell in a folder of runs says.

    Args:
        runs: With a folder for each cell, ``KIND-SEED``.
    """
    found: Preferences = {}
    for kind in MAIN:
        for path in sorted(runs.glob(f"{kind}-*/run/train/{METHOD}/training.json")):
            seed = path.parents[3].name.removeprefix(f"{kind}-")
            told = json.loads(path.read_text(encoding="utf-8"))["parts"][METHOD]
            if seed.isdecimal() and "brought_back" in told:
                found.setdefault(kind, {})[seed] = told["brought_back"]
    return found


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
    found = read_rounds(arguments.out)
    if not found:
        parser.error(
            f"{arguments.out} holds no cell of {', '.join(MAIN)} with {METHOD}: run benchmarks.frontier first"
        )
    for kind, seeds in found.items():
        print(kind, {seed: len(values) for seed, values in seeds.items()})
    if arguments.write:
        content = {"made": made_by("python -m benchmarks.frontier.rounds --write", timed=False), "brought_back": found}
        (HERE / "rounds.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        rounds_figure(found).savefig(HERE / "rounds.png", dpi=150)


if __name__ == "__main__":
    main()
