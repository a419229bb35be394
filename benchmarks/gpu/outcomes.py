"""What came of each unit of work, kept beside each other so that a later call goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "failed", "skipped", "cut"]


@dataclass(frozen=True)
class Outcome:
    """What came of one unit.

    Attributes:
        status: ``skipped`` is what this machine cannot do, ``cut`` what a call had no time for in the end.
        why: One line, unless it is done.
        seconds: Wall time, the start of its process included.
        figures: What it measured.
    """

    status: Status
    why: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)


class Outcomes:
    """The outcomes in a folder, one file each.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def get(self, name: str) -> Outcome | None:
        """What came of a unit; ``None`` before it was tried."""
        path = self._path(name)
        return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def keep(self, name: str, outcome: Outcome) -> None:
        """Writes one, in one move: a call that is killed leaves no half of a file."""
        part = self._path(name).with_suffix(".part")
        part.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
        os.replace(part, self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
