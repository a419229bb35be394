"""Log-probabilities of labels without a second tensor of the vocabulary's size.

`log_softmax` followed by `gather` holds two tensors `[N, vocabulary]` besides the logits, one forward and one
backward. The gradient only needs the logits and one number per row, so only the gradient itself is new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**22
"""Logits that are widened to float32 at a time: 16 MiB."""


class _LabelLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        totals = [chunk.to(_wide(logits)).logsumexp(-1) for chunk in logits.split(_rows(logits))]
        total = torch.cat(totals) if totals else logits.new_zeros(0, dtype=_wide(logits))
        ctx.save_for_backward(logits, labels, total)
        return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).to(total.dtype) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        (outer,) = given
        logits, labels, total = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        size = _rows(logits)
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            part = (logits[rows].to(total.dtype) - total[rows].unsqueeze(-1)).exp_()
            part.mul_(-outer[rows].unsqueeze(-1))
            part.scatter_add_(-1, labels[rows].unsqueeze(-1), outer[rows].unsqueeze(-1))
            gradient[rows] = part
        return gradient, None


def label_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """``log_softmax(logits)[labels]`` in at least single precision.

    Args:
        logits: ``[N, vocabulary]``.
        labels: ``[N]``.

    Returns:
        ``[N]``. It can be differentiated once.
    """
    made: Tensor = _LabelLogps.apply(logits, labels)
    return made


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _rows(logits: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // max(1, logits.shape[-1]))
