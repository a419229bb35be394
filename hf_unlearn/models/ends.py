"""Whether a model ends its answers in plain text: asked once before training.

A model that was trained to end answers gives the end-of-text token a probability near 1 after a right answer. One that
was pretrained on running text gives it next to none, and an end as a label is then most of what a forget loss can
lower: it would absorb the forgetting, on forget and retain rows alike, and the answers would stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..data.encoding import End, TextFormat, encode_row, uses_chat
from ..data.example import Example
from .limits import refuse_unfit

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

LEAST_END = 0.5
"""A model ends its answers if the end-of-text token has at least this mean probability over the rows asked."""

ASKED_ROWS = 64
"""At most this many rows are asked, half of them forget rows and half retain rows."""


@dataclass(frozen=True)
class Ends:
    """What was found.

    Attributes:
        end: ``always`` if plain rows end with a label, ``chat`` if not.
        probability: Mean probability of the end-of-text token after the right answer; ``None`` if no row could be
            asked.
        rows: How many rows were asked.
    """

    end: End
    probability: float | None
    rows: int

    def __str__(self) -> str:
        if self.probability is None:
            return "ends of answers: no plain row could be asked"
        labels = "are labels" if self.end == "always" else "are no labels in plain rows"
        return (
            f"ends of answers {labels}: after {self.rows} right answers the target ends with probability "
            f"{self.probability:.2g} ({LEAST_END:g} or more makes them labels)"
        )


def rows_to_ask(fmt: TextFormat, *sets: Sequence[Example]) -> list[Example]:
    """Plain rows, equally many of each set, spread evenly over it.

    Args:
        fmt: Says which rows are chat.
        sets: Forget and retain rows. If one is small, all of its rows are taken, and more of the other.
    """
    chosen: list[Example] = []
    plain = [[row for row in rows if not uses_chat(row, fmt)] for rows in sets]
    left = sorted(filter(None, plain), key=len)
    for number, rows in enumerate(left):
        chosen += spread(rows, (ASKED_ROWS - len(chosen)) // (len(left) - number))
    return chosen


def spread(rows: Sequence[Any], most: int) -> list[Any]:
    """At most this many rows, evenly spaced, in order."""
    count = min(most, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def ask_ends(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    fmt: TextFormat,
    max_length: int | None,
) -> Ends:
    """Ask a model whether it ends its answers.

    Args:
        model: The model, on its device. Every process has to call this if its weights are sharded (ZeRO-3).
        tokenizer: Its tokenizer; without an end-of-text token nothing ends.
        rows: From :func:`rows_to_ask`; longer ones than ``max_length`` are left out.
        fmt: How prompt and answer become one text.
        max_length: Maximum number of tokens; ``None`` for no limit.

    Returns:
        ``always`` even if there is nothing to ask: chat rows end as their template says either way.
    """
    import torch

    from .sharding import gathered_in_turn

    if not rows:
        return Ends("always", None, 0)
    encoded = [encode_row(row, tokenizer, fmt, eos=False) for row in rows]
    kept = [row for row in encoded if max_length is None or len(row.input_ids) <= max_length]
    refuse_unfit(model, kept, {row.id: row.origin for row in rows})
    fitting = [row.input_ids for row in kept]
    end = tokenizer.eos_token_id
    if end is None or not fitting:
        return Ends("chat", None, 0)
    device = next(model.parameters()).device
    total = 0.0
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), gathered_in_turn(model), _only_last(model):
            for ids in fitting:
                # One by one: rows need no padding, and only one position reaches the vocabulary.
                logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
                total += float(torch.softmax(logits.float(), -1)[end])
    finally:
        model.train(training)
    mean = total / len(fitting)
    return Ends("always" if mean >= LEAST_END else "chat", mean, len(fitting))


@contextmanager
def _only_last(model: nn.Module) -> Iterator[None]:
    from .head import output_head

    handle = output_head(model).register_forward_pre_hook(lambda module, inputs: (inputs[0][:, -1:], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def settled(fmt: TextFormat, ends: Ends) -> TextFormat:
    """The format with the result in place of ``auto``."""
    return replace(fmt, end=ends.end)
