"""``hf-unlearn attack MODEL --attack NAME``: attacks on one model, by folder or Hub id."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:
    from ..data.encoding import TextFormat
    from ..data.example import DataBundle
    from ..recipe.attack_request import AttackRequest
    from ..stages.context import Subject
    from ..stages.single_model import SingleModel

RESULT_FILE = "attacks.json"
_OPTIONS = ("data", "from_recipe", "target", "never_knew", "revision", "after", "then")
_FLAGS = ("alone", "cost", "json")


def add_attack_arguments(command: argparse.ArgumentParser) -> None:
    """What ``attack`` takes beside a recipe's arguments."""
    text = "attack the model MODEL (folder or Hub id) in place of a recipe's stage; may be given several times"
    command.add_argument("--attack", metavar="NAME", action="append", default=[], help=text)
    text = "attack MODEL with all attacks of a tier: quick, release or deep"
    command.add_argument("--tier", metavar="TIER", help=text)
    text = "recipe whose rows, metrics and models are used, and its settings of the attacks"
    command.add_argument("--recipe", dest="from_recipe", metavar="RECIPE", help=text)
    text = "rows instead of a recipe: the forget set's FILE or Hub data set, or retain=FILE, generic=FILE ..."
    command.add_argument("--data", metavar="[SET=]FILE", action="append", default=[], help=text)
    command.add_argument("--target", metavar="MODEL", help="the model before unlearning, attacked alike")
    command.add_argument("--never-knew", metavar="MODEL", help="a model that never knew, attacked alike")
    command.add_argument("--revision", help="branch, tag or commit of MODEL on the Hub")
    command.add_argument("--after", metavar="FORMAT", help="attack the weights that MODEL has in this format")
    command.add_argument(
        "--then", metavar="FORMAT", help="put what comes of the attack into this format, and score that"
    )
    command.add_argument("--alone", action="store_true", help="attack MODEL only, not the models it is compared with")
    command.add_argument("--cost", action="store_true", help="say what it would take, and stop")
    command.add_argument("--json", action="store_true", help="print an object instead of a table")


def wants_model(arguments: argparse.Namespace) -> bool:
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
    return False


def attack_model(arguments: argparse.Namespace, workers: int | None) -> int:
    """Attack one model; what is finished in the output folder is not repeated.

    Args:
        arguments: The command line.
        workers: Worker processes; none where the command line does not say.
    """
    from rich.console import Console

    from ..recipe.attack_request import Chosen, read_request
    from ..recipe.attacks import fitting
    from ..runtime.environment import Surroundings
    from ..runtime.jobs import Workers
    from ..runtime.processes import is_first, part
    from ..runtime.progress import Progress
    from ..stages.single_model import SingleModel, check_after
    from ..stages.units import output_lock

    chosen = Chosen(tuple(arguments.attack), arguments.tier, arguments.after, arguments.then)
    request = read_request(chosen, arguments.from_recipe, arguments.data, arguments.overrides)
    first = is_first()
    quiet = not first or (arguments.json and not arguments.cost)
    progress = Progress(Console(highlight=False, quiet=quiet))
    bundle = _bundle(request)
    attacks, left_out = fitting(request.section, bundle)
    for name, reason in left_out.items():
        progress.say(f"{name} is left out of the tier {request.section.tier}: {reason}")
    check_after(attacks)
    name = str(arguments.recipe)
    out = arguments.output_dir or Path("attacks") / (name.rstrip("/").rsplit("/", 1)[-1] or "model")
    with Surroundings(out):
        if first:
            _claim(out, name)
        lock = output_lock(out) if first else nullcontext()
        with lock, Workers(workers or 0, out / "workers.log") as pool:
            context = SingleModel(
                out, bundle, pool, progress, attacks, request.text_format, tuple(request.evaluate.metrics)
            )
            subjects, target = _subjects(context, arguments, request)
            context.text_format = _text_format(context, request, subjects, target)
            part()
            found = _attack(context, subjects, target, first=first, only_cost=arguments.cost)
    if found is not None:
        _show(found, subjects, out, as_json=arguments.json)
    return 0


