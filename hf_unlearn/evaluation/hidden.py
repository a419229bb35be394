"""Hidden states after each layer: reading them, and taking one direction out of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import RequestError
from ..models.decoder import decoder_layers, watched_layers
from .batch import padded_batch
from .batch_runner import Passes


def spread_layers(count: int, wanted: int) -> list[int]:
    """Numbers (from 1) of at most ``wanted`` of ``count`` layers, evenly spread, the last among them."""
    wanted = min(count, wanted)
    return [-(-count * (place + 1) // wanted) for place in range(wanted)]


def mean_states(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    starts: Sequence[int],
    layers: Sequence[int],
    passes: Passes,
) -> torch.Tensor:
    """Hidden states after some layers, averaged over the last tokens of each text.

    Args:
        model: In eval mode.
        texts: Token ids, none of them empty.
        starts: For each text the first token that counts; ``len(text) - 1`` for the last token alone.
        layers: Numbers of layers, from 1.
        passes: Runs the batches.

    Returns:
        Float32 on the CPU, ``[texts, layers, width]``.

    Raises:
        RequestError: The layers are not known, or hidden states are not finite.
    """
    stack = decoder_layers(model)
    backbone: Any = model.get_decoder()

    def work(members: Sequence[int]) -> list[torch.Tensor]:
        batch = padded_batch([texts[member] for member in members], model.device)
        with watched_layers({number: stack[number - 1] for number in layers}) as caught:
            backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        spans = [slice(starts[member], len(texts[member])) for member in members]
        return [
            torch.stack([caught[number][place, span].float().mean(0).cpu() for number in layers])
            for place, span in enumerate(spans)
        ]

    with torch.inference_mode():
        found = passes.run("hidden states", [len(text) for text in texts], work)
    # A clone outside of inference mode: such tensors can be used everywhere.
    states = torch.stack(found).clone()
    if not bool(states.isfinite().all()):
        raise RequestError("the model's hidden states are not finite: its weights are broken, or its dtype too small")
    return states


@contextlib.contextmanager
def ablated(model: PreTrainedModel, direction: torch.Tensor, level: float) -> Iterator[None]:
    """A model whose hidden states have the same component along one direction everywhere.

    After every layer and at every position ``h`` becomes ``h - (h . d - level) d``. With level 0 the direction is
    gone (arXiv 2406.11717, section 2.4, without the embedding's output); otherwise it is there and says nothing.

    Args:
        model: Any causal language model whose layers are known. Its weights are left alone.
        direction: Unit vector ``d``, ``[width]``.
        level: Component that every hidden state has along it.

    Raises:
        RequestError: The layers are not known.
    """
    layers = decoder_layers(model)

    def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        unit = direction.to(hidden.device, torch.float32)
        excess = hidden.float() @ unit - level
        changed = (hidden.float() - excess[..., None] * unit).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [layer.register_forward_hook(change) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
