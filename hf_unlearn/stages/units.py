"""Units of work: a folder that is either finished, with a manifest of its inputs, or absent.

A unit is built in a ``.partial`` folder next to its final place and renamed when everything in it is written. A
``kill -9`` can therefore never leave a half-written folder that looks like a result, and a run that is started again
repeats only what is missing or has other inputs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..attacks import tier_names
from ..errors import RequestError
from ..runtime.files import (
    files_within,
    partial_of,
    remove,
    replace_folder,
    sweep,
    sync_folder,
    write_atomically,
    write_synced,
)
from ..runtime.leases import refuse_if_lost
from ..runtime.locks import run_lock
from ..verification.digests import sha256_file

MANIFEST = "manifest.json"
RUN_FILE = "run.json"
# What a run writes before it has made anything: a request that was refused may be mended in the same folder.
_HALF_RUN_FILE = partial_of(Path(RUN_FILE)).name
_BOOKS = frozenset({RUN_FILE, _HALF_RUN_FILE, "workers.log", "timings.json"})


def fingerprint(value: Any) -> str:
    """sha256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under ``folder`` except its manifest, by relative path."""
    return {name: sha256_file(folder / name) for name in files_within(folder) if name != MANIFEST}


@dataclass(frozen=True)
class Unit:
    """One folder of one stage.

    Attributes:
        path: Where it is when finished.
        inputs: Everything that decides its content: recipe section, digests of data and models, seed, versions.
        keep_partial: Keep a half-built folder between attempts (training resumes from its checkpoints).
    """

    path: Path
    inputs: Mapping[str, Any]
    keep_partial: bool = False

    @property
    def partial(self) -> Path:
        """Where it is built."""
        return partial_of(self.path)

    @property
    def done(self) -> bool:
        """Whether the folder is finished and was made from the same inputs."""
        manifest = read_manifest(self.path)
        return manifest is not None and manifest["inputs"] == fingerprint(self.inputs)

    def outputs(self) -> dict[str, str]:
        """Digests of the finished folder's files.

        Raises:
            RequestError: The unit is not finished, or was made from other inputs.
        """
        manifest = read_manifest(self.path)
        if manifest is None or manifest["inputs"] != fingerprint(self.inputs):
            state = "not there yet" if manifest is None else "out of date"
            stage = self.inputs.get("stage")
            first = f"run `hf-unlearn {stage}` first" if stage else "run the stage that makes it first"
            raise RequestError(f"{self.path} is {state}: {first}")
        return dict(manifest["outputs"])

    def checked(self) -> dict[str, str]:
        """Digests of the finished folder's files, which are compared with what is there now.

        Raises:
            RequestError: See :meth:`outputs`; or a file was changed, removed or added since the unit was finished.
        """
        outputs = self.outputs()
        changed = first_difference(outputs, file_digests(self.path))
        if changed is not None:
            raise RequestError(
                f"{self.path / changed[0]} {changed[1]} since it was made: remove the folder {self.path} and run the "
                "same command again"
            )
        return outputs

    def begin(self) -> Path:
        """Make (or keep, for a resumable unit of the same inputs) the folder to build in.

        Raises:
            RequestError: A file is where the folders of the unit belong.
        """
        books: dict[str, Any] = {"inputs": fingerprint(self.inputs)}
        if not self._partial_is_ours():
            remove(self.partial)
            books["begun"] = time.time()  # what goes on with an earlier attempt does not know how long that took
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RequestError(f"{self.path} lies in a file, not in a folder: move that file away") from None
        (self.partial / MANIFEST).write_text(json.dumps(books), encoding="utf-8")
        return self.partial

    def finish(self) -> None:
        """Write the manifest, with the seconds since :meth:`begin`, and rename the built folder into place.

        Raises:
            EnvironmentFailure: This process was out of touch for so long that it lost its claim.
        """
        refuse_if_lost()  # somebody else may be making the unit by now
        manifest: dict[str, Any] = {"inputs": fingerprint(self.inputs), "outputs": file_digests(self.partial)}
        begun = (read_manifest(self.partial, finished=False) or {}).get("begun")
        if isinstance(begun, float):
            manifest["seconds"] = round(max(0.0, time.time() - begun), 1)
        sync_folder(self.partial)
        write_synced(self.partial / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
        replace_folder(self.partial, self.path)

    def run(self, build: Callable[[Path], None]) -> None:
        """Build the unit unless it is done: ``build`` fills a folder that is then renamed into place."""
        if self.done:
            return
        try:
            build(self.begin())
            self.finish()
        finally:
            # A full disk stays full while half-written results are on it.
            if not self.keep_partial:
                shutil.rmtree(self.partial, ignore_errors=True)  # an error on its way must not be lost for this one

    def _partial_is_ours(self) -> bool:
        if not self.keep_partial:
            return False
        manifest = read_manifest(self.partial, finished=False)
        return manifest is not None and manifest["inputs"] == fingerprint(self.inputs)


def read_manifest(folder: Path, *, finished: bool = True) -> dict[str, Any] | None:
    """The manifest of a folder, or ``None`` if there is none that can be read (or only that of a half-built one)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("inputs"), str):
        return None
    outputs = manifest.get("outputs")
    if outputs is None:
        return None if finished else manifest
    return manifest if isinstance(outputs, dict) and all(isinstance(each, str) for each in outputs.values()) else None