def _attack(
    context: SingleModel, subjects: Sequence[Subject], target: Subject | None, *, first: bool, only_cost: bool
) -> dict[str, Any] | None:
    """Run the attacks; what they brought back, in the first process and unless only the cost is asked for."""
    from ..stages.attack import attack_stage, check_attacks, say_cost
    from ..stages.single_model import attack_table, export_variants
    from ..stages.units import write_atomically

    if only_cost:
        if first:
            check_attacks(context, subjects, target)
            say_cost(context, subjects, True)
        return None
    if first:
        check_attacks(context, subjects, target)
        export_variants(context, subjects)
    attack_stage(context, subjects, target=target, helps=not first, timed=True)
    if not first:
        return None
    found = attack_table(context, subjects, target)
    write_atomically(context.output_dir / RESULT_FILE, json.dumps(found, indent=1))
    return found


def _bundle(request: AttackRequest) -> DataBundle:
    from ..data.checks import check_bundle
    from ..data.example import EMPTY_SET, DataBundle
    from ..data.sources import load_source
    from ..stages.data import load_bundle

    if request.recipe is not None:
        return load_bundle(request.recipe)
    assert request.data is not None  # a request has one of the two
    sets = {name: load_source(source, name) for name, source in request.data.sources.items()}
    retain, holdout, generic = (sets.get(name, EMPTY_SET) for name in ("retain", "holdout", "generic"))
    bundle = DataBundle(sets["forget"], retain, holdout, generic)
    if bundle.retain.score:  # many attacks need nothing but the rows to ask for
        check_bundle(bundle)
    return bundle


def _claim(out: Path, model: str) -> None:
    from ..stages.units import RUN_FILE, prepare_output_dir, write_atomically

    prepare_output_dir(out)
    marker = out / RUN_FILE
    if marker.exists():
        try:
            known = json.loads(marker.read_text(encoding="utf-8")).get("attacked")
        except (ValueError, AttributeError):
            known = None
        if known != model:
            what = f"attacks on {known}" if known else "a run"
            raise RequestError(f"{out} holds {what}, not attacks on {model}: choose another --output-dir")
    write_atomically(marker, json.dumps({"attacked": model}))


def _subjects(
    context: SingleModel, arguments: argparse.Namespace, request: AttackRequest
) -> tuple[list[Subject], Subject | None]:
    """The model with those it is compared with, and the target for attacks that look at it."""
    from ..models.loading import fetch
    from ..runtime.processes import is_first, wait_for_all
    from ..stages.single_model import subject_of

    references = _references(context, arguments, request)
    folders = {"model": fetch(str(arguments.recipe), arguments.revision, "MODEL"), **references}
    roles: dict[str, Any] = {"model": "method", "target": "target", "never_knew": "never_knew"}
    if is_first():  # what has to be unpacked is unpacked once
        for name, folder in folders.items():
            subject_of(context, name, roles[name], folder)
    wait_for_all()
    found = {name: subject_of(context, name, roles[name], folder) for name, folder in folders.items()}
    target = found.get("target")
    return ([found["model"]] if arguments.alone else list(found.values())), target


def _text_format(
    context: SingleModel, request: AttackRequest, subjects: Sequence[Subject], target: Subject | None
) -> TextFormat:
    """How rows become text, with the target asked whether it ends answers; without one the model itself is."""
    from ..stages.ends import settle_ends

    if context.text_format.end == "auto" and request.recipe is not None and request.recipe.model.scratch is not None:
        return replace(context.text_format, end="always")  # what is built from a recipe is built with ends
    return settle_ends(context, target or subjects[0])


def _references(context: SingleModel, arguments: argparse.Namespace, request: AttackRequest) -> dict[str, Path]:
    """Folders of target and never-knew model, from the command line or else from the recipe."""
    from ..models.loading import fetch
    from ..stages.context import RunContext
    from ..stages.models import base_models

    found: dict[str, Path] = {}
    if request.recipe is not None and not (arguments.target and (arguments.never_knew or arguments.alone)):
        run = RunContext(request.recipe, context.output_dir, context.bundle, context.workers, context.progress)
        target, never = base_models(run)
        found["target"] = target.folder
        if never is not None:
            found["never_knew"] = never.folder
    for key in ("target", "never_knew"):
        if (name := getattr(arguments, key)) is not None:
            found[key] = fetch(name, None, f"--{key.replace('_', '-')}")
    return found


def _show(found: dict[str, Any], subjects: Sequence[Subject], out: Path, *, as_json: bool) -> None:
    from ..reporting.attacked_model import print_attacks

    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_attacks(found, [subject.name for subject in subjects], str(out / RESULT_FILE))
