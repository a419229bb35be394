"""The page of the study, its plot, and the outcomes they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.frontier.cells import NEVER
from benchmarks.frontier.kinds import KINDS, MAIN, TUNING_SEEDS
from benchmarks.frontier.outcome import Outcome
from benchmarks.frontier.plot import frontier_figure
from benchmarks.frontier.summary import PAGE, filled, summary, write_results
from benchmarks.frontier.table import FLUENT, HIGHEST, KEPT, LOWEST, MOST_COST, kind_table, methods_table
from benchmarks.frontier.tried import configurations, read_trials
from benchmarks.pages import made_by

HERE = Path(__file__).parent


def write_page(outcomes: Sequence[Outcome], write: bool) -> str:
    """The page. ``write`` puts it, the plot and the outcomes beside this file, and a table into ``../results.md``."""
    if not outcomes:
        return "There is nothing to report yet."
    made = made_by("python -m benchmarks.frontier --write", "bitsandbytes", "compressed-tensors", timed=False)
    text = page(outcomes, made)
    if write:
        (HERE / "results.md").write_text(text, encoding="utf-8")
        write_results(made, outcomes)
        before = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(filled(before, summary(made, outcomes)), encoding="utf-8")
        frontier_figure([one for one in outcomes if one.kind in MAIN]).savefig(HERE / "frontier.png", dpi=160)
    return text


def page(outcomes: Sequence[Outcome], made: str) -> str:
    """The page as text.

    Args:
        outcomes: Of all cells.
        made: How they were made.
    """
    lines = [
        "# What survives formats and retraining, at what cost",
        "",
        made,
        "",
        "Recovered shares (0: as a model that never knew; 1: as the target) by answer probability (p) and four-way "
        "multiple choice (mc), means over seeds with Student's 95 % interval. *Formats*: the largest of int8, NF4, "
        "FP4 and two round-to-nearest formats of 4 bits. *RTT*: retraining on four fifths of the facts, asked for "
        "the last fifth, best of all rates and epochs. *Retain kept*: probability of the retain answers over the "
        "target's; *fluency*: that of free text over the target's; each the least over full precision and formats. "
        "*Cost*: floating-point operations of training over those of NPO + KL; of never-knew-2 those of training anew "
        "without the facts. *Reach it*: shares from "
        f"{LOWEST} to {HIGHEST} everywhere, at least {KEPT} kept, fluency at least {FLUENT}, at most {MOST_COST:.0f} "
        "times the cost.",
        "",
        f"Settings were chosen on other seeds and facts ({', '.join(map(str, TUNING_SEEDS))}); "
        f"{configurations(read_trials())} configurations were tried there ([all of them](trials.md)).",
        "",
        "![frontier](frontier.png)",
        "",
    ]
    for kind in KINDS:
        mine = [one for one in outcomes if one.kind == kind]
        if not mine:
            continue
        seeds = sorted({one.seed for one in mine})
        lines += [f"## {kind}", "", f"{KINDS[kind].says}; seeds {', '.join(map(str, seeds))}.", ""]
        lines += [kind_table(mine, NEVER), ""]
    return "\n".join([*lines, "## Methods", "", methods_table(outcomes), ""])
