"""How common unlearning code computes one training step, written down plainly for comparison.

What they share: a second copy of the model stays in memory wherever a reference is used; forget and retain rows are
padded apart and forwarded apart; every forward is given labels, so that the library computes its own cross-entropy at
all positions, and the method then computes another one on a transposed copy. Gradients are summed over both terms, and
every parameter has one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, dict[str, Tensor]]


class PeerStep:
    """One optimizer step of a method.

    Args:
        model: The model.
        method: ``graddiff``, ``npo-nll``, ``npo-kl``, ``simnpo``, ``rmu``, ``sure`` or ``sam``.
        layer: For RMU, the decoder layer that is hooked.
    """

    def __init__(self, model: Any, method: str, layer: int) -> None:
        self.model, self.method, self.layer = model, method, layer
        uses_reference = method in ("npo-nll", "npo-kl", "rmu", "sam")
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if uses_reference else None
        trained = list(model.parameters())
        if method == "rmu":  # three matrices are stepped; all parameters have gradients
            stack = model.model.layers
            trained = [stack[number].mlp.down_proj.weight for number in range(layer - 2, layer + 1)]
            vector = torch.rand(model.config.hidden_size)
            self.control = (6.5 * vector / vector.norm()).to(model.device)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def __call__(self, batch: Batch) -> None:
        """Gradients, clipping, step."""
        self.model.train()
        forget, retain = batch["forget"], batch["retain"]
        if self.method == "sam":
            self._sam(forget, retain)
        elif self.method == "sure":
            self._sure(forget, retain)
        else:
            (self._forget(forget) + self._retain(retain)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 1.0)
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def _forget(self, rows: dict[str, Tensor]) -> Tensor:
        if self.method in ("graddiff", "sure"):
            return -self.model(**rows).loss
        if self.method == "simnpo":
            lengths = (rows["labels"][:, 1:] != -100).sum(1)
            return -(2 / 3.5) * F.logsigmoid(3.5 * self._nll(self.model, rows) / lengths).mean()
        if self.method == "rmu":
            hidden = self._hidden(self.model, rows)
            return self._masked_square(hidden, self.control.expand_as(hidden), rows)
        assert self.reference is not None
        loss = self._nll(self.model, rows)
        with torch.no_grad():
            before = self._nll(self.reference, rows)
        return -(2 / 0.1) * F.logsigmoid(0.1 * (loss - before)).mean()

    def _retain(self, rows: dict[str, Tensor]) -> Tensor:
        if self.method == "rmu":
            with torch.no_grad():
                before = self._hidden(self.reference, rows)
            return self._masked_square(self._hidden(self.model, rows), before, rows)
        output = self.model(**rows)
        if self.method != "npo-kl":
            return output.loss
        with torch.no_grad():  # the forward above is thrown away
            before = self.reference(**rows).logits
        now = self.model(**rows).logits
        first, second = (F.log_softmax(logits, dim=-1).flatten(0, 1) for logits in (now, before))
        return F.kl_div(first, second, reduction="batchmean", log_target=True)

    @staticmethod
    def _nll(model: Any, rows: dict[str, Tensor]) -> Tensor:
        logits = model(**rows).logits[:, :-1].contiguous()
        labels = rows["labels"][:, 1:].contiguous()
        return nn.CrossEntropyLoss(ignore_index=-100, reduction="none")(logits.transpose(-1, -2), labels).sum(-1)

    def _hidden(self, model: Any, rows: dict[str, Tensor]) -> Tensor:
        taken: list[Tensor] = []

        def take(module: Any, inputs: Any, output: Any) -> None:
            taken.append(output[0] if isinstance(output, tuple) else output)

        handle = model.model.layers[self.layer].register_forward_hook(take)
        model(**rows)
        handle.remove()
        return taken[0]

    @staticmethod
    def _masked_square(first: Tensor, second: Tensor, rows: dict[str, Tensor]) -> Tensor:
        mask = rows["labels"] != -100
        squares = (first - second).square().mean(-1) * mask
        return (squares.sum(-1) / mask.sum(-1)).mean()

    def _sam(self, forget: dict[str, Tensor], retain: dict[str, Tensor]) -> None:
        self._forget(forget).backward()
        first = [parameter.grad.clone() for parameter in self.model.parameters()]
        norm = torch.stack([gradient.norm() for gradient in first]).norm()
        steps = [0.01 * gradient / norm for gradient in first]
        for parameter, step in zip(self.model.parameters(), steps, strict=True):
            parameter.data.add_(step)
        self.model.zero_grad()
        self._forget(forget).backward()
        second = [parameter.grad.clone() for parameter in self.model.parameters()]
        for parameter, step in zip(self.model.parameters(), steps, strict=True):
            parameter.data.sub_(step)
        self.model.zero_grad()
        self._retain(retain).backward()
        third = [parameter.grad.clone() for parameter in self.model.parameters()]
        for parameter, left, right in zip(self.model.parameters(), second, third, strict=True):
            parameter.grad = left + right

    def _sure(self, forget: dict[str, Tensor], retain: dict[str, Tensor]) -> None:
        loss = self._forget(forget)
        loss.backward(retain_graph=True)
        mask = saliency({name: parameter.grad for name, parameter in self.model.named_parameters()}, 90)
        (loss + self._retain(retain)).backward()
        for name, parameter in self.model.named_parameters():  # what the released code means to do
            parameter.grad.mul_(mask[name].view(-1, *[1] * (parameter.ndim - 1)))


def saliency(gradients: dict[str, Tensor], percentile: float) -> dict[str, Tensor]:
    """SURE's row mask by one dictionary entry per row of every matrix."""
    scores: dict[tuple[str, int], float] = {}
    for name, gradient in gradients.items():
        norms = gradient.abs() if gradient.ndim < 2 else gradient.flatten(1).norm(dim=1)
        for row in range(len(norms)):
            scores[name, row] = norms[row].item()
    threshold = np.percentile(np.array(list(scores.values())), percentile)
    chosen: dict[str, list[bool]] = {name: [] for name in gradients}
    for (name, _), score in scores.items():
        chosen[name].append(bool(score >= threshold))
    return {name: torch.tensor(rows) for name, rows in chosen.items()}


STEPS: dict[str, Callable[..., PeerStep]] = dict.fromkeys(
    ("graddiff", "npo-nll", "npo-kl", "simnpo", "rmu", "sure", "sam"), PeerStep
)
