"""The table: what was measured, what it is held against, and what was not run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.outcomes import Outcome
from benchmarks.gpu.units import Unit
from benchmarks.pages import table

Found = Mapping[str, Outcome | None]
GIB = 2**30
GOALS = {"npo-nll": 0.7, "npo-kl": 0.55}
"""Of the other side's time."""
PEAK_GOAL = 0.4
"""Of the peak for matrix products in bfloat16."""


def page(units: Sequence[Unit], found: Found, device: str, tiny: bool) -> str:
    """Markdown.

    Args:
        units: All there are, in order.
        found: What came of each; ``None`` for what was not run.
        device: ``cuda`` or ``cpu``.
        tiny: Whether sizes were such that figures mean nothing.
    """
    lines = ["# On this device", "", _head(found, device), ""]
    if tiny:
        lines += [
            "With `--tiny` sizes: it shows that everything runs here, and its times and shares mean nothing.",
            "",
        ]
    rows = [row for unit in units for row in _rows(unit, found)]
    lines += [table(["what", "figures", "goal"], rows), "", _left(units, found)]
    return "\n".join(lines) + "\n"


def _rows(unit: Unit, found: Found) -> list[list[str]]:
    outcome = found.get(unit.name)
    if outcome is None or outcome.status == "cut":
        return [[unit.what, "not run yet", ""]]
    if not outcome.figures:
        return [[unit.what, f"{outcome.status}: {outcome.why}".replace("|", "\\|"), ""]]
    return _words(unit.name)(unit, outcome.figures, found)


def _head(found: Found, device: str) -> str:
    figures = _figures(found, "install")
    versions = ", ".join(f"{name} {number}" for name, number in figures.get("versions", {}).items())
    where = figures.get("device", device)
    return f"`benchmarks/gpu/run.sh`, {time.strftime('%Y-%m-%d')}: {where}; {versions or 'versions not known'}."


def _left(units: Sequence[Unit], found: Found) -> str:
    """One line for everything that has no figures."""
    by: dict[str, list[str]] = {"not run yet (call the script again)": [], "failed": [], "skipped": []}
    for unit in units:
        outcome = found.get(unit.name)
        if outcome is None or outcome.status == "cut":
            by["not run yet (call the script again)"].append(unit.name)
        elif outcome.status != "done":
            by[outcome.status].append(unit.name)
    said = [f"{kind[:1].upper()}{kind[1:]}: {', '.join(names)}." for kind, names in by.items() if names]
    return " ".join(said) or "Everything was run."


def _figures(found: Found, name: str) -> Mapping[str, Any]:
    outcome = found.get(name)
    return outcome.figures if outcome is not None and outcome.status == "done" else {}


def _install(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    memory = f"{figures['memory'] / GIB:.0f} GiB, " if "memory" in figures else ""
    sheet = f", data sheet {figures['sheet'] / 1e12:.0f}" if "sheet" in figures else ""
    where = f"{figures['device']}, {memory}main memory {figures['main_memory'] / GIB:.0f} GiB"
    return [
        [unit.what, where, ""],
        ["matrix products in bfloat16", f"{figures['measured'] / 1e12:.2f} TFLOP/s{sheet}", ""],
    ]


def _tests(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    return [[unit.what, ", ".join(f"{number} {word}" for word, number in figures.items()), "all pass"]]


def _step(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    """Time and memory of both sides, their ratios, and the share of the peak."""
    method = unit.name.removeprefix("step-")
    ours, peer = figures["ours"], figures["peer"]
    words = [
        f"{ours['seconds']:.4g} s, other side {peer['seconds']:.4g} s: **{ours['seconds'] / peer['seconds']:.2f}**",
        f"{_memory(ours['bytes'])}, other side {_memory(peer['bytes'])}: {ours['bytes'] / peer['bytes']:.2f}",
    ]
    goals = [f"{GOALS[method]:.2f} of its time"] if method in GOALS else []
    peak = _figures(found, "install")
    if peak and method in GOALS:  # two terms on all weights: what the operations are counted for
        share = figures["floor"]["tflop"] * 1e12 / ours["seconds"] / peak.get("sheet", peak["measured"])
        words.append(f"**{share:.0%}** of the peak")
        goals.append(f"{PEAK_GOAL:.0%} of the peak")
    return [[unit.what, "; ".join(words), ", ".join(goals)]]


def _formats(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    return [[name, _format(each), ""] for name, each in figures.items()]


def _format(figures: Mapping[str, Any]) -> str:
    for kind in ("skipped", "failed"):
        if kind in figures:
            return f"{kind}: {figures[kind]}"
    words = [
        f"export {figures['export']:.1f} s",
        f"load and score {figures['score']:.1f} s on {figures['device']}",
        f"file {figures['bytes'] / GIB:.2f} GiB",
        f"error of the loaded file {figures['error']:.1g}",
    ]
    return ", ".join([*words, *([_memory(figures["peak"])] if figures["peak"] else [])])


def _generation(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    faster = figures["batches"] / figures["one_at_a_time"]
    words = f"{figures['batches']:.0f} new tokens a second, one prompt at a time {figures['one_at_a_time']:.0f}"
    return [[unit.what, f"{words}: **{faster:.1f} times**", ""]]


def _large(unit: Unit, figures: Mapping[str, Any], found: Found) -> list[list[str]]:
    words = [
        f"{figures['layers']} layers, {figures['rows']} rows of {figures['length']} tokens a step",
        f"{figures['step']:.3g} s a step",
        _memory(figures["peak"]) if figures["peak"] else "memory is measured on a GPU only",
        f"distributed type {figures['strategy']}",
    ]
    return [[unit.what, "; ".join(words), ""]]


Words = Callable[[Unit, Mapping[str, Any], Found], list[list[str]]]
_BY_NAME: Mapping[str, Words] = {
    "install": _install,
    "tests": _tests,
    "step": _step,
    "formats": _formats,
    "generation": _generation,
    "large": _large,
}


def _words(name: str) -> Words:
    return _BY_NAME[name.partition("-")[0]]


def _memory(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
