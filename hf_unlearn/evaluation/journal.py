"""The results of finished batches, on disk as soon as each is finished, so that a killed evaluation goes on.

One JSON line per batch. A line that was cut short by a kill is dropped. Batches are planned the same way every time
(see :mod:`.batch_runner`), so their numbers say what was done.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

PATTERN = "records.partial-*.jsonl"


class Journal:
    """Results by pass and number of batch, kept in one file per process.

    Args:
        folder: Where the file stands.
        fingerprint: What decides the results. A journal with another one is thrown away.
        rank: Number of this process.
    """

    def __init__(self, folder: Path, fingerprint: str, rank: int = 0) -> None:
        self._folder = folder
        self.path = folder / PATTERN.replace("*", str(rank))
        self._head = {"fingerprint": fingerprint}
        self._file: BinaryIO | None = None
        self._done: dict[str, dict[int, list[Any]]] = {}
        self._limits: dict[str, int] = {}

    def done(self, name: str) -> Mapping[int, list[Any]]:
        """Results of the finished batches of a pass."""
        return self._done.get(name, {})

    def limit(self, name: str) -> int | None:
        """To how many tokens per forward a pass had to come down; ``None`` where everything fitted."""
        return self._limits.get(name)

    def add(self, name: str, batch: int, results: Sequence[Any], limit: int | None) -> None:
        """Keep the results of a batch."""
        self._write({"pass": name, "batch": batch, "results": list(results), "limit": limit})

    @contextlib.contextmanager
    def open(self) -> Iterator[Journal]:
        """Read what is there, then keep the file open for more."""
        end = self._read()
        with self.path.open("r+b" if end else "wb") as file:
            file.truncate(end)
            file.seek(end)
            self._file = file
            if not end:
                self._write(self._head)
            yield self
        self._file = None

    def remove(self) -> None:
        """Remove the journal, and those of processes that were there before a kill: the records are written."""
        for path in self._folder.glob(PATTERN):
            path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None, "the journal is not open"
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _read(self) -> int:
        """Take in the finished lines; returns where the last of them ends."""
        if not self.path.exists():
            return 0
        end = 0
        with self.path.open("rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw) if raw.endswith(b"\n") else None
                except ValueError:
                    line = None
                if line is None or (end == 0 and line != self._head):
                    break
                end += len(raw)
                if "pass" in line:
                    self._done.setdefault(line["pass"], {})[line["batch"]] = line["results"]
                    if line["limit"] is not None:
                        self._limits[line["pass"]] = line["limit"]
        return end
