"""``hf-unlearn jobs RECIPE``: a run as single commands, for an engine that starts them on many machines."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from .command import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..stages.unit_list import ListedUnit


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    command.add_argument("--list", action="store_true", help="print one command for each unit, in an order that works")
    command.add_argument("--only", metavar="UNIT", help="make this unit and nothing else")
    command.add_argument("--output-dir", type=Path, help="folder of the run (default: runs/NAME)")
    command.add_argument("--json", action="store_true", help="with --list: print an array of objects")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="override values of the recipe"
    )


def _jobs(arguments: argparse.Namespace) -> int:
    from ..recipe import load_recipe
    from ..recipe.places import places_of

    if arguments.list == (arguments.only is not None):
        raise RequestError("say one of --list, to see the units of a run, and --only UNIT, to make one of them")
    if arguments.json and not arguments.list:
        raise RequestError("--json belongs to --list")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    places = places_of(arguments.recipe, arguments.overrides)
    from ..pipeline import list_units, run_unit  # loads torch, which a mistake in the recipe need not wait for

    if arguments.only is not None:
        run_unit(recipe, output_dir, arguments.only, places=places)
        return 0
    from rich.console import Console

    from ..runtime.progress import Progress

    progress = Progress(Console(stderr=True, highlight=False))
    with contextlib.redirect_stdout(sys.stderr):  # some libraries print when they are imported
        units = list_units(recipe, output_dir, progress, places)
        if recipe.data.earlier:
            progress.say("the units of earlier deletion requests are not listed: `hf-unlearn run` makes them")
    _print(units, arguments, output_dir)
    return 0


def _print(units: Sequence[ListedUnit], arguments: argparse.Namespace, output_dir: Path) -> None:
    from ..stages.unit_list import steps

    words = ["hf-unlearn", "jobs", str(arguments.recipe), *arguments.overrides, "--output-dir", str(output_dir)]
    commands = {unit.name: shlex.join([*words, "--only", unit.name]) for unit in units}
    numbers = steps(units)
    if arguments.json:
        told = [
            {
                "unit": unit.name,
                "stage": unit.stage,
                "step": numbers[unit.name],
                "after": list(unit.after),
                "command": commands[unit.name],
            }
            for unit in units
        ]
        print(json.dumps(told, indent=1))
        return
    for unit in units:
        after = f", after {' '.join(unit.after)}" if unit.after else ""
        print(f"{commands[unit.name]}  # step {numbers[unit.name]}{after}")


COMMANDS = (
    Command(
        "jobs",
        "a run as single commands for Slurm, Ray or Kubernetes: list them, or do one",
        _add_arguments,
        _jobs,
        ("RECIPE --list [--json] [options]", "RECIPE --only UNIT [options]"),
    ),
)
