"""The table of all outcomes that were kept, set by set, and the short one for the README."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frontier.methods import PLAIN
from benchmarks.pages import table
from benchmarks.real.methods import METHODS
from benchmarks.real.outcome import JUDGED, PLAIN_CONDITION, Outcome
from benchmarks.real.sets import SETS, TUNING_SEEDS
from hf_unlearn.reporting.words import show

HERE = Path(__file__).parent
KEPT = HERE / "outcomes.json"
LOWEST, HIGHEST, KEPT_LEAST, OTHERS_LEAST, PERPLEXITY_MOST, COST_MOST = -0.15, 0.10, 0.97, 0.95, 1.03, 3.0


def read_kept() -> list[Outcome]:
    """Outcomes of all runs so far, whoever made them."""
    if not KEPT.exists():
        return []
    return [Outcome(**plain) for plain in json.loads(KEPT.read_text(encoding="utf-8"))]


def keep(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Adds outcomes to those that are kept; one of the same set, seed and method takes its place."""
    both = {(one.facts, one.seed, one.method): one for one in (*read_kept(), *outcomes)}
    order = [both[key] for key in sorted(both)]
    KEPT.write_text(json.dumps([one.plain() for one in order], indent=1) + "\n", encoding="utf-8")
    return order


def cost_of(outcome: Outcome, outcomes: Sequence[Outcome]) -> float | None:
    """Floating-point operations over those of NPO + KL on the same set and seed."""
    same = [one for one in outcomes if (one.facts, one.seed, one.method) == (outcome.facts, outcome.seed, PLAIN)]
    return outcome.operations / same[0].operations if same and same[0].operations else None


def misses(outcome: Outcome, cost: float | None) -> list[str]:
    """What an outcome does not reach, in words; empty where it has everything that was to be reached."""
    found = []
    shares = [value for part in (outcome.identity, outcome.formats) for value in part.values()]
    if any(value is None or value > HIGHEST for value in shares):
        found.append("knows as it stands or in a format")
    if any(value is None or value > HIGHEST for value in outcome.attacks.values()):
        found.append("knows after an attack")
    if any(value is None or value < LOWEST for value in outcome.lowest.values()):
        found.append("below chance")
    if any(allowed is not None and known > allowed for known, allowed, _ in outcome.known.values()):
        found.append("single facts")
    if outcome.kept is None or outcome.kept < KEPT_LEAST:
        found.append("retain")
    if any(value < OTHERS_LEAST for value in outcome.others.values()):
        found.append("other knowledge")
    if outcome.perplexity is None or outcome.perplexity > PERPLEXITY_MOST:
        found.append("perplexity")
    if cost is None or cost > COST_MOST:
        found.append("cost")
    return found


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page.

    Args:
        outcomes: All that are kept.
    """
    lines = [
        "# Methods on a real pretrained model",
        "",
        "`python -m benchmarks.real` (SmolLM2 135M Instruct, two CPU cores; each line names the day and versions "
        "it was made with). Recovered shares (0: as what stands for a model that never knew; 1: as the target) by "
        "answer probability (p) and four options (mc). *Formats*: the largest of bf16, NF4 and int4-g32. *RTT*: "
        "retraining on four fifths of the facts, asked for the last fifth, the larger of p and mc. *Known*: "
        "single facts still known, of all, with the number that is allowed: as it stands, most in a format, after "
        "RTT. *Retain*: probability over the target's, the least as it stands and in formats. *Others*: the set "
        "of other knowledge that lost most, as it stands. *PPL*: perplexity of ordinary text over the target's. "
        "*Cost*: floating-point operations over those of NPO + KL. *Rate*: the learning rate that was found.",
        "",
        f"To be reached: shares from {LOWEST} to {HIGHEST} everywhere, no more single facts than allowed, retain "
        f"{KEPT_LEAST}, others {OTHERS_LEAST}, perplexity {PERPLEXITY_MOST}, {COST_MOST:.0f} times the cost. Splits "
        f"for choosing settings have the seeds {', '.join(map(str, TUNING_SEEDS))}.",
        "",
    ]
    for name, facts in SETS.items():
        mine = [one for one in outcomes if one.facts == name]
        if mine:
            lines += [
                f"## {name}",
                "",
                f"{facts.says[:1].upper()}{facts.says[1:]}.",
                "",
                _set_table(mine, outcomes),
                "",
            ]
    there = {one.method for one in outcomes}
    told = [[one.name, one.says] for one in METHODS.values() if one.name in there]
    return "\n".join([*lines, "## Methods", "", table(["method", "what"], told), ""])


def _set_table(mine: Sequence[Outcome], outcomes: Sequence[Outcome]) -> str:
    head = "method|seed|as it stands, p|mc|formats, p|mc|RTT|known|retain|others|PPL|cost|rate|verdict|misses|made"
    rows = []
    for one in sorted(mine, key=lambda one: (list(METHODS).index(one.method), one.seed)):
        cost = cost_of(one, outcomes)
        lost = min(one.others, key=lambda name: one.others[name], default=None)
        rows.append(
            [
                one.method,
                str(one.seed),
                *(show(one.identity[metric], 2) for metric in JUDGED),
                *(show(one.formats[metric], 2) for metric in JUDGED),
                show(max((value for value in one.attacks.values() if value is not None), default=None), 2),
                known_words(one),
                show(one.kept, 2),
                "–" if lost is None else f"{show(one.others[lost], 2)} ({lost})",
                show(one.perplexity, 2),
                show(cost, 1),
                "as set" if one.rate is None else f"{one.rate:.1e}",
                one.status,
                ", ".join(misses(one, cost)) or "nothing",
                ", ".join([one.made["date"], *(f"{name} {one.made[name]}" for name in one.made if name != "date")]),
            ]
        )
    return table(head.split("|"), rows)


def known_words(outcome: Outcome) -> str:
    """Counts of single facts as it stands, in the worst format, and under each attack."""
    counts = dict(outcome.known)
    first = counts.pop(PLAIN_CONDITION, None)
    attacks = [counts.pop(name) for name in list(counts) if name in outcome.attacks]
    worst = max(counts.values(), key=lambda count: count[0], default=None)
    return " / ".join(_count(each) for each in (first, worst, *attacks))


def _count(found: Sequence[Any] | None) -> str:
    if found is None:
        return "–"
    known, allowed, asked = found
    return f"{known} of {asked}" + ("" if allowed is None else f" (≤ {allowed})")
