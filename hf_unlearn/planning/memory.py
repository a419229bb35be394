"""Peak memory of training on one device: the largest of the moments of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .activations import Kept
from .shape import ModelShape

Strategy = Literal["one", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2"]
STRATEGIES: Mapping[Strategy, str] = {
    "one": "one device",
    "ddp": "DDP",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "zero3_offload": "ZeRO-3 with offload",
    "fsdp2": "FSDP2",
}
MARGIN = 0.15
"""Measured peaks are within this share of the planned ones."""
SHARDS_WEIGHTS: tuple[Strategy, ...] = ("zero3", "zero3_offload", "fsdp2")


@dataclass(frozen=True)
class Stored:
    """Bytes per number.

    Attributes:
        weights: Of the weights as they lie in memory.
        trained: Of the weights that are trained, which may be adapters on a quantized base.
        states: Of the optimizer, per number that is trained.
        computed: Of what is computed with.
        master: Of the float32 copy of trained weights that an engine steps, per number; 0 for none.
    """

    weights: float
    trained: int
    states: float
    computed: int
    master: int = 0


@dataclass(frozen=True)
class Step:
    """What of a step decides its memory.

    Attributes:
        kept: By the largest pass, from its forward to its backward.
        labels: Positions of that pass that reach the output head.
        vocabulary_tensors: As many tensors of labels times vocabulary are alive at once.
        passes: Backward passes of a step: with more than one, gradients are there while the next pass runs.
        tokens: Of the largest pass, padding included.
        checkpointing: Whether layers are computed again.
        head_copy: Whether the target's output head is kept beside the trained one.
        kept_gradients: Sets of gradients besides those being made, for parts that compare terms.
        weight_copies: Copies of the trained weights on the device, of its shards where these are sharded.
    """

    kept: Kept
    labels: int
    vocabulary_tensors: float
    passes: int
    tokens: int
    checkpointing: bool = False
    head_copy: bool = False
    kept_gradients: int = 0
    weight_copies: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes on one device; each part at its own largest, the peak at the moment when most of them are there.

    Attributes:
        weights: The model, with copies that are made of it.
        gradients: Of the trained weights.
        states: Of the optimizer, with float32 copies that an engine steps.
        activations: What a pass keeps for its backward pass.
        logits: Tensors of the size of the vocabulary.
        caches: Reference values.
        peak: The most at any moment.
    """

    weights: int
    gradients: int
    states: int
    activations: int
    logits: int
    caches: int
    peak: int


def training_memory(
    shape: ModelShape, stored: Stored, step: Step, strategy: Strategy = "one", devices: int = 1
) -> Memory:
    """The peak of a training step, from the second step on, when the optimizer has its states.

    Moments: the end of the forward pass, with the gradient of the output head in the making; the end of the backward
    pass, with all gradients and the last one not yet added up; the optimizer's step.

    Args:
        shape: The model's sizes.
        stored: How its numbers are stored.
        step: The step.
        strategy: How weights, gradients and states lie on the devices.
        devices: How many there are.
    """
    split = _Split(strategy, devices)
    whole = stored.weights * (shape.parameters - _adapters(shape, stored)) + stored.trained * _adapters(shape, stored)
    gathered = 2 * shape.layer_parameters * stored.weights if strategy in SHARDS_WEIGHTS else 0
    copies = _casts(shape, stored) + split.states(step.weight_copies * shape.trained * stored.trained)
    weights = split.weights(whole) + gathered + copies
    gradient = stored.trained * shape.trained
    gradients = split.gradients(gradient) * (1 + step.kept_gradients)
    if strategy == "ddp":
        gradients *= 2  # as buckets to send, too
    states = split.states((stored.states + stored.master) * shape.trained)
    activations = step.kept.bytes(checkpointing=step.checkpointing)
    logits = step.vocabulary_tensors * step.labels * shape.vocabulary * max(4, stored.computed)
    caches = shape.head * 4 if step.head_copy else 0
    head_gradient = shape.head * stored.trained if shape.head_trained else 0
    largest = max(shape.largest, shape.head if shape.tied and shape.head_trained else 0) * stored.trained
    running = 2 * step.tokens * shape.inner * stored.computed
    earlier = gradients if step.passes > 1 else split.gradients(gradient) * step.kept_gradients
    steady = weights + states + caches
    moments = (
        steady + earlier + activations + logits + (largest if step.passes > 1 else head_gradient) + running,
        steady + gradients + largest + (_outside(step) if step.checkpointing else 0),
    )
    return Memory(*(round(part) for part in (weights, gradients, states, activations, logits, caches, max(moments))))


def inference_memory(shape: ModelShape, itemsize: float, computed: int, tokens: int, labels: int) -> Memory:
    """The peak of scoring: weights, a few tensors of a layer, logits at the labels.

    Args:
        shape: The model's sizes.
        itemsize: Bytes per weight.
        computed: Bytes of what is computed with.
        tokens: Of a forward pass.
        labels: Positions of a pass that reach the output head.
    """
    weights = itemsize * shape.parameters
    activations = tokens * (6 * shape.width + 3 * shape.inner) * computed
    logits = 2 * labels * shape.vocabulary * 4
    return Memory(*(round(part) for part in (weights, 0, 0, activations, logits, 0, weights + activations + logits)))


@dataclass(frozen=True)
class _Split:
    """What of a whole lies on one device."""

    strategy: Strategy
    devices: int

    def weights(self, whole: float) -> float:
        if self.strategy == "zero3_offload":
            return 0.0
        return whole / self.devices if self.strategy in SHARDS_WEIGHTS else whole

    def gradients(self, whole: float) -> float:
        if self.strategy == "zero3_offload":
            return 0.0
        return whole if self.strategy in ("one", "ddp") else whole / self.devices

    def states(self, whole: float) -> float:
        return self.gradients(whole)


def _adapters(shape: ModelShape, stored: Stored) -> int:
    """Numbers that are stored as trained weights are and not as the rest: adapters on a base of another type."""
    return shape.trained if stored.weights != stored.trained else 0


def _casts(shape: ModelShape, stored: Stored) -> float:
    """Autocast keeps a copy of every matrix in what is computed with, from its first use to the end of the pass."""
    if stored.computed >= stored.weights or stored.master:
        return 0.0
    return stored.computed * (shape.parameters - shape.ends + (shape.head if shape.vocabulary else 0))


def _outside(step: Step) -> int:
    return step.kept.rest
