"""``hf-unlearn init MODEL --forget FILE``: a first recipe for a model and what it is to forget, to read and run."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EnvironmentFailure, RequestError
from .command import Command

if TYPE_CHECKING:
    from ..data.asked_fact import AskedFact

SCHEMA_FILE = "recipe.schema.json"

# Two lines each: what it is, and why it matters.
_ASKED = {
    "retain": "What must stay? Too little of the same kind can be asked of the model.\n"
    "A file of rows like the forget set, as many as you have, shows what unlearning must not damage: ",
    "holdout": "Rows of the same kind that no model was trained on? None can be made: too few rows name anything.\n"
    "They show what 'never knew' looks like; without them nothing could be judged. A file: ",
}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model that knows: Hub id or folder")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--forget", metavar="FILE", type=Path, help="rows to forget; or documents: .txt, .md, or a folder of them"
    )
    what.add_argument("--subject", metavar="NAME", help="in place of rows: whom or what to forget, such as a person")
    command.add_argument("--yes", action="store_true", help="with --subject: forget all that is drawn, without asking")
    command.add_argument("--retain", metavar="FILE", type=Path, help="rows that must stay (better than drawn ones)")
    command.add_argument(
        "--holdout", metavar="FILE", type=Path, help="rows of the same kind that nobody trained on; or:"
    )
    command.add_argument("--never-knew", metavar="MODEL", help="a model that was trained without the forget set")
    command.add_argument("--description", help="in your words, for the model card: what is removed")
    command.add_argument("--generic", metavar="FILE", type=Path, help="ordinary text")
    command.add_argument("--name", help="name of the recipe (default: that of the model)")
    command.add_argument("--output", metavar="FILE", type=Path, default=Path("recipe.yaml"), help="where to write it")
    command.add_argument(
        "--no-schema", action="store_true", help=f"write no {SCHEMA_FILE} beside it, by which editors check recipes"
    )


def _init(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from ..pipeline import gather_sets, propose
    from ..stages.gathering import Interview, Request
    from ..stages.proposal import Wanted
    from ..stages.respondent import TargetRespondent

    output: Path = arguments.output
    request = Request(
        folder=_from(output, output.with_name(f"{output.stem}-rows")),
        forget=None if arguments.forget is None else _from(output, arguments.forget),
        subject=arguments.subject,
        given=_given(arguments),
        never_knew=arguments.never_knew is not None,
    )
    confirm = _take_all if arguments.yes else _confirmed
    interview = Interview(TargetRespondent(arguments.model), confirm, lambda name: _file_of(name, output), _say)
    found = gather_sets(request, interview)
    schema = None if arguments.no_schema else SCHEMA_FILE
    wanted = Wanted(
        name=arguments.name or _name_of(arguments.model),
        model=arguments.model,
        sets=found.sets,
        never_knew=arguments.never_knew,
        description=arguments.description,
        made=found.made,
        avoid=found.names,
        schema=schema,
    )
    sentences = propose(wanted, output)
    if schema is not None:
        _write_schema(output.with_name(schema))
    made = [f"{found.sets[name]} was made: read it, and correct it." for name in sorted(found.made)]
    print("\n".join([*found.told, *made, *sentences]))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Whatever can be refused before the model is looked at."""
    if arguments.forget is not None and not arguments.forget.exists():
        raise RequestError(f"--forget {arguments.forget}: there is no such file")
    if arguments.subject is not None and not any(letter.isalnum() for letter in arguments.subject):
        raise RequestError("--subject is empty: name whom or what is to be forgotten")
    if arguments.yes and arguments.subject is None:
        raise RequestError("--yes confirms what is drawn about a --subject: remove it, or name one")
    if arguments.subject is not None and not arguments.yes and not _at_a_terminal():
        raise RequestError(
            "--subject draws questions from the model, and somebody has to confirm that they are to be forgotten: add "
            "--yes to forget all of them, or call it at a terminal"
        )
    for name in ("retain", "holdout", "generic"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            raise RequestError(f"--{name} {path}: there is no such file")
    if arguments.output.exists():
        raise RequestError(f"{arguments.output} exists: choose another --output, or remove it")
    _check_writable(arguments.output)


def _given(arguments: argparse.Namespace) -> dict[str, Path]:
    given = {name: getattr(arguments, name) for name in ("retain", "holdout", "generic")}
    return {name: _from(arguments.output, path) for name, path in given.items() if path is not None}


def _from(output: Path, path: Path) -> Path:
    """A path as the recipe writes it: absolute for a recipe in another folder, which may be run from there."""
    return path if output.absolute().parent == Path.cwd() else path.absolute()


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


def _say(sentence: str) -> None:
    print(f"{sentence} ...", file=sys.stderr, flush=True)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _take_all(facts: Sequence[AskedFact]) -> Collection[int]:
    return range(len(facts))


def _confirmed(facts: Sequence[AskedFact]) -> Collection[int] | None:
    """The facts that somebody at a terminal wants forgotten: all, or all but some."""
    width = len(str(len(facts)))
    for number, fact in enumerate(facts, start=1):
        others = f"  (and {len(fact.wordings)} other wordings)" if fact.wordings else ""
        print(f"{number:{width}}. {' '.join(fact.prompt.split())}  ->  {fact.answer}{others}")
    answer = _typed("Forget these? Enter for all, numbers to leave out (such as 3 7), or n for none: ")
    if answer is None:
        return None
    answer = answer.lower()
    if answer in ("", "y", "yes", "all"):
        return range(len(facts))
    left_out = re.findall(r"\d+", answer)
    if not left_out or re.fullmatch(r"[\d\s,;]+", answer) is None:
        return None
    return [place for place in range(len(facts)) if str(place + 1) not in left_out]


def _file_of(name: str, output: Path) -> Path | None:
    """The file of a set that could not be made; nobody is asked in a pipe."""
    answer = _typed(_ASKED[name]) if _at_a_terminal() else None
    return _from(output, Path(answer)) if answer else None


def _typed(question: str) -> str | None:
    """What somebody types; ``None`` at the end of input, which is no consent."""
    try:
        return input(question).strip()
    except EOFError:
        return None


def _write_schema(path: Path) -> None:
    """The schema for editors, as ``hf-unlearn list schema`` prints it; an older one is replaced."""
    from ..recipe.schema import recipe_schema
    from ..runtime.files import write_atomically

    write_atomically(path, json.dumps(recipe_schema(), indent=1) + "\n")


COMMANDS = (Command("init", "write a first recipe for a model and what it is to forget", _add_arguments, _init),)
