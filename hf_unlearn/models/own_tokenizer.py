"""A model with another tokenizer than its own, as a folder like any other: all that reads the folder uses it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.encoding import load_tokenizer
from ..runtime.cache import cache_dir, is_as_listed, lock_of, make_places, write_list
from ..runtime.files import files_within, whole_folder
from ..runtime.locks import locked
from ..verification.digests import hash_files
from .loading import tokenizer_files

SOURCE_FILE = "tokenizer_source.json"
# What a run wrote about a folder that it made: it lists the tokenizer that is replaced.
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TokenizerSource:
    """What a folder with another tokenizer was made of.

    Attributes:
        model: Name of the model's own folder, which for a model from the Hub is its commit.
        tokenizer: Hub id of the tokenizer; empty for a local one.
        revision: Its revision, if one was named.
    """

    model: str
    tokenizer: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        at = f" (revision {self.revision})" if self.revision else ""
        return f"with the tokenizer of {self.tokenizer}{at}" if self.tokenizer else "with another, local tokenizer"


def tokenizer_source(folder: Path) -> TokenizerSource | None:
    """What a folder was made of; ``None`` if the model has its own tokenizer."""
    path = folder / SOURCE_FILE
    return TokenizerSource(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def with_tokenizer(folder: Path, tokenizer: str, revision: str | None = None) -> Path:
    """A folder in the cache with a model's files and another tokenizer. Weights are linked and not copied.

    Args:
        folder: The model.
        tokenizer: Hub id or folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        RequestError: There is no tokenizer that can be loaded.
        EnvironmentFailure: The Hub cannot be reached, or the cache is no folder.
    """
    own = {path.relative_to(folder).as_posix() for path in tokenizer_files(folder)}
    kept = [name for name in files_within(folder) if name.split("/")[0] not in own and name != _MANIFEST]
    with tempfile.TemporaryDirectory() as work:
        given = Path(work)
        load_tokenizer(tokenizer, revision).save_pretrained(given)
        source = TokenizerSource(folder.name, "" if Path(tokenizer).is_dir() else tokenizer, revision)
        (given / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=1), encoding="utf-8")
        files = {"model": hash_files(folder, kept), "tokenizer": hash_files(given, files_within(given))}
        key = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        made = cache_dir() / "with-tokenizer" / key[:32]
        make_places(made)
        with locked(lock_of(made), before_waiting=lambda: None):
            if not is_as_listed(made):
                with whole_folder(made) as partial:
                    _fill(partial, folder, kept, given)
                write_list(made)
    return made


def _fill(out: Path, folder: Path, names: list[str], tokenizer: Path) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.symlink((folder / name).resolve(), out / name)
        except OSError:  # a system without links
            shutil.copyfile(folder / name, out / name)
    shutil.copytree(tokenizer, out, dirs_exist_ok=True)
