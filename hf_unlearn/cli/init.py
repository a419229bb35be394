"""``hf-unlearn init MODEL --forget FILE``: a first recipe for a model and its rows, to read, change and run."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from ..errors import EnvironmentFailure, RequestError
from .command import Command

_ASKED = {
    "retain": "What must stay? A file of rows like the forget set, as many as you have: ",
    "holdout": "Rows of the same kind that no model was trained on (they show what 'never knew' looks like)? A file: ",
}
_MENDS = {
    "retain": "--retain FILE: rows that must stay, of the same kind as the forget set (hundreds are better than tens)",
    "holdout": "--holdout FILE: rows of the same kind that no model was trained on (or --never-knew MODEL: one that "
    "was trained without the forget set)",
}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model that knows: Hub id or folder")
    command.add_argument("--forget", metavar="FILE", type=Path, required=True, help="rows to forget")
    command.add_argument("--retain", metavar="FILE", type=Path, help="rows that must stay (asked for if missing)")
    command.add_argument(
        "--holdout", metavar="FILE", type=Path, help="rows of the same kind that nobody trained on; or:"
    )
    command.add_argument("--never-knew", metavar="MODEL", help="a model that was trained without the forget set")
    command.add_argument("--description", help="in your words, for the model card: what is removed")
    command.add_argument("--generic", metavar="FILE", type=Path, help="ordinary text")
    command.add_argument("--name", help="name of the recipe (default: that of the model)")
    command.add_argument("--output", metavar="FILE", type=Path, default=Path("recipe.yaml"), help="where to write it")


def _init(arguments: argparse.Namespace) -> int:
    from ..pipeline import propose
    from ..stages.proposal import Wanted

    if not arguments.forget.is_file():
        raise RequestError(f"--forget {arguments.forget}: there is no such file")
    if arguments.output.exists():
        raise RequestError(f"{arguments.output} exists: choose another --output, or remove it")
    _check_writable(arguments.output)
    given = {"forget": arguments.forget, **_further_sets(arguments)}
    if arguments.generic is not None:
        given["generic"] = arguments.generic
    name = arguments.name or _name_of(arguments.model)
    if arguments.output.absolute().parent != Path.cwd():
        given = {key: path.absolute() for key, path in given.items()}  # it may be run from there
    wanted = Wanted(name, arguments.model, given, arguments.never_knew, arguments.description)
    sentences = propose(wanted, arguments.output)
    print("\n".join(sentences))
    return 0


def _check_writable(output: Path) -> None:
    """Fail before the model is looked at, and not after."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise EnvironmentFailure(f"--output {output} cannot be written: {error.strerror or error}") from error


def _name_of(model: str) -> str:
    """A name for folders from that of a model: the last part of a path or Hub id, or the package."""
    last = model.rstrip("/").split("/")[-1].removeprefix("package:").removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "unlearning"


def _further_sets(arguments: argparse.Namespace) -> dict[str, Path]:
    """The sets that a recipe needs besides the forget set, asked for at a terminal if they are missing.

    Raises:
        RequestError: There is nobody to ask, or an answer is empty; names all that is missing.
    """
    wanted = ["retain"] if arguments.never_knew is not None and arguments.holdout is None else ["retain", "holdout"]
    sets = {name: getattr(arguments, name) or _asked(name) for name in wanted}
    missing = [_MENDS[name] for name, path in sets.items() if path is None]
    if missing:
        raise RequestError(f"a recipe needs more than the rows to forget: add {', and '.join(missing)}")
    return {name: path for name, path in sets.items() if path is not None}


def _asked(name: str) -> Path | None:
    answer = input(_ASKED[name]).strip() if sys.stdin.isatty() and sys.stdout.isatty() else ""
    return Path(answer) if answer else None


COMMANDS = (Command("init", "write a first recipe for a model and its rows", _add_arguments, _init),)
