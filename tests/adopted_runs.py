"""A finished run as the start of another one, so that a test only pays for the stage that it is about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_unlearn.recipe import load_recipe


def without_stage(finished: Path, out: Path, stage: str) -> Path:
    """The run before a stage, with what the other stages made; verdict and published folders are made anew."""
    shutil.copytree(finished, out)
    for folder in (out / stage, out / "references" / stage, out / "verify", *out.glob("publish*")):
        shutil.rmtree(folder, ignore_errors=True)
    return out


def adopted(finished: Path, out: Path, recipe: Path, overrides: Sequence[str] = ()) -> Path:
    """The run as if its recipe had been this one: what that changes is left to do."""
    shutil.copytree(finished, out)
    books = json.loads((out / "run.json").read_text())
    books["recipe"] = load_recipe(recipe, overrides).to_dict()
    (out / "run.json").write_text(json.dumps(books, default=str))
    return out
