"""Running work in batches: planned by size, halved if memory is short, shared by processes, kept in a journal.

What is in the journal is not done again, so a killed evaluation resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import EnvironmentFailure
from ..models.memory import release_memory
from ..runtime.environment import is_out_of_memory
from ..runtime.files import make_private
from ..runtime.processes import gather, rank, world_size

_JOURNAL_FILES = "records.partial-*.jsonl"

#: From the indices of a batch's items to one JSON-able result each.
Work = Callable[[Sequence[int]], Sequence[Any]]


def plan_batches(
    sizes: Sequence[int], budget: int, kinds: Sequence[Hashable] = (), most: int | None = None
) -> list[tuple[int, ...]]:
    """Batches of items of similar size, the largest first.

    Args:
        sizes: Tokens of each item. A batch costs its largest size times its number of items.
        budget: What a batch may cost; an item alone may cost more.
        kinds: Items of different kinds never share a batch; all are of one kind if left out.
        most: Greatest number of items in a batch.

    Returns:
        Indices of the items of each batch. Every index is in one of them.
    """
    queues: dict[Hashable, list[int]] = {}
    for index in range(len(sizes)):
        queues.setdefault(kinds[index] if kinds else None, []).append(index)
    batches = []
    for queue in queues.values():
        queue.sort(key=lambda index: (-sizes[index], index))
        start = 0
        while start < len(queue):
            count = max(1, budget // max(1, sizes[queue[start]]))
            batches.append(tuple(queue[start : start + min(count, most or count)]))
            start += len(batches[-1])
    return batches


class Passes:
    """Runs the passes of one evaluation.

    Every one of ``n`` processes plans the same batches and takes every ``n``-th of them, so together they compute
    what a single one would. Results are the same lists in all of them.

    Args:
        batch_tokens: Initial tokens per forward.
        journal: Where results of batches are kept; ``None`` keeps them in memory only.
        shared: Whether the processes of this run share the work; else each does all of it.
    """

    def __init__(self, batch_tokens: int, journal: Journal | None = None, *, shared: bool = False) -> None:
        self.batch_tokens = batch_tokens
        self._journal = journal
        self._shared = shared and world_size() > 1

    def run(
        self,
        name: str,
        sizes: Sequence[int],
        work: Work,
        *,
        kinds: Sequence[Hashable] = (),
        most: int | None = None,
    ) -> list[Any]:
        """Results of ``work`` for all items, in their order.

        Args:
            name: Name of the pass, unique in the evaluation.
            sizes: See :func:`plan_batches`.
            work: Does one batch.
            kinds: See :func:`plan_batches`.
            most: See :func:`plan_batches`.

        Raises:
            EnvironmentFailure: A single item does not fit into memory.
        """
        batches = plan_batches(sizes, self.batch_tokens, kinds, most)
        done: dict[int, Sequence[Any]] = dict(self._journal.done(name)) if self._journal else {}
        fitting = _Fitting(name, sizes, work, self._journal.limit(name) if self._journal else None)
        for number, members in enumerate(batches):
            if number in done or (self._shared and number % world_size() != rank()):
                continue
            done[number] = fitting.run(members)
            if self._journal:
                self._journal.add(name, number, done[number], fitting.limit)
        results: list[Any] = [None] * len(sizes)
        parts: Sequence[Mapping[int, Sequence[Any]]] = gather(done) if self._shared else [done]
        for part in reversed(parts):  # if two processes ran the same batch, the first one's results count
            for number, found in part.items():
                for member, result in zip(batches[number], found, strict=True):
                    results[member] = result
        return results


class _Fitting:
    """Does batches in parts that fit into memory."""

    def __init__(self, name: str, sizes: Sequence[int], work: Work, limit: int | None) -> None:
        self._name = name
        self._sizes = sizes
        self._work = work
        self.limit = limit

    def run(self, members: Sequence[int]) -> list[Any]:
        results: list[Any] = []
        waiting = list(members)
        while waiting:
            count = len(waiting)
            if self.limit is not None:
                count = min(count, max(1, self.limit // max(1, self._sizes[waiting[0]])))
            found = self._try(waiting[:count])
            if found is None:  # outside of the handler, which would keep the failed forward's tensors alive
                release_memory()
                continue
            results += found
            del waiting[:count]
        return results

    def _try(self, members: Sequence[int]) -> list[Any] | None:
        try:
            return list(self._work(members))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            largest = self._sizes[members[0]]
            if len(members) == 1:
                raise EnvironmentFailure(
                    f"memory is not enough for one row of {largest} tokens ({self._name}): use more memory, a "
                    "smaller dtype or shorter rows"
                ) from None
            self.limit = largest * (len(members) // 2)
            return None


class Journal:
    """Results of finished batches by pass and number of batch, on disk as soon as each is finished.

    One file per process, with one JSON line per batch; a line that was cut short by a kill is dropped. Batches are
    planned the same way every time, so their numbers say what was done.

    Args:
        folder: Where the file stands.
        fingerprint: What decides the results. A journal with another one is thrown away.
        rank: Number of this process.
    """

    def __init__(self, folder: Path, fingerprint: str, rank: int = 0) -> None:
        self._folder = folder
        self.path = folder / _JOURNAL_FILES.replace("*", str(rank))
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
            make_private(self.path)
            file.truncate(end)
            file.seek(end)
            self._file = file
            if not end:
                self._write(self._head)
            yield self
        self._file = None

    def remove(self) -> None:
        """Remove the journal, and those of processes that were there before a kill: the records are written."""
        for path in self._folder.glob(_JOURNAL_FILES):
            path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None, "the journal is not open"
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _read(self) -> int:
        """Read the finished lines; returns where the last of them ends."""
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
