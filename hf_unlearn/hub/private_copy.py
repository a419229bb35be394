"""A copy that nobody else knows of, for the time of a load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EnvironmentFailure
from ..verification.digests import list_files


@contextmanager
def private_folder() -> Iterator[Path]:
    """An empty folder that only this user can enter, gone afterwards.

    What was mapped into memory from its files stays readable to this process, and can be reached under no name.

    Raises:
        EnvironmentFailure: It cannot be made.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="hf_unlearn-"))
    except OSError as error:
        raise EnvironmentFailure(f"no folder for temporary files can be made: {error.strerror or error}") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_files(source: Path, target: Path, links_within: Path | None = None) -> None:
    """Copy all files of a folder; what is none is copied as a link, so that a check of the copy finds it too.

    Args:
        source: The folder.
        target: An empty folder.
        links_within: Links that lead to somewhere inside this folder count as the files they lead to.

    Raises:
        EnvironmentFailure: A file cannot be read, or there is no room for its copy.
    """
    names, strange = list_files(source, links_within=links_within)
    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
        for problem in strange:
            place = target / problem.partition(": ")[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to("nowhere")
    except OSError as error:
        raise EnvironmentFailure(
            f"{source} cannot be copied to {target} ({error.strerror or error}): set TMPDIR to a place with room"
        ) from error
