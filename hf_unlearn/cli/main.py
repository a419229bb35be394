"""The command line: ``hf-unlearn`` or ``python -m hf_unlearn``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence

from ..errors import EnvironmentFailure, HfUnlearnError, RequestError
from ..registry import suggest
from ..runtime.environment import in_one_sentence
from ..runtime.log_filters import drop_harmless_lines
from ..runtime.secrets import redact
from ..runtime.signals import ended_by_signals, stopped_by
from ..runtime.streams import CLOSED, lost_output, open_standard_streams, watched_output
from ..stages import stages_of
from ..version import __version__
from . import attack, check, evaluate, init, jobs, launchers, listing, plan, publish, report, requests, run
from .command import Command

OWN_FAULT = 70
"""Exit code after an exception that nobody expected (``EX_SOFTWARE`` of the BSD sysexits)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done and passed. 1: done, the verdict (or check) is not passed. 2: the request is wrong.
    3: the environment failed. 70: a fault of this program. 129, 130, 143: stopped by a hang-up, an interrupt or a
    request to terminate.
    """
    closed = open_standard_streams()
    only_prints = True  # as a page of help does
    with ended_by_signals(whole_process=argv is None), watched_output():
        try:
            arguments = _parse(argv)
            _quiet_libraries()
            if closed:
                raise EnvironmentFailure("standard output is closed: send it to a file, or to /dev/null")
            if arguments.command is None:
                print(_overview())
                code = 0
            else:
                only_prints = arguments.only_prints
                code = int(arguments.run(arguments))
            return code if stopped_by() is None and lost_output() is None else _end(code, only_prints=only_prints)
        except HfUnlearnError as error:
            return _end(error.exit_code, redact(str(error)))
        except KeyboardInterrupt:
            return _end(128 + signal.SIGINT, "stopped; run the same command again to continue")
        except BrokenPipeError:
            return _end(3, f"{CLOSED}; run the same command again to continue", only_prints=only_prints)
        except MemoryError:
            return _end(3, "out of memory: use fewer --workers, smaller batches or a bigger machine")
        except Exception as error:
            sentence = in_one_sentence(error)
            if sentence is not None or stopped_by():
                return _end(3, sentence, only_prints=only_prints)
            # Python itself would end with 1, which says that a verdict is not passed.
            traceback.print_exc()
            return _end(OWN_FAULT, "this is a fault of hf-unlearn itself: please report it with the lines above")


def _end(code: int, sentence: str | None = None, *, only_prints: bool = False) -> int:
    """Say why a command ends; its exit code. A signal or a lost output is the reason for whatever else went wrong."""
    number, lost = stopped_by(), lost_output()
    if number is not None:
        code, how = 128 + number, "" if number == signal.SIGINT else f" by {number.name}"
        sentence = f"stopped{how}; run the same command again to continue"
    elif lost is not None and code != OWN_FAULT:
        if only_prints and lost == CLOSED:
            return 3  # as with `list | head`: the reader has what it wanted
        code, sentence = 3, lost if only_prints else f"{lost}; run the same command again to continue"
    with contextlib.suppress(OSError, ValueError):  # after a hang-up there is nobody to tell
        print(f"hf-unlearn: {sentence}", file=sys.stderr)
        sys.stderr.flush()
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may come before, between and after the options, which argparse does not support in subcommands."""
    parser, commands = _parser()
    try:
        arguments, further = parser.parse_known_args(argv)
    except SystemExit as error:  # after a page of help: argparse does not ask whether it went anywhere
        if lost_output() is None:
            raise
        raise BrokenPipeError from error
    takes_overrides = isinstance(getattr(arguments, "overrides", None), list)
    strange = [word for word in further if not takes_overrides or word.startswith("-")]
    if strange:
        (commands[arguments.command] if arguments.command else parser).refuse(strange)
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

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """One of some words: argparse itself lists all of them, the nearest one among them."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"there is no {value!r}: {suggest(str(value), [*action.choices])}")

    def refuse(self, words: Sequence[str]) -> None:
        """Refuse what is left over of a command line.

        Raises:
            RequestError: Names the nearest option if the first word is one.
        """
        name = words[0].partition("=")[0]
        if not name.startswith("--"):
            self.error(f"unrecognized arguments: {' '.join(words)}")
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        self.error(f"there is no option {name}: {suggest(name, options)}")


ABOUT = "Make a language model forget, and prove it on the files you release."

_START_HERE = (
    ("hf-unlearn quickstart", "a small model, every stage: no GPU, no network"),
    ("hf-unlearn init MODEL --forget FILE", "a first recipe for your model and rows, documents or a subject"),
    ("hf-unlearn plan recipe.yaml", "what a run takes and what is in its way: memory, time, disk"),
    ("hf-unlearn run recipe.yaml", "run it: train, quantize, score, attack, judge"),
    ("hf-unlearn attack MODEL --attack rtt --data FILE", "attack any model"),
    ("hf-unlearn evaluate MODEL --suite tofu", "score any model"),
    ("hf-unlearn report FOLDER_OR_REPO --open", "the page of a run or of a published model"),
    ("hf-unlearn check FOLDER_OR_REPO", "is every byte of a published model what was verified?"),
)


def _overview() -> str:
    """What ``hf-unlearn`` alone says."""
    width = max(len(line) for line, _ in _START_HERE)
    lines = [f"  {line.ljust(width)}  {does}" for line, does in _START_HERE]
    names = ", ".join(command.name for command in _commands())
    ends = [f"All commands: {names}.", "`hf-unlearn COMMAND --help` explains one."]
    return "\n".join([ABOUT, "", *lines, "", *ends])


def _parser() -> tuple[_Parser, Mapping[str, _Parser]]:
    """The whole parser, and that of each command by name."""
    parser = _Parser(prog="hf-unlearn", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"hf_unlearn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    by_name: dict[str, _Parser] = {}
    for command in _commands():
        usage = "\n       ".join(f"hf-unlearn {command.name} {words}" for words in command.usages) or None
        words = by_name[command.name] = commands.add_parser(command.name, help=command.help, usage=usage)
        command.add_arguments(words)
        words.set_defaults(run=command.run, only_prints=command.only_prints)
    return parser, by_name


def _commands() -> list[Command]:
    """All commands; those of stages come in the order of a run, even if they can do more than their stage."""
    own = {command.name: command for command in (*evaluate.COMMANDS, *attack.COMMANDS, *publish.COMMANDS)}
    named = [stage for stage in stages_of(None) if stage.help]
    stages = [own.pop(stage.name) if stage.name in own else run.stage_command(stage) for stage in named]
    return [
        *init.COMMANDS,
        *plan.COMMANDS,
        run.RUN,
        *jobs.COMMANDS,
        *stages,
        *own.values(),
        run.AUDIT,
        run.QUICKSTART,
        *report.COMMANDS,
        *check.COMMANDS,
        *requests.COMMANDS,
        *listing.COMMANDS,
        *launchers.COMMANDS,
    ]
