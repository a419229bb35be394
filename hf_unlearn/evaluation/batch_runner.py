"""Running work in batches: planned by size, halved where memory is short, shared by processes, kept in a journal."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ..errors import EnvironmentFailure
from ..models.memory import release_memory
from ..runtime.environment import is_out_of_memory
from ..runtime.processes import gather, rank, world_size
from .journal import Journal

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

    Every process plans the same batches and takes each so-manieth of them, so that several processes compute what
    one would. Results are the same lists in all of them.

    Args:
        batch_tokens: Tokens per forward to begin with.
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
        for part in reversed(parts):  # where two processes did a batch, the first one's results stand
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
                    f"memory is not enough for one row of {largest} tokens ({self._name}): use a machine with more, "
                    "a smaller dtype or shorter rows"
                ) from None
            self.limit = largest * (len(members) // 2)
            return None
