"""The commands about suites: ``evaluate MODEL --suite`` and ``compare``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from ..errors import RequestError
from ..stages import stage_named
from .command import Command
from .run import add_recipe_arguments, could_be_a_model, run_recipe

DTYPES = ("float32", "bfloat16", "float16")


def _add_evaluate_arguments(command: argparse.ArgumentParser) -> None:
    add_recipe_arguments(command, "MODEL")
    text = "evaluate a model with a suite (name or YAML file) instead of running a recipe's stage"
    command.add_argument("--suite", metavar="SUITE", help=text)
    text = "with --suite: records folder, model or TOFU log of a model that never saw the forget set"
    command.add_argument("--reference", metavar="FOLDER_LOG_OR_MODEL", help=text)
    text = "with --suite: type of unquantized weights (default: float32)"
    command.add_argument("--dtype", choices=DTYPES, help=text)
    command.add_argument("--limit", metavar="N", type=int, help="with --suite: score only N rows of each set")
    command.add_argument("--revision", help="with --suite: branch, tag or commit of a model on the Hub")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.suite is not None:
        return _evaluate_with_suite(arguments)
    _check_without_suite(arguments)
    _check_no_model(str(arguments.recipe))
    return run_recipe(arguments, "evaluate")


def _check_no_model(name: str) -> None:
    """Refuse a model where a recipe is meant, and say what is missing."""
    if could_be_a_model(name):
        from ..evaluation.suites import builtin_suites

        suites = ", ".join(builtin_suites())
        raise RequestError(f"{name} is not a recipe: to evaluate a model add --suite ({suites}, or a YAML file)")


def _check_without_suite(arguments: argparse.Namespace) -> None:
    """Refuse options that do not apply to a recipe's stage."""
    for name in ("reference", "dtype", "limit", "revision"):
        if getattr(arguments, name) is not None:
            raise RequestError(f"--{name} belongs to --suite: name a suite, or set it in the recipe")


def _evaluate_with_suite(arguments: argparse.Namespace) -> int:
    """``hf-unlearn evaluate MODEL --suite SUITE``."""
    if arguments.workers is not None:
        raise RequestError("--workers belongs to recipes: an evaluation with --suite runs in this process")
    from ..evaluation.suites import Request, evaluate_suite, load_suite
    from ..models.gguf_source import fetch_model
    from ..reporting.single_models import print_evaluation
    from ..runtime.processes import is_main_process
    from ..runtime.progress import Progress

    suite = load_suite(arguments.suite, arguments.overrides)
    if arguments.reference is not None:
        suite = dataclasses.replace(suite, reference=arguments.reference)
    name = str(arguments.recipe)
    model = fetch_model(name, arguments.revision, "model")
    target = fetch_model(suite.target, None, "target") if suite.target else None
    short = name.rstrip("/").rsplit("/", 1)[-1] or "model"
    out_dir = arguments.output_dir or Path("evaluations") / f"{short}-{suite.name}"
    request = Request(model, name, suite, out_dir, arguments.dtype or "float32", arguments.limit, target)
    result = evaluate_suite(request, Progress().say if is_main_process() else lambda text: None)
    if is_main_process():
        print_evaluation(result, str(out_dir))
    return 0


def _add_compare_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("first", metavar="A", type=Path, help="output folder of `evaluate MODEL --suite`")
    command.add_argument("second", metavar="B", type=Path, help="a second one, made with the same suite and rows")
    command.add_argument("--json", action="store_true", help="print an object instead of a table")


def _compare(arguments: argparse.Namespace) -> int:
    """``hf-unlearn compare A B``."""
    from ..evaluation.suites.compare import compare_folders
    from ..reporting.single_models import print_comparison

    comparison = compare_folders(arguments.first, arguments.second)
    if not arguments.json:
        print_comparison(comparison)
        return 0
    differences = [dataclasses.asdict(found) for found in comparison.differences]
    models = {"first": comparison.first["model"], "second": comparison.second["model"]}
    suite = comparison.first["suite"]["name"]
    print(json.dumps({"suite": suite, **models, "differences": differences, "notes": comparison.notes}, indent=1))
    return 0


COMMANDS = (
    Command(
        "evaluate",
        f"one stage: {stage_named('evaluate').help}; with --suite, one MODEL",
        _add_evaluate_arguments,
        _evaluate,
        ("RECIPE [section.key=value ...] [options]", "MODEL --suite SUITE [key=value ...] [options]"),
    ),
    Command(
        "compare",
        "paired differences of two models evaluated with the same suite",
        _add_compare_arguments,
        _compare,
    ),
)
