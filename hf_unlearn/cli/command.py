"""A command of the command line: its words and the code that they run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: What is typed after ``hf-unlearn``.
        help: One line.
        add_arguments: Adds its arguments to a parser.
        run: Does it and returns the exit code.
        usages: What may stand after the name where a command can do more than one thing; made from the arguments if
            left out.
        only_prints: Whether nothing but its lines comes of it: it then ends without a word when nobody reads them.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    usages: tuple[str, ...] = ()
    only_prints: bool = False
