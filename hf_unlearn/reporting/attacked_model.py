"""Attacks on one model, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TITLES = {"model": "model", "target": "target", "never_knew": "never knew"}


def print_attacks(found: Mapping[str, Any], models: Sequence[str], place: str) -> None:
    """Print a line for each attack and metric.

    Args:
        found: What ``attacks.json`` holds.
        models: Names of the attacked models, in their order.
        place: Where the file lies, to tell the reader.
    """
    rows = [["attack", "metric", "facts", *(f"{_TITLES[name]} before → after" for name in models), "recovered share"]]
    for attack in found["attacks"]:
        for row in attack["metrics"]:
            cells = [_change(row["before"].get(name), row["scores"].get(name)) for name in models]
            rows.append([attack["name"], row["metric"], str(row["facts"]), *cells, _share(row)])
    if not any("recovered_share" in row for attack in found["attacks"] for row in attack["metrics"]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nAfter: the attacker's best setting, chosen per metric. All settings and budgets: {place}")


def _change(before: float | None, after: float | None) -> str:
    if after is None:
        return "-"
    return f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}"


def _share(row: Mapping[str, Any]) -> str:
    value, interval = row.get("recovered_share"), row.get("ci95")
    if value is None:
        return "-" if "recovered_share" not in row else f"undefined: {row['undefined']}"
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
