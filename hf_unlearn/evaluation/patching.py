"""One model's hidden states put into another: what the other one then says of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..data.encoding import EncodedRow
from ..models.decoder import decoder_layers, watched_layers
from .batch import padded_batch
from .batch_runner import Passes


def patched_logps(
    target: PreTrainedModel, source: PreTrainedModel, rows: Sequence[EncodedRow], passes: Passes
) -> list[list[float]]:
    """What the target says of each row's labels, as it is and with a source's states after each layer in turn.

    The states are replaced at the positions that predict the labels.

    Args:
        target: In eval mode.
        source: In eval mode, with as many layers of the same width.
        rows: What is asked.
        passes: Runs the batches.

    Returns:
        For each row mean log-probabilities (nats) per label: first the target's own, then one for each layer.

    Raises:
        RequestError: The layers are not known.
    """
    layers = decoder_layers(target)
    theirs = decoder_layers(source)
    inside: Any = source.get_decoder()

    def work(members: Sequence[int]) -> list[list[float]]:
        part = [rows[member] for member in members]
        texts = [row.input_ids for row in part]
        batch, same = padded_batch(texts, target.device), padded_batch(texts, source.device)
        places = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        for number, row in enumerate(part):
            places[number, row.n_prompt - 1 : len(row.input_ids) - 1] = True
        with watched_layers(dict(enumerate(theirs))) as caught:
            inside(input_ids=same.input_ids, attention_mask=same.attention_mask, use_cache=False)
        states = [caught[number].to(target.device) for number in range(len(layers))]
        found = [_mean_logps(target, batch, part)]
        for layer, taken in zip(layers, states, strict=True):
            with _replaced(layer, taken, places):
                found.append(_mean_logps(target, batch, part))
        return [list(each) for each in zip(*found, strict=True)]

    with torch.inference_mode():
        return passes.run("activation patching", [len(row.input_ids) for row in rows], work)


@contextmanager
def _replaced(layer: nn.Module, states: torch.Tensor, places: torch.Tensor) -> Iterator[None]:
    """A layer whose output ``[batch, time, width]`` is another one at some places ``[batch, time]``."""

    def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        where = places.to(hidden.device)[..., None]
        changed = torch.where(where, states.to(hidden.device, hidden.dtype), hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _mean_logps(model: PreTrainedModel, batch: Any, rows: Sequence[EncodedRow]) -> list[float]:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    found = []
    for number, row in enumerate(rows):
        span = slice(row.n_prompt - 1, len(row.input_ids) - 1)
        labels = torch.tensor(row.input_ids[row.n_prompt :], device=logits.device)
        logps = logits[number, span].float().log_softmax(-1).gather(-1, labels[:, None])
        found.append(float(logps.mean()))
    return found
