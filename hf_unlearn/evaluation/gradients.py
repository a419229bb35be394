"""Norm of the gradient of each row's loss: one forward and one backward a row."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..data.encoding import EncodedRow
from ..errors import RequestError
from ..models.loading import quantization_method
from .batch import padded_batch
from .batch_runner import Passes
from .logits import SelectedLogits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def gradient_norms(model: PreTrainedModel, rows: Sequence[EncodedRow], passes: Passes) -> list[float]:
    """L2 norm over all parameters of the gradient of each row's mean negative log-likelihood per label.

    Args:
        model: In eval mode, not quantized. Its gradients are neither read nor changed.
        rows: Encoded rows, short enough for the model's context.
        passes: Runs them, one at a time.

    Raises:
        RequestError: The model is quantized, or a gradient is not finite.
    """
    if not rows:
        return []
    check_can_differentiate(model)
    logits = SelectedLogits(model)

    def work(members: Sequence[int]) -> list[float]:
        return [_norm(model, logits, rows[member]) for member in members]

    sizes = [len(row.input_ids) for row in rows]
    with _all_parameters(model):
        return list(passes.run("gradient", sizes, work, most=1))


def check_can_differentiate(model: PreTrainedModel) -> None:
    """Raise :class:`RequestError` for a model whose weights have no gradients."""
    method = quantization_method(model)
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise RequestError(
            "gradient norms need all weights in memory, and some of this model's are on disk: use more or larger "
            "devices, or leave out metrics that need gradients"
        )
    integers = any(not parameter.is_floating_point() for parameter in model.parameters())
    if method is not None or integers:
        raise RequestError(
            f"gradient norms need weights that a gradient can be taken of, and this model's are quantized "
            f"({method or 'integers'}): score it in bf16, or leave out metrics that need gradients"
        )


def _norm(model: PreTrainedModel, logits: SelectedLogits, row: EncodedRow) -> float:
    positions = range(row.n_prompt - 1, len(row.input_ids) - 1)
    labels = torch.tensor(row.input_ids[row.n_prompt :], device=logits.device)
    # Weights that the head is not reached through (a vision tower) have no part in it.
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        batch = padded_batch([row.input_ids[:-1]], logits.device)
        scores = logits.project(logits.select(batch, [0] * len(positions), list(positions)))
        loss = torch.nn.functional.cross_entropy(scores, labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    norms = [torch.linalg.vector_norm(item.detach().float()) for item in gradients if item is not None]
    norm = math.sqrt(sum(float(value) ** 2 for value in norms))
    if not math.isfinite(norm):
        raise RequestError(
            f"the gradient on row {row.id} is not finite: the model's weights are broken, or its dtype is too small"
        )
    return norm


@contextlib.contextmanager
def _all_parameters(model: PreTrainedModel) -> Iterator[None]:
    """Let every weight take part, and put back who did."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
