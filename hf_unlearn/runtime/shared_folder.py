"""Whether all processes of a launch, perhaps on several machines, see the same folder: known before work starts."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import EnvironmentFailure
from .processes import gather, world_size

# A file server may show a new folder this late to machines that have looked for it before.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Look:
    """What one process found when all tried to create the same file.

    Attributes:
        host: Its machine.
        found: Whether it made the file, found it made, or did not even see the folder.
    """

    host: str
    found: Literal["made", "there", "no folder"]


def check_shared(folder: Path) -> None:
    """Let all processes of a launch create the same file in a folder: exactly one may.

    All processes call this together, after the main one has made the folder.

    Raises:
        EnvironmentFailure: In all of them, if they do not see the same folder, or several made the file.
    """
    if world_size() == 1:
        return
    file = folder / f".probe-{gather(secrets.token_hex(8))[0]}"
    looks = gather(look(file))
    file.unlink(missing_ok=True)
    refuse_unshared(folder, looks)


def look(file: Path, patience: float = _PATIENCE) -> Look:
    """Try to be the one that creates a file, and wait a while for its folder to be seen.

    Args:
        file: The file.
        patience: Seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return Look(platform.node(), "there")
        except FileNotFoundError:
            if time.monotonic() > deadline:
                return Look(platform.node(), "no folder")
            time.sleep(0.5)
        else:
            return Look(platform.node(), "made")


def refuse_unshared(folder: Path, looks: Sequence[Look]) -> None:
    """Refuse a folder that is not the same one for all.

    Args:
        folder: The folder.
        looks: What every process found.

    Raises:
        EnvironmentFailure: Says which machines see another folder, or none.
    """
    advice = "choose an --output-dir on a file system that all machines of the launch share"
    blind = sorted({each.host for each in looks if each.found == "no folder"})
    if blind:
        raise EnvironmentFailure(f"{', '.join(blind)} cannot see {folder}, which the first process made: {advice}")
    made = Counter(each.host for each in looks if each.found == "made")
    if made.total() > 1:
        raise EnvironmentFailure(
            f"{folder} is not the same folder for all processes, or has no working locks: the same file could be "
            f"created {made.total()} times, on {', '.join(sorted(made))}; {advice}"
        )