def first_difference(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, str] | None:
    """The first file, in alphabetical order, that differs between two lists of digests, and in which way."""
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            return name, "is gone"
        if name not in before:
            return name, "was added"
        if before[name] != now[name]:
            return name, "was changed"
    return None


def prepare_output_dir(output_dir: Path) -> set[str]:
    """Make the folder of a run, unless it exists.

    Returns:
        Names of what is in it.

    Raises:
        RequestError: It holds something other than a run, or is not a folder.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{output_dir} is or is in a file, not a folder: choose another --output-dir") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise
        raise RequestError(f"{output_dir} cannot be made ({error.strerror}): choose another --output-dir") from None
    here = {item.name for item in output_dir.iterdir() if not item.name.startswith(".")}
    if here and not here & {RUN_FILE, _HALF_RUN_FILE}:
        raise RequestError(
            f"{output_dir} holds other files ({', '.join(sorted(here)[:3])}) and no run: "
            "choose an empty or new --output-dir"
        )
    return here


def try_output_dir(output_dir: Path) -> None:
    """Find out whether a run can write there, before anything else is done; a folder that was not there is not left.

    Raises:
        RequestError: See :func:`prepare_output_dir`.
        OSError: Nothing can be written there.
    """
    made: list[Path] = []
    with contextlib.suppress(OSError):  # a name that is too long: the next lines say so
        made = [each for each in (output_dir, *output_dir.parents) if not each.exists()]
    try:
        prepare_output_dir(output_dir)
        try:
            with tempfile.TemporaryFile(dir=output_dir):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(output_dir)) from error
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


def claim_output_dir(output_dir: Path, name: str, recipe: Mapping[str, Any], *, alone: bool = True) -> None:
    """Make ``output_dir`` this recipe's, or check that it already is. The caller holds its lock.

    As long as nothing has been made in it, another recipe (or the corrected one) may take it.

    Args:
        output_dir: The run's folder.
        name: Of the recipe.
        recipe: Its values.
        alone: Whether nobody else works on units of the run: what killed processes left is then removed.

    Raises:
        RequestError: The folder belongs to another recipe, to this one with other values, or holds something else.
    """
    marker = output_dir / RUN_FILE
    here = prepare_output_dir(output_dir)
    if alone:
        sweep(output_dir)
    if here <= _BOOKS:
        record = {"name": name, "recipe": recipe}
        write_atomically(marker, json.dumps(record, indent=1, sort_keys=True, default=_plain))
        return
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RequestError(f"{marker} is not readable: choose another --output-dir or remove that folder")
    expected = json.loads(json.dumps(recipe, default=_plain))
    if found.get("name") != name:
        raise RequestError(
            f"{output_dir} belongs to the recipe {found.get('name')!r}, not {name!r}: choose another --output-dir"
        )
    as_it_was = _of_that_tier(expected, found.get("recipe"))
    changed = sorted(_differences(found.get("recipe"), as_it_was))
    if not changed and as_it_was is not expected:
        write_atomically(marker, json.dumps({"name": name, "recipe": expected}, indent=1, sort_keys=True))
    if changed:
        raise RequestError(
            f"{output_dir} belongs to the recipe {name!r} with other values ({', '.join(changed[:5])}): "
            "choose another --output-dir, or undo the change"
        )


def begun_recipe(output_dir: Path) -> dict[str, Any]:
    """The recipe of a run's folder as plain data; empty as long as nothing was made in it, or if it cannot be read."""
    try:
        here = {item.name for item in output_dir.iterdir() if not item.name.startswith(".")}
        found = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    recipe = found.get("recipe") if isinstance(found, dict) and not here <= _BOOKS else None
    return recipe if isinstance(recipe, dict) else {}


def _of_that_tier(recipe: dict[str, Any], before: Any) -> dict[str, Any]:
    """The recipe without attacks that its tier did not have when the folder was made: they are run in addition."""
    attacks = recipe.get("attack") or {}
    had = before.get("attack") if isinstance(before, dict) else None
    if not isinstance(had, dict) or not attacks.get("tier") or attacks["tier"] != had.get("tier"):
        return recipe
    new = [name for name in tier_names(attacks["tier"]) if name in attacks and name not in had]
    gate = recipe["gate"]
    if not new:
        return recipe
    kept = {key: value for key, value in attacks.items() if key not in new}
    judged = [name for name in gate["attacks"] if name not in new]
    return {**recipe, "attack": kept, "gate": {**gate, "attacks": judged}}


def _differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{path}.{index}")
    elif a != b:
        yield path


@contextmanager
def output_lock(output_dir: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Lock the output folder against a second run at the same time (free again when this one ends, or is lost).

    Args:
        output_dir: The run's folder.
        say: Told if a process on another machine has to be waited for.

    Raises:
        RequestError: Another run holds it, or a command for one unit is at work in it.
        EnvironmentFailure: The file system has no working locks.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with run_lock(output_dir, say):
        yield
