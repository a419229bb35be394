"""``hf-unlearn attack MODEL --attack NAME``: attacks on one model, by folder or Hub id."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..stages import stage_named
from .command import Command
from .run import add_recipe_arguments, could_be_a_model, run_recipe, workers_of

if TYPE_CHECKING:
    from ..stages.single_model import AttackedModel

_OPTIONS = ("data", "from_recipe", "target", "never_knew", "revision", "after", "then")
_FLAGS = ("alone", "cost", "json")


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_recipe_arguments(command, "MODEL")
    text = "attack the model MODEL (folder or Hub id) instead of running a recipe's stage; can be repeated"
    command.add_argument("--attack", metavar="NAME", action="append", default=[], help=text)
    text = "attack MODEL with all attacks of a tier: quick, release or deep"
    command.add_argument("--tier", metavar="TIER", help=text)
    text = "recipe whose rows, metrics, models and attack settings are used"
    command.add_argument("--recipe", dest="from_recipe", metavar="RECIPE", help=text)
    text = "rows instead of a recipe: the forget set's FILE or Hub dataset, or retain=FILE, generic=FILE ..."
    command.add_argument("--data", metavar="[SET=]FILE", action="append", default=[], help=text)
    command.add_argument("--target", metavar="MODEL", help="the model before unlearning, attacked in the same way")
    command.add_argument("--never-knew", metavar="MODEL", help="a model that never knew, attacked in the same way")
    command.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    command.add_argument("--after", metavar="FORMAT", help="attack the weights that MODEL has in this format")
    command.add_argument(
        "--then", metavar="FORMAT", help="export the attacked model to this format before it is scored"
    )
    command.add_argument("--alone", action="store_true", help="attack MODEL only, not the models it is compared with")
    command.add_argument("--cost", action="store_true", help="print the cost, and stop")
    command.add_argument("--json", action="store_true", help="print an object instead of a table")


def _attack(arguments: argparse.Namespace) -> int:
    return _attack_model(arguments) if _wants_model(arguments) else run_recipe(arguments, "attack")


def _wants_model(arguments: argparse.Namespace) -> bool:
    """Whether ``attack`` is about one model, rather than about a recipe's stage.

    Raises:
        RequestError: Options that only mean something for one model are given without an attack.
    """
    if arguments.attack or arguments.tier is not None:
        return True
    given = [name for name in (*_OPTIONS, *_FLAGS) if getattr(arguments, name)]
    if given:
        option = "recipe" if given[0] == "from_recipe" else given[0].replace("_", "-")
        raise RequestError(f"--{option} goes with one model: name the attack too, as in --attack rtt")
    if could_be_a_model(arguments.recipe):
        kind = "a folder and not" if Path(arguments.recipe).is_dir() else "not"
        raise RequestError(
            f"{arguments.recipe} is {kind} a recipe: to attack a model add --attack NAME (or --tier TIER) "
            "and --data FORGET_FILE (or --recipe RECIPE)"
        )
    return False


def _attack_model(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from ..pipeline import attack_model
    from ..recipe.attack_request import Chosen, read_request
    from ..runtime.processes import is_main_process
    from ..runtime.progress import Progress
    from ..stages.single_model import NamedModels

    workers = workers_of(arguments) or 0
    chosen = Chosen(tuple(arguments.attack), arguments.tier, arguments.after, arguments.then)
    request = read_request(chosen, arguments.from_recipe, arguments.data, arguments.overrides)
    name = str(arguments.recipe)
    models = NamedModels(name, arguments.revision, arguments.target, arguments.never_knew, arguments.alone)
    quiet = not is_main_process() or (arguments.json and not arguments.cost)
    progress = Progress(Console(highlight=False, quiet=quiet))
    out = arguments.output_dir or Path("attacks") / (name.rstrip("/").rsplit("/", 1)[-1] or "model")
    found = attack_model(request, models, out, workers=workers, progress=progress, only_cost=arguments.cost)
    if found is not None:
        _show(found, out, as_json=arguments.json)
    return 0


def _show(found: AttackedModel, out: Path, *, as_json: bool) -> None:
    from ..reporting.single_models import print_attacks
    from ..stages.single_model import RESULT_FILE

    if as_json:
        print(json.dumps(found.table, indent=1))
    else:
        print_attacks(found.table, found.models, str(out / RESULT_FILE))


COMMANDS = (
    Command(
        "attack",
        f"one stage: {stage_named('attack').help}; with --attack or --tier, on one MODEL",
        _add_arguments,
        _attack,
        (
            "RECIPE [section.key=value ...] [options]",
            "MODEL --attack NAME --data FILE [options]",
            "MODEL --tier TIER --recipe RECIPE [options]",
        ),
    ),
)
