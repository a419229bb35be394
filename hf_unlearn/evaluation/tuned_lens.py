"""Tuned lens: a small map after every layer that turns its states into those the output head can read.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens" (arXiv 2303.08112) and its
code: after layer ``l`` the head reads ``h + A h + b``, with ``A`` and ``b`` zero at first, fitted so that what it says
is as near as possible to what the model says at its end, by the divergence ``KL(model || lens)``. The map is fitted to
the model's own predictions on other texts and to no label, so it can bring out only what the states hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..models.decoder import decoder_layers, watched_layers
from .batch import padded_batch
from .batch_runner import Passes
from .lens import LogitLens, Translator
from .logits import SelectedLogits


@dataclass(frozen=True)
class Fit:
    """How translators are fitted.

    Attributes:
        tokens: Most positions that are looked at.
        steps: Steps of Adam for each layer.
        batch: Positions in a step.
        learning_rate: Of Adam.
        seed: Of the draws.
    """

    tokens: int = 4096
    steps: int = 200
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


HELD_OUT = 8
"""Every so manieth position is not fitted to: it decides which step is kept."""
_LOOKED_AT = 20


def fit_translators(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], fit: Fit, passes: Passes
) -> dict[int, Translator]:
    """Translators of all layers but the last.

    Of the steps that are looked at, the untouched map among them, the one with the least divergence on positions that
    were not fitted to is kept: no translator is worse than the logit lens there.

    Args:
        model: In eval mode; its weights are left alone.
        texts: Token ids of other texts than those that the lens is to read.
        fit: Settings.
        passes: Runs the batches.

    Returns:
        Translators by the number of their layer, from 0.

    Raises:
        RequestError: The lens does not know the model's layers.
    """
    lens = LogitLens(model, SelectedLogits(model))
    states = _states(model, texts, fit, passes)
    last = states[:, -1]
    return {layer: _fit_one(lens, states[:, layer], last, fit, layer) for layer in range(states.shape[1] - 1)}


def _fit_one(lens: LogitLens, states: torch.Tensor, last: torch.Tensor, fit: Fit, layer: int) -> Translator:
    """The translator of one layer from its states and the last layer's, ``[positions, width]`` each."""
    width = states.shape[1]
    apart = torch.arange(len(states)) % HELD_OUT == 0
    matrix = torch.zeros(width, width, device=states.device, requires_grad=True)
    shift = torch.zeros(width, device=states.device, requires_grad=True)
    optimizer = torch.optim.Adam([matrix, shift], lr=fit.learning_rate)
    generator = torch.Generator().manual_seed(fit.seed + layer)
    fitted = torch.nonzero(~apart)[:, 0]
    best = (float("inf"), Translator(matrix.detach().clone(), shift.detach().clone()))
    for step in range(fit.steps + 1):
        if step % max(1, fit.steps // _LOOKED_AT) == 0 or step == fit.steps:
            now = Translator(matrix.detach().clone(), shift.detach().clone())
            with torch.no_grad():
                divergence = float(_divergence(lens, now, states[apart], last[apart]))
            best = min(best, (divergence, now), key=lambda pair: pair[0])
        if step == fit.steps:
            break
        drawn = fitted[torch.randint(len(fitted), (min(fit.batch, len(fitted)),), generator=generator)]
        optimizer.zero_grad()
        _divergence(lens, Translator(matrix, shift), states[drawn], last[drawn]).backward()
        optimizer.step()
    return best[1]


def _divergence(lens: LogitLens, translator: Translator, states: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Mean over positions of ``KL(model || lens)`` in nats."""
    with torch.no_grad():
        wanted = lens.read(last).log_softmax(-1)
    found = lens.read(translator(states)).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean()


def _states(model: PreTrainedModel, texts: Sequence[Sequence[int]], fit: Fit, passes: Passes) -> torch.Tensor:
    """States after every layer at some positions, first tokens left out: ``[positions, layers, width]``."""
    stack: Any = decoder_layers(model)
    backbone: Any = model.get_decoder()

    def work(members: Sequence[int]) -> list[torch.Tensor]:
        batch = padded_batch([texts[member] for member in members], model.device)
        with watched_layers(dict(enumerate(stack))) as caught:
            backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        every = torch.stack([caught[number].float() for number in range(len(stack))], dim=2)
        return [every[place, 1 : len(texts[member])] for place, member in enumerate(members)]

    with torch.inference_mode():
        found = torch.cat(passes.run("states of texts", [len(text) for text in texts], work))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(fit.seed))[: fit.tokens]
    # A clone outside of inference mode: gradients pass through what reads it.
    return found[order.to(found.device)].clone()


def named_layers(translators: Mapping[int, Translator]) -> list[int]:
    """Numbers (from 1) of the layers whose translator does anything."""
    return [number + 1 for number, each in sorted(translators.items()) if bool(each.matrix.any() or each.shift.any())]
