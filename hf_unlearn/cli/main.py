"""The command line: ``hf-unlearn`` or ``python -m hf_unlearn``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from ..errors import HfUnlearnError, RequestError
from ..runtime.log_filters import drop_harmless_lines
from ..runtime.secrets import redact
from ..stages import stages_of
from . import attack, check, evaluate, listing, publish, run
from .command import Command

OWN_FAULT = 70
"""Exit code after an exception that nobody expected (``EX_SOFTWARE`` of the BSD sysexits)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done and passed. 1: done, the verdict (or check) is not passed. 2: the request is wrong.
    3: the environment failed. 70: a fault of this program. 130: stopped from the keyboard.
    """
    try:
        arguments = _parse(argv)
        _quiet_libraries()
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except HfUnlearnError as error:
        print(f"hf-unlearn: {redact(str(error))}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        print("hf-unlearn: out of memory: use fewer --workers, smaller batches or a bigger machine", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("hf-unlearn: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As with `| head`. Python would complain again when it closes the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("hf-unlearn: the output was closed; run the same command again to continue", file=sys.stderr)
        return 3
    except Exception:
        # Python itself would end with 1, which says that a verdict is not passed.
        traceback.print_exc()
        print(
            "hf-unlearn: this is a fault of hf-unlearn itself: please report it with the lines above", file=sys.stderr
        )
        return OWN_FAULT


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may come before, between and after the options, which argparse does not support in subcommands."""
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
    """Libraries' loading bars and notices would bury the run's own output."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    drop_harmless_lines()


class _Parser(argparse.ArgumentParser):
    """Bad arguments are a wrong request like any other: one line, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    about = "Make a language model forget, and prove it on the files you release."
    parser = _Parser(prog="hf-unlearn", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _commands():
        words = commands.add_parser(command.name, help=command.help)
        command.add_arguments(words)
        words.set_defaults(run=command.run)
    return parser


def _commands() -> list[Command]:
    """All commands; those of stages come in the order of a run, even if they can do more than their stage."""
    own = {command.name: command for command in (*evaluate.COMMANDS, *attack.COMMANDS, *publish.COMMANDS)}
    named = [stage for stage in stages_of(None) if stage.help]
    stages = [own.pop(stage.name) if stage.name in own else run.stage_command(stage) for stage in named]
    return [run.RUN, *stages, *own.values(), run.AUDIT, run.QUICKSTART, *check.COMMANDS, *listing.COMMANDS]
