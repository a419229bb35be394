"""Steps, rows and tokens of a training run, counted as the trainer will count them."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.encoding import EncodedRow
from ..data.pairing import PairedRows
from ..losses.base import Loss
from ..robust.auto import Auto
from ..robust.base import TrainingPart
from ..robust.cycles import Cycles
from ..trainer.config import UnlearnConfig
from ..trainer.parts import epochs_of_run, steps_of_run
from ..trainer.rate_search import MOST_TRIALS

_MOST_COUNTED = 200_000
_BATCHES_DRAWN = 32


@dataclass(frozen=True)
class Rows:
    """Rows that go through the model.

    Attributes:
        rows: How many.
        tokens: Of them, padding left out.
        labels: Positions among these that are predicted.
    """

    rows: float = 0
    tokens: float = 0
    labels: float = 0

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.rows + other.rows, self.tokens + other.tokens, self.labels + other.labels)

    def times(self, factor: float) -> Rows:
        """So many times as much."""
        return Rows(self.rows * factor, self.tokens * factor, self.labels * factor)


@dataclass(frozen=True)
class TrainingWork:
    """What a training run does, all of its steps together.

    Attributes:
        steps: Optimizer steps; the most there can be where rounds may end early.
        forward_backward: Rows of all passes with a backward pass.
        forward: Rows of passes without one: reference values, before and after.
        exact: Whether tokens are counted row by row; otherwise rows have the mean length of their set.
        padding: Tokens with padding for each without.
        extra_steps: Steps besides those of the run: rehearsed attacks.
        may_end_early: Whether rounds end as soon as nothing comes back.
    """

    steps: int
    forward_backward: Rows
    forward: Rows
    exact: bool
    padding: float
    extra_steps: int = 0
    may_end_early: bool = False


def counted(rows: Sequence[EncodedRow]) -> Rows:
    """All of some rows, once."""
    return Rows(
        len(rows),
        sum(len(row.input_ids) for row in rows),
        sum(len(row.input_ids) - row.n_prompt for row in rows),
    )


def mean(rows: Sequence[EncodedRow]) -> Rows:
    """A row of average length."""
    return counted(rows).times(1 / len(rows)) if rows else Rows()


def training_work(
    args: UnlearnConfig, data: PairedRows, parts: Sequence[TrainingPart], processes: int, pass_tokens: int | None
) -> TrainingWork:
    """What a run does.

    Args:
        args: The run's settings.
        data: Its rows, arranged by its parts.
        parts: Its robust parts.
        processes: That train together.
        pass_tokens: Most tokens of a pass; ``None`` if micro-batches are not cut.
    """
    steps = steps_of_run(args, len(data), processes)
    padding = 1.0 if args.padding_free else padding_of(data, args.per_device_train_batch_size, pass_tokens)
    forward = _references(args, data, parts)
    cycles = _cycles(args, data, parts, steps, processes)
    if cycles is not None:
        return _of_cycles(cycles, args, data, steps, processes, forward, padding)
    forget, retain, exact = _of_epochs(args, data, steps, processes)
    views = max([1, *(part.passes for part in parts)])
    return TrainingWork(steps, forget.times(views) + retain, forward, exact, padding)


def rows_of_step(args: UnlearnConfig, processes: int) -> int:
    """Forget rows of a whole optimizer step."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * processes


def _of_epochs(args: UnlearnConfig, data: PairedRows, steps: int, processes: int) -> tuple[Rows, Rows, bool]:
    """Forget rows with their alternates, retain rows, and whether every row was counted.

    Every epoch goes once through the forget rows, each with its retain rows and one of its alternates.
    """
    loss = args.build_forget_loss()
    per_epoch = steps_of_run(_one_epoch(args), len(data), processes)
    whole, rest = divmod(steps, per_epoch)
    begun = min(len(data), rest * rows_of_step(args, processes))
    if whole * len(data) * max(1, data.retain_per_forget) > _MOST_COUNTED:
        items, whole = whole * len(data) + begun, 0
    else:
        items = begun
    forget, retain = (each.times(items) for each in _mean_item(data, loss))
    for epoch in range(whole):
        more = _epoch(data, epoch, loss)
        forget, retain = forget + more[0], retain + more[1]
    data.set_epoch(0)
    # With several processes the last batch of an epoch is filled up with rows from its beginning.
    full = processes == 1 or len(data) % (args.per_device_train_batch_size * processes) == 0
    return forget, retain, full and not items


