"""``hf-unlearn init MODEL --forget FILE``: a first recipe for a model and its rows, to read, change and run."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..errors import RequestError
from .command import Command

_ASKED = {
    "retain": "What must stay? A file of rows like the forget set, as many as you have: ",
    "holdout": "Rows of the same kind that no model was trained on (they show what 'never knew' looks like)? A file: ",
}
_MENDS = {
    "retain": "--retain is missing: name a file of rows that must stay, of the same kind as the forget set (hundreds "
    "are better than tens)",
    "holdout": "there is nothing to compare with: name with --holdout a file of rows of the same kind that no model "
    "was trained on, or with --never-knew a model that was trained without the forget set",
}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model that knows: Hub id or folder")
    command.add_argument("--forget", metavar="FILE", type=Path, required=True, help="rows to forget")
    command.add_argument("--retain", metavar="FILE", type=Path, help="rows that must stay")
    command.add_argument("--holdout", metavar="FILE", type=Path, help="rows of the same kind that nobody trained on")
    command.add_argument("--never-knew", metavar="MODEL", help="a model that was trained without the forget set")
    command.add_argument("--generic", metavar="FILE", type=Path, help="ordinary text")
    command.add_argument("--name", help="name of the recipe (default: that of the forget file)")
    command.add_argument("--output", metavar="FILE", type=Path, default=Path("recipe.yaml"), help="where to write it")


def _init(arguments: argparse.Namespace) -> int:
    from ..pipeline import propose
    from ..stages.proposal import Wanted

    if arguments.output.exists():
        raise RequestError(f"{arguments.output} exists: choose another --output, or remove it")
    given = {"forget": arguments.forget, "retain": arguments.retain or _ask("retain")}
    if arguments.holdout is not None or arguments.never_knew is None:
        given["holdout"] = arguments.holdout or _ask("holdout")
    if arguments.generic is not None:
        given["generic"] = arguments.generic
    name = arguments.name or re.sub(r"[^\w.-]+", "-", arguments.forget.stem).strip("-.") or "unlearning"
    sentences = propose(Wanted(name, arguments.model, given, arguments.never_knew), arguments.output)
    print("\n".join(sentences))
    return 0


def _ask(name: str) -> Path:
    """The file of a set, asked for at a terminal.

    Raises:
        RequestError: There is nobody to ask, or the answer is empty.
    """
    answer = input(_ASKED[name]).strip() if sys.stdin.isatty() and sys.stdout.isatty() else ""
    if not answer:
        raise RequestError(_MENDS[name])
    return Path(answer)


COMMANDS = (Command("init", "write a first recipe for a model and its rows", _add_arguments, _init),)
