"""``hf-unlearn accelerate-config NAME``: where the config files for ``accelerate launch`` are after installation."""

from __future__ import annotations

import argparse
from pathlib import Path

from .command import Command

_FOLDER = Path(__file__).parent.parent / "recipes" / "accelerate"


def launcher_files() -> dict[str, Path]:
    """Config files for ``accelerate launch`` that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", choices=launcher_files(), help="which one (default: list them)")


def _print_path(arguments: argparse.Namespace) -> int:
    files = launcher_files()
    if arguments.name is not None:
        print(files[arguments.name])
        return 0
    print("\n".join(files))
    return 0


COMMANDS = (
    Command(
        "accelerate-config",
        "print the path of a config file: accelerate launch --config_file $(hf-unlearn accelerate-config zero3) ...",
        _add_arguments,
        _print_path,
        only_prints=True,
    ),
)
