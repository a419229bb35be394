"""Numbers that are not finite stop a run before they reach a step or a saved model; the message says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.pairing import PaddedRows, PairedRows
from ..errors import RequestError
from ..robust.weights import trained_parameters
from .config import UnlearnConfig

SHOWN_ROWS = 5
"""Number of rows of a set that a message lists."""


def check_finite(
    value: Any,
    what: str,
    step: int,
    args: UnlearnConfig,
    rows: PairedRows,
    batches: Sequence[Mapping[str, PaddedRows]],
) -> None:
    """Stop a run whose next step would use a number that is not finite.

    Args:
        value: A scalar.
        what: What it is.
        step: Number of the step, from 1.
        args: The run's settings.
        rows: Its rows.
        batches: This process's micro-batches of the step.

    Raises:
        RequestError: It is not finite. The message names the last checkpoint, what to lower, and the step's rows by
        id.
    """
    if not math.isfinite(value):
        raise RequestError(
            f"the {what} is {float(value)} in step {step}: no step was made with it, "
            f"{_kept(args)}; lower learning_rate (now {args.learning_rate}) or forget_weight "
            f"(the step's rows: {_rows_of_step(rows, batches)})"
        )


def check_weights(model: nn.Module, step: int, args: UnlearnConfig) -> None:
    """Refuse to save a broken model.

    Args:
        model: The model.
        step: Steps it was trained for.
        args: The run's settings.

    Raises:
        RequestError: A trained weight is not finite.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trained_parameters(model).values()):
        raise RequestError(
            f"weights are not finite after step {step}, so they are not saved; lower"
            f" learning_rate (now {args.learning_rate})"
        )


def _rows_of_step(rows: PairedRows, batches: Sequence[Mapping[str, PaddedRows]]) -> str:
    """Ids of the rows of some micro-batches, the first few of each set."""
    lists = {"forget": rows.forget, "retain": rows.retainable}
    named = []
    for name, own in lists.items():
        numbers = sorted({row for batch in batches if name in batch for row in batch[name]["row"].tolist()})
        more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
        if numbers:
            named.append(f"{name} {', '.join(own[number].id for number in numbers[:SHOWN_ROWS])}{more}")
    return "; ".join(named)


def _kept(args: UnlearnConfig) -> str:
    steps = [int(path.name.rpartition("-")[2]) for path in Path(str(args.output_dir)).glob("checkpoint-*[0-9]")]
    if not steps:
        return "and no checkpoint was due yet"
    return f"and the last good checkpoint is kept in {args.output_dir}/checkpoint-{max(steps)}"
