"""The command line: ``hf-unlearn`` or ``python -m hf_unlearn``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from .errors import HfUnlearnError, RequestError
from .quiet import drop_harmless_lines

STAGE_HELP = {
    "train": "unlearn with every method of a recipe",
    "export": "make the quantized variants",
    "evaluate": "score every model in every format",
    "attack": "run the attacks",
    "verify": "judge, write the report",
    "publish": "write the published folders",
}
LISTS = ("losses", "robust", "formats", "attacks", "metrics", "recipes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done and passed. 1: done, the verdict (or check) is not passed. 2: the request is wrong.
    3: the environment failed.
    """
    try:
        arguments = _parse(argv)
        _quiet_libraries()
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except HfUnlearnError as error:
        print(f"hf-unlearn: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        print("hf-unlearn: out of memory: use fewer --workers, smaller batches or a bigger machine", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("hf-unlearn: stopped; the same command goes on where this one was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As with `| head`. Python would complain once more when it closes the pipe at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("hf-unlearn: nobody reads the output any more; the same command goes on from here", file=sys.stderr)
        return 3


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before, between and behind the options, which argparse cannot do below sub-commands."""
    parser = _parser()
    arguments, further = parser.parse_known_args(argv)
    takes_overrides = isinstance(getattr(arguments, "overrides", None), list)
    strange = [word for word in further if not takes_overrides or word.startswith("-")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if further:
        arguments.overrides = [*arguments.overrides, *further]
    return arguments


def _quiet_libraries() -> None:
    """Loading bars and notices of libraries would bury what the run has to say."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    drop_harmless_lines()


class _Parser(argparse.ArgumentParser):
    """Arguments that do not fit are a wrong request like any other: one line, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    about = "Make a language model forget, and prove it on the files you release."
    parser = _Parser(prog="hf-unlearn", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="every stage of a recipe, resuming what is there")
    _add_recipe_arguments(run)
    run.set_defaults(run=_run)
    for stage, text in STAGE_HELP.items():
        command = commands.add_parser(stage, help=f"one stage: {text}")
        _add_recipe_arguments(command)
        command.set_defaults(run=_run, only=stage)

    text = "the built-in recipe on planted facts, no network, no GPU; exit code 0 if every control came out right"
    quickstart = commands.add_parser("quickstart", help=text)
    _add_run_arguments(quickstart)
    quickstart.set_defaults(run=_quickstart)

    check = commands.add_parser("check", help="re-check digests and verdict of a published model")
    check.add_argument("model", metavar="REPO_OR_FOLDER")
    check.add_argument("--revision", help="branch, tag or commit on the Hub")
    text = "ask only whether every byte is what was verified, whatever the verdict"
    check.add_argument("--integrity-only", action="store_true", help=text)
    check.set_defaults(run=_check)

    listing = commands.add_parser("list", help="what there is")
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("--json", action="store_true", help="print an array of objects")
    listing.set_defaults(run=_list)
    return parser


def _add_recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    _add_run_arguments(command)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="change values of the recipe"
    )
    command.set_defaults(only=None)


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output-dir", type=Path, help="folder of the run (default: runs/NAME)")
    command.add_argument("--workers", type=int, help="worker processes (default: chosen; 0: none)")


def _run(arguments: argparse.Namespace) -> int:
    from .pipeline import run_pipeline
    from .recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    result = run_pipeline(recipe, output_dir, only=arguments.only, workers=_workers(arguments))
    return 0 if result.verified is None or result.passed else 1


def _quickstart(arguments: argparse.Namespace) -> int:
    from .pipeline import run_pipeline
    from .recipe import load_recipe

    recipe = load_recipe("quickstart")
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    result = run_pipeline(recipe, output_dir, workers=_workers(arguments))
    return 0 if result.controls_ok else 1


def _workers(arguments: argparse.Namespace) -> int | None:
    workers: int | None = arguments.workers
    if workers is not None and workers < 0:
        raise RequestError(f"--workers is {workers}: use 0 for none, or a number of processes")
    return workers


def _check(arguments: argparse.Namespace) -> int:
    from .hub.verified import check

    result = check(arguments.model, arguments.revision)
    for problem in result.problems:
        print(f"hf-unlearn: {problem}", file=sys.stderr)
    if not result.intact or result.report is None:
        print(f"{arguments.model}: NOT what was verified", file=sys.stderr)
        return 1
    verdict = result.report["verdict"]
    print(f"{arguments.model}: every byte is what was verified; verdict: {verdict['status']}")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    return 0 if arguments.integrity_only or verdict["status"] == "passed" else 1


def _list(arguments: argparse.Namespace) -> int:
    from .listing import entries_of, format_table

    entries = entries_of(arguments.what)
    print(json.dumps(entries, indent=1) if arguments.json else format_table(entries))
    return 0
