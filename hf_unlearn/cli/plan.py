"""``hf-unlearn plan RECIPE``: what a run will take, and everything that is in its way. Nothing is started."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError, printable
from .command import Command

if TYPE_CHECKING:
    from ..planning.training import Devices
    from ..recipe import Recipe


# What is in the tables of the planning package, which load torch: a page of help does not wait for that.
_MACHINES = "h100, h200, b200, a100, a100-40, l40s, l4, a10g, rtx4090, t4, cpu"
_STRATEGIES = "ddp, zero2, zero3, zero3_offload, fsdp2"


def add_plan_arguments(command: argparse.ArgumentParser) -> None:
    """What a plan is made for."""
    group = command.add_argument_group("for a plan (plan, or run --dry-run)")
    group.add_argument("--gpus", metavar="N", type=int, help="devices that train together (default: 1)")
    group.add_argument("--memory", metavar="GIB", type=float, help="memory of one device in GiB")
    group.add_argument(
        "--machine",
        metavar="NAME",
        help=f"{_MACHINES} (default: this one)",
    )
    group.add_argument("--flops", metavar="N", type=float, help="operations a second that training gets from a device")
    group.add_argument(
        "--strategy",
        metavar="NAME",
        help=f"{_STRATEGIES}, or an accelerate file (default: ddp)",
    )
    group.add_argument(
        "--retrain-tokens",
        metavar="N",
        type=float,
        help="tokens that the target was trained on, all epochs together: tells whether to retrain instead",
    )
    group.add_argument("--json", action="store_true", help="print the plan as JSON")


def refuse_plan_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what only a plan asks for where none is made: a run is on what launches it.

    Raises:
        RequestError: Names the option.
    """
    for name in ("gpus", "memory", "machine", "flops", "strategy", "retrain-tokens", "json"):
        if getattr(arguments, name.replace("-", "_"), None):
            raise RequestError(f"--{name} is for a plan: add --dry-run, or remove it")


def print_plan(arguments: argparse.Namespace) -> int:
    """Plan the run of a recipe and print it; the exit code is the run's own if something is in its way."""
    from rich.console import Console

    from ..errors import HfUnlearnError
    from ..recipe import load_recipe
    from ..recipe.places import places_of
    from ..runtime.progress import Progress

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from ..pipeline import plan_run  # loads torch, which a mistake in the recipe need not wait for

    output_dir = arguments.output_dir or Path("runs") / recipe.name
    progress = Progress(Console(stderr=True, highlight=False))
    places = places_of(arguments.recipe, arguments.overrides)
    with contextlib.redirect_stdout(sys.stderr):  # some libraries print when they are imported
        planned = plan_run(
            recipe, output_dir, _devices(arguments), progress, places, _retrain_tokens(arguments, recipe)
        )
    if arguments.json:
        plan = None if planned.plan is None else planned.plan.to_dict()
        told = {"findings": [finding.to_dict() for finding in planned.findings], "plan": plan}
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(printable(line) for line in str(planned).splitlines()))
    errors: list[HfUnlearnError] = [finding.error for finding in planned.findings if finding.error is not None]
    return 0 if not errors else min(error.exit_code for error in errors)


def _devices(arguments: argparse.Namespace) -> Devices:
    from ..planning.machines import machine_named
    from ..planning.strategies import devices_of

    count = arguments.gpus
    if count is not None and count < 1:
        raise RequestError(f"--gpus is {count}: it must be at least 1")
    machine = machine_named(arguments.machine, arguments.memory, arguments.flops)
    return devices_of(machine, count, arguments.strategy)


def _retrain_tokens(arguments: argparse.Namespace, recipe: Recipe) -> float | None:
    tokens: float | None = arguments.retrain_tokens
    if tokens is None:
        return None
    if not (tokens > 0 and math.isfinite(tokens)):
        raise RequestError(f"--retrain-tokens is {tokens:g}: it must be above 0")
    if recipe.is_audit:
        raise RequestError("--retrain-tokens: an audit unlearns nothing that could be compared: leave it out")
    if recipe.model.scratch is not None:
        raise RequestError("--retrain-tokens: the recipe says how its target is trained (model.scratch): leave it out")
    return tokens


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    command.add_argument("--output-dir", type=Path, help="folder that the run would write to (default: runs/NAME)")
    add_plan_arguments(command)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="override values of the recipe"
    )


COMMANDS = (
    Command(
        "plan",
        "what a run takes and what is in its way: memory, steps, time, disk; starts nothing",
        _add_arguments,
        print_plan,
    ),
)
