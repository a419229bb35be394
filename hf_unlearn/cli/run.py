"""The commands about a recipe: ``run``, one stage of it, ``audit`` and ``quickstart``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..errors import RequestError
from ..stages import Stage
from .command import Command
from .plan import add_plan_arguments, print_plan

if TYPE_CHECKING:
    from ..recipe import Recipe


def add_recipe_arguments(command: argparse.ArgumentParser) -> None:
    """A recipe, where it runs, and what is changed in it."""
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    _add_run_arguments(command)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="override values of the recipe"
    )


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output-dir", type=Path, help="folder of the run (default: runs/NAME)")
    command.add_argument("--workers", type=int, help="number of worker processes (default: automatic; 0: none)")
    command.add_argument("--print-config", action="store_true", help="print the recipe with all defaults, run nothing")


def workers_of(arguments: argparse.Namespace) -> int | None:
    """Worker processes; ``None`` if the command line does not say.

    Raises:
        RequestError: A negative number.
    """
    workers: int | None = arguments.workers
    if workers is not None and workers < 0:
        raise RequestError(f"--workers is {workers}: use 0 for none, or a number of processes")
    return workers


def run_recipe(arguments: argparse.Namespace, only: str | None = None) -> int:
    """Run a recipe, or one stage of it.

    Args:
        arguments: From :func:`add_recipe_arguments`.
        only: The stage; all of them if it is left out.
    """
    from ..pipeline import run_pipeline
    from ..recipe import load_recipe
    from ..recipe.places import places_of

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        return _print_config(recipe)
    if getattr(arguments, "dry_run", False):
        return print_plan(arguments)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    places = places_of(arguments.recipe, arguments.overrides)
    result = run_pipeline(recipe, output_dir, only=only, workers=workers_of(arguments), places=places)
    return 0 if result.verified is None or result.passed else 1


def _print_config(recipe: Recipe) -> int:
    """The recipe with its defaults and overrides as YAML that reads back as the same recipe."""
    print(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), end="")
    return 0


def stage_command(stage: Stage) -> Command:
    """The command that runs one stage of a recipe and does nothing else."""
    return Command(
        stage.name, f"one stage: {stage.help}", add_recipe_arguments, lambda given: run_recipe(given, stage.name)
    )


def _audit(arguments: argparse.Namespace) -> int:
    from ..pipeline import audit
    from ..recipe import load_recipe

    if arguments.print_config:
        return _print_config(load_recipe(arguments.recipe, arguments.overrides))
    result = audit(arguments.recipe, arguments.output_dir, arguments.overrides, workers_of(arguments))
    return 0 if result.passed else 1


def _quickstart(arguments: argparse.Namespace) -> int:
    from ..pipeline import run_pipeline
    from ..recipe import load_recipe

    recipe = load_recipe("quickstart")
    if arguments.print_config:
        return _print_config(recipe)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    result = run_pipeline(recipe, output_dir, workers=workers_of(arguments))
    return 0 if result.controls_ok else 1


def _add_run_or_plan(command: argparse.ArgumentParser) -> None:
    add_recipe_arguments(command)
    command.add_argument("--dry-run", action="store_true", help="print the plan, start nothing (see plan)")
    add_plan_arguments(command)


RUN = Command("run", "run every stage of a recipe, resuming what is finished", _add_run_or_plan, run_recipe)
AUDIT = Command(
    "audit",
    "judge checkpoints that were unlearned elsewhere: no training, no publishing",
    add_recipe_arguments,
    _audit,
)
QUICKSTART = Command(
    "quickstart",
    "the built-in recipe on planted facts, no network, no GPU; exit code 0 if every control is judged correctly",
    _add_run_arguments,
    _quickstart,
)
