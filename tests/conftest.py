"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from filelock import FileLock

MadeOnce = Callable[[str, Callable[[Path], None]], Path]


modules_frozen = 0


def freeze_imports(phase: str, about: Mapping[str, int]) -> None:
    """What was imported is searched for garbage once, and not again.

    Every start of a training and every model that is let go has all garbage collected, which takes half a second
    with torch and transformers in memory: together a third of the time of all tests.
    """
    global modules_frozen
    if phase == "stop" and about["generation"] == 2 and len(sys.modules) > modules_frozen + 50:
        modules_frozen = len(sys.modules)
        gc.freeze()


gc.callbacks.append(freeze_imports)


@pytest.fixture(scope="session", autouse=True)
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models built from scratch are built once for all tests of a worker, and the user's own cache is left alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_UNLEARN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a folder that all workers read: the first one that asks for it makes it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder = common / name
        with FileLock(f"{folder}.lock"):
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                (folder / "made").touch()
        return folder

    return make
