"""What scripts that look at one cell of the study are asked with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frontier.cells import Cell
from benchmarks.frontier.kinds import KINDS
from benchmarks.frontier.methods import METHODS


def cell_parser(description: str | None, methods: Sequence[str]) -> argparse.ArgumentParser:
    """Kind, seed, methods, where the runs lie, where rows come from.

    Args:
        description: Of the script.
        methods: Names of the methods that are looked at if none are given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("seed", type=int)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(methods))
    add_run_arguments(parser)
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the runs lie, where rows come from, and how many processes work."""
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), help="folder of the runs")
    parser.add_argument("--source", action="append", default=[], help="SET=FILE, for rows that are not fetched")
    parser.add_argument("--workers", type=int, default=2, help="worker processes; 0 for none")


def sources_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Set to file."""
    return dict(text.split("=", 1) for text in arguments.source)


def cell_of(arguments: argparse.Namespace, **changed: Any) -> Cell:
    """The cell that was asked for.

    Args:
        arguments: From :func:`cell_parser`.
        changed: Further fields of :class:`~benchmarks.frontier.cells.Cell`.
    """
    entries: list[Mapping[str, Any]] = [METHODS[name].entry() for name in arguments.methods]
    return Cell(
        KINDS[arguments.kind],
        arguments.seed,
        entries,
        arguments.out / f"{arguments.kind}-{arguments.seed}",
        sources=sources_of(arguments),
        workers=arguments.workers,
        **changed,
    )
