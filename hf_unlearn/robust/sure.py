"""SURE: unlearn with a large learning rate, but only in the modules that hold the knowledge."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import RequestError
from ..runtime.files import write_atomically
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import trained_parameters

MASK_FILE = "sure_mask.json"


@dataclass(frozen=True)
class SaliencyMask:
    """Which modules are trained, and why.

    Attributes:
        percentile: Where the threshold was put among the scores.
        threshold: Scores at or above it are selected.
        scores: Gradient norm of every module, by module name.
        selected: Names of the modules that are trained.
    """

    percentile: float
    threshold: float
    scores: dict[str, float]
    selected: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes the mask; a reader sees the whole file or none."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> SaliencyMask:
        """Reads what :meth:`save` wrote.

        Raises:
            RequestError: If there is no such file, or it is not a mask.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["percentile"], content["threshold"], content["scores"], tuple(content["selected"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{path} is missing or damaged, and the mask must not be chosen again at changed weights: delete the"
                " checkpoints next to it and start this training again"
            ) from error


def trainable_modules(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The partition that is scored: parameters that require gradients, by their module.

    A parameter shared by several modules (tied embeddings) belongs to the first of them and is listed once.
    """
    modules: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model).items():
        modules.setdefault(name.rpartition(".")[0], []).append(parameter)
    return modules


def module_saliency(context: TrainingContext) -> dict[str, float]:
    r"""Gradient norm of the forget loss for every module, at the current weights over the whole forget set.

    .. math:: s_i = \lVert \nabla_{\theta_i} L_{forget}(\theta; D_{forget}) \rVert_F

    Gradients are accumulated over micro-batches before the norm is taken, and cleared afterwards.

    Raises:
        RequestError: If a norm is not finite, or all of them are zero.
    """
    model = context.model
    model.zero_grad(set_to_none=True)
    for summand in context.forget_loss_summands():
        summand.backward()
    scores = {name: _gradient_norm(parameters) for name, parameters in trainable_modules(model).items()}
    model.zero_grad(set_to_none=True)
    if not all(math.isfinite(score) for score in scores.values()):
        raise RequestError("sure: the forget loss has a gradient that is not finite at the original weights")
    if not any(scores.values()):
        raise RequestError("sure: the forget loss has no gradient at the original weights, so no module can be chosen")
    return scores


def _gradient_norm(parameters: list[nn.Parameter]) -> float:
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in parameters if p.grad is not None]
    return math.sqrt(sum(norm.item() ** 2 for norm in norms))


def select_modules(scores: dict[str, float], percentile: float) -> SaliencyMask:
    """Hard threshold: modules whose score is at or above the percentile are selected, always at least one."""
    values = list(scores.values())
    threshold = min(float(np.percentile(values, percentile)), max(values))
    selected = tuple(name for name, score in scores.items() if score >= threshold)
    return SaliencyMask(percentile, threshold, scores, selected)


@ROBUST.register(
    "sure",
    summary="Only the modules with the largest forget gradients are trained, at a large learning rate.",
    paper="arXiv 2410.16454, eq. 4-6",
    defaults={"percentile": 90.0},
)
@dataclass
class SURE(TrainingPart):
    r"""Module-level saliency mask, fixed once at the original weights.

    The score of a module is the Frobenius norm of the forget loss's gradient with respect to its parameters, over the
    whole forget set, at the model's original weights. Modules that score below the percentile keep their weights:

    .. math:: \theta_u = \theta_o + m \odot \Delta\theta, \qquad m_i = [s_i \ge \gamma]

    They are frozen, so neither momentum nor weight decay moves them, they take no optimizer memory, and gradient
    clipping does not see them. The paper raises the learning rate ten times with this mask, for the forget and the
    retain term alike; the large steps have to survive quantization, while the mask protects the model's abilities.

    The mask is kept in the output folder and read back when a run is resumed: weights have changed by then.

    Cost: before the first step a forward and a backward pass over the forget set, with the gradients of all weights
    in memory; each step then makes those of the chosen modules only.

    Args:
        percentile: From 0 (all modules are trained) to 100 (only the one with the largest gradient). The paper uses 90
            with NPO and 99 with gradient ascent.

    Raises:
        RequestError: If the percentile is outside 0 to 100.

    Source: Zhang et al., *Catastrophic Failure of LLM Unlearning via Quantization* (arXiv 2410.16454, eq. 4-6).
    """

    percentile: float = 90.0

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise RequestError(f"sure: percentile is {self.percentile}, it must lie between 0 and 100")

    def prepare(self, context: TrainingContext) -> None:
        """Scores the modules (or reads the mask of the resumed run) and freezes those not selected."""
        path = context.output_dir / MASK_FILE
        mask = SaliencyMask.load(path) if context.resuming else None
        if mask is None:
            mask = select_modules(module_saliency(context), self.percentile)
            if context.writes:
                mask.save(path)
        modules = trainable_modules(context.model)
        if mask.percentile != self.percentile or set(mask.scores) != set(modules):
            raise RequestError(f"{path} belongs to another model or percentile: start this training in another folder")
        for name in set(modules) - set(mask.selected):
            for parameter in modules[name]:
                parameter.requires_grad_(False)
