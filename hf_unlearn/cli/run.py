"""The commands about a recipe: ``run``, one stage of it, ``audit`` and ``quickstart``."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..errors import RequestError, printable
from ..stages import Stage
from .command import Command
from .plan import add_plan_arguments, print_plan, refuse_plan_arguments

if TYPE_CHECKING:
    from ..pipeline import RunResult
    from ..recipe import Recipe


def add_recipe_arguments(command: argparse.ArgumentParser, other: str | None = None) -> None:
    """A recipe, where it runs, and what is changed in it.

    Args:
        command: The parser of the command.
        other: What the command takes in place of a recipe, such as ``MODEL``.
    """
    metavar = "RECIPE" if other is None else f"RECIPE_OR_{other}"
    command.add_argument("recipe", metavar=metavar, help="a YAML file, or the name of a built-in recipe")
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


def could_be_a_model(name: str) -> bool:
    """Whether somebody who names this where a recipe is meant may mean a model: a folder, or an id on the Hub.

    A misspelled recipe is no model.
    """
    from ..hub.metadata import is_hub_id
    from ..recipe import builtin_recipes

    path = Path(name)
    if path.is_dir():
        return True
    if path.exists() or path.suffix in (".yaml", ".yml") or not is_hub_id(name):
        return False
    return "/" in name or not get_close_matches(name, builtin_recipes(), cutoff=0.5)


def run_recipe(arguments: argparse.Namespace, only: str | None = None) -> int:
    """Run a recipe, or one stage of it.

    Args:
        arguments: From :func:`add_recipe_arguments`.
        only: The stage; all of them if it is left out.
    """
    from ..recipe import load_recipe
    from ..recipe.places import places_of

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        return _print_config(recipe)
    if getattr(arguments, "dry_run", False):
        return print_plan(arguments)
    refuse_plan_arguments(arguments)
    from ..pipeline import run_pipeline  # loads torch, which a mistake in the recipe need not wait for

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
    from ..recipe import find_recipe, load_recipe

    find_recipe(arguments.recipe)
    if arguments.print_config:
        return _print_config(load_recipe(arguments.recipe, arguments.overrides))
    from ..pipeline import audit

    result = audit(arguments.recipe, arguments.output_dir, arguments.overrides, workers_of(arguments))
    return 0 if result.passed else 1


def _quickstart(arguments: argparse.Namespace) -> int:
    from ..pipeline import run_pipeline
    from ..recipe import load_recipe
    from ..runtime.processes import is_main_process

    recipe = load_recipe("quickstart")
    if arguments.print_config:
        return _print_config(recipe)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    print(_QUICKSTART_BEFORE)
    result = run_pipeline(recipe, output_dir, workers=workers_of(arguments))
    if is_main_process():
        _print_ending(result)
    return 0 if result.controls_ok else 1


_QUICKSTART_BEFORE = (
    "About five minutes on two idle cores: three small models are built, two methods and a control that hides are "
    "trained, quantized, scored and attacked, and everything is judged. If it is stopped, the same command goes on."
)


def _print_ending(result: RunResult) -> None:
    """What happened, what to open, what to try next."""
    from ..reporting.results import Results

    assert result.verified is not None  # a whole run ends with a verdict
    results = Results(result.verified.report)
    controls = "every control got the verdict it must get" if result.controls_ok else "a control got a wrong verdict"
    about = f"of {results.release.name} " if results.release else ""
    print(f"What happened: {controls}; the verdict {about}is {results.status}.")
    print(printable(f"What to open:  {result.output_dir / 'report.html'}"))
    print("What to try:   make real (a real pretrained model), hf-unlearn init MODEL --forget FILE (your own)")


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