def _one_epoch(args: UnlearnConfig) -> UnlearnConfig:
    once = copy.copy(args)
    once.max_steps, once.num_train_epochs = -1, 1
    return once


def _epoch(data: PairedRows, epoch: int, loss: Loss) -> tuple[Rows, Rows]:
    data.set_epoch(epoch)
    forget = counted(data.forget) if loss.uses_labels else Rows()
    if loss.uses_alternates:
        forget += counted([data.alternates[data.alternate_row(index)] for index in range(len(data))])
    drawn = [row for index in range(len(data)) for row in data.retain_rows(index)] if data.retain_per_forget else []
    return forget, counted([data.retainable[row] for row in drawn])


def _mean_item(data: PairedRows, loss: Loss) -> tuple[Rows, Rows]:
    own = mean(data.forget) if loss.uses_labels else Rows()
    others = mean(data.alternates) if loss.uses_alternates else Rows()
    return own + others, mean(data.retainable).times(data.retain_per_forget)


def _cycles(
    args: UnlearnConfig, data: PairedRows, parts: Sequence[TrainingPart], steps: int, processes: int
) -> Cycles | None:
    for part in parts:
        if isinstance(part, Auto):
            part.arrange(data, epochs_of_run(args, len(data), processes))
            return part.sized(steps, epochs_of_run(args, len(data), processes))
        if isinstance(part, Cycles):
            return part
    return None


def _of_cycles(
    cycles: Cycles,
    args: UnlearnConfig,
    data: PairedRows,
    steps: int,
    processes: int,
    forward: Rows,
    padding: float,
) -> TrainingWork:
    """Steps on forget rows alone and on retain rows alone, and rehearsals before each phase of forgetting."""
    rounds = min(cycles.rounds or math.inf, math.ceil(steps / cycles.round_steps))
    last = max(0, steps - (rounds - 1) * cycles.round_steps)
    unlearn = int((rounds - 1) * cycles.unlearn_steps + min(cycles.unlearn_steps, last))
    rehearsed = int(rounds * cycles.rehearse_steps)
    rows = rows_of_step(args, processes)
    forget, retain = mean(data.forget), mean(data.retainable)
    done = forget.times(rows * (unlearn + rehearsed)) + retain.times(rows * data.retain_per_forget * (steps - unlearn))
    if args.auto_find_learning_rate:
        round_forget = forget.times(rows * (cycles.unlearn_steps + cycles.rehearse_steps))
        done += (round_forget + retain.times(rows * data.retain_per_forget * cycles.heal_steps)).times(MOST_TRIALS)
    return TrainingWork(steps, done, forward, False, padding, rehearsed, cycles.until_gone)


def _references(args: UnlearnConfig, data: PairedRows, parts: Sequence[TrainingPart]) -> Rows:
    forget, retain = args.build_forget_loss(), args.build_retain_loss()
    found = Rows()
    if forget.needs_reference:
        found += counted(data.forget)
    if retain.needs_reference or any(part.uses_kl for part in parts):
        found += counted(data.retainable)
    return found


def padding_of(data: PairedRows, batch_size: int, pass_tokens: int | None) -> float:
    """Tokens with padding for each without, over drawn micro-batches of shuffled rows.

    Args:
        data: The rows.
        batch_size: Forget rows of a micro-batch.
        pass_tokens: A micro-batch of more tokens is cut into passes of rows with similar length.
    """
    draw = random.Random("padding")
    forget, retain = ([len(row.input_ids) for row in rows] for rows in (data.forget, data.retainable))
    padded = true = 0
    for _ in range(_BATCHES_DRAWN):
        lengths = draw.sample(forget, min(batch_size, len(forget)))
        if data.retain_per_forget:
            lengths += draw.choices(retain, k=len(lengths) * data.retain_per_forget)
        true += sum(lengths)
        padded += sum(len(part) * max(part) for part in cut(lengths, pass_tokens))
    return padded / max(1, true)


def cut(lengths: Sequence[int], pass_tokens: int | None) -> list[list[int]]:
    """Rows of a micro-batch as they go through the model: together, or cut into passes by length."""
    if pass_tokens is None or len(lengths) * max(lengths) <= pass_tokens:
        return [list(lengths)]
    parts: list[list[int]] = [[]]
    for length in sorted(lengths):
        if parts[-1] and (len(parts[-1]) + 1) * length > pass_tokens:
            parts.append([])
        parts[-1].append(length)
    return parts
