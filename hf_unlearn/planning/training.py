"""One training run: what it does, and what it needs on a device, from its settings and its rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from ..data.encoding import EncodedRow
from ..data.pairing import PairedRows
from ..losses.base import Loss
from ..models.adapters import add_adapters
from ..models.loading import DTYPES
from ..recipe.method_settings import make_config
from ..robust.auto import Auto
from ..robust.base import TrainingPart
from ..robust.cycles import Cycles
from ..trainer.config import UnlearnConfig
from ..trainer.microbatch import ACCELERATOR_TOKENS, CPU_TOKENS
from ..trainer.model_setup import check_layers, choose_trained
from ..trainer.parts import epochs_of_run
from ..trainer.rounded_steps import check_stepping
from ..trainer.term_passes import needs_separate_passes
from .activations import Kept, by_rule, kept_by
from .fixed import Seconds
from .machines import Machine
from .memory import SHARDS_WEIGHTS, Memory, Step, Stored, Strategy, training_memory
from .operations import Pass, forward, training
from .shape import ModelShape, shape_of
from .work import TrainingWork, training_work

_FOUR_BITS = 0.5625
"""Bytes per number of a base in 4 bits: half a byte, and a scale for every 32 to 64 numbers."""

_STATES: Mapping[str, float] = {
    "adafactor": 0.1,
    "sgd": 0.0,
    "signsgd": 0.0,
    "adagrad": 4.0,
    "rmsprop": 4.0,
    "lion_32bit": 4.0,
    "lion_8bit": 1.0,
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "paged_lion_8bit": 1.0,
    "lion": 4.0,
    "paged_lion_32bit": 4.0,
}
"""Bytes of state per trained number in float32; two float32 numbers, as Adam has, for all others."""


@dataclass(frozen=True)
class Devices:
    """What a run is on.

    Attributes:
        machine: One device.
        count: How many there are.
        strategy: How weights, gradients and states lie on them.
    """

    machine: Machine
    count: int = 1
    strategy: Strategy = "one"

    def seconds(self, operations: float, dtype: str, count: int = 1) -> Seconds:
        """The least and the most that operations take.

        Args:
            operations: Floating-point operations, on all devices together.
            dtype: Type that is computed in.
            count: Devices that share them.
        """
        rate = self.machine.rate(dtype)
        return operations / (rate.high * count), operations / (rate.low * count)


@dataclass(frozen=True)
class TrainingInput:
    """A training run before it starts.

    Attributes:
        name: Of the method or control.
        settings: Fields of ``UnlearnConfig``, as in a recipe.
        seed: Of the run.
        forget: Rows to forget, encoded.
        retain: Rows to keep, encoded.
        model: The target on the ``meta`` device.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int
    forget: Sequence[EncodedRow]
    retain: Sequence[EncodedRow]
    model: Any
    _kept: dict[tuple[Any, ...], Kept] = field(default_factory=dict, repr=False, compare=False)

    def config(self, changed: Mapping[str, Any] | None = None) -> UnlearnConfig:
        """The settings as the trainer reads them, some of them changed."""
        return make_config({**self.settings, **(changed or {})}, Path("unused"), self.seed)


@dataclass(frozen=True)
class TrainingPlan:
    """What a training run takes.

    Attributes:
        shape: The model as it is trained.
        work: Steps and rows.
        operations: Floating-point operations of the whole run, on all devices together.
        computed: Name of the type that is computed in.
        memory: Of one device.
        checkpoints: Bytes of the checkpoints that lie on the disk at once.
        by_rule: Whether activations follow a rule, because the model cannot be run without its weights.
    """

    shape: ModelShape
    work: TrainingWork
    operations: float
    computed: str
    memory: Memory
    stored: Stored
    args: UnlearnConfig
    by_rule: bool


def plan_training(given: TrainingInput, devices: Devices, changed: Mapping[str, Any] | None = None) -> TrainingPlan:
    """Plan a training run.

    Args:
        given: The run.
        devices: What it is on.
        changed: Settings in place of its own, to see what they would do.

    Raises:
        RequestError: The settings do not go together, or do not fit the model.
    """
    args = given.config(changed)
    model, losses, parts = trained_model(args, given.model)
    shape = shape_of(model)
    data = paired(args, given, parts, losses[0], devices.count)
    taken_over = devices.strategy not in ("one", "ddp")
    apart = any(needs_separate_passes(part) for part in parts)
    most = None if taken_over or apart else _pass_tokens(args, devices.machine)
    work = training_work(args, data, parts, devices.count, most)
    stored = _stored(args, devices.strategy)
    largest = _largest_pass(args, data, parts, losses, most)
    kept, ruled = _kept(given, model, shape, args, largest)
    step = Step(
        kept=kept,
        labels=largest.labels,
        vocabulary_tensors=largest.vocabulary_tensors,
        passes=largest.passes,
        tokens=largest.rows * largest.length,
        checkpointing=bool(args.gradient_checkpointing),
        head_copy=_head_copy(args, losses, shape, taken_over),
        kept_gradients=2 * any(part.changes_gradients for part in parts),
        weight_copies=_weight_copies(parts, devices.machine),
    )
    return TrainingPlan(
        shape=shape,
        work=work,
        operations=_operations(shape, work, data, bool(args.gradient_checkpointing)),
        computed=_computed(args),
        memory=training_memory(shape, stored, step, devices.strategy, devices.count),
        stored=stored,
        args=args,
        by_rule=ruled,
    )


def trained_model(args: UnlearnConfig, target: Any) -> tuple[Any, list[Loss], list[TrainingPart]]:
    """The model without weights as it is trained, its losses (that of the forget term first), and the robust parts.

    Raises:
        RequestError: Adapters, layers or names of parameters do not exist in the model.
    """
    losses, parts = [args.build_forget_loss(), args.build_retain_loss()], args.build_parts()
    target = copy.deepcopy(target).to(DTYPES.get(_loaded(args), target.dtype))
    check_layers(target, losses)
    adapters = args.build_peft_config()
    model = target if adapters is None else add_adapters(target, adapters)
    check_stepping(args.stepping, model, args.deepspeed)
    choose_trained(model, args.trained_parameters, losses, adapters is not None)
    return model, losses, parts


def paired(
    args: UnlearnConfig, given: TrainingInput, parts: Sequence[TrainingPart], loss: Loss, processes: int
) -> PairedRows:
    """The rows as they are trained on. An alternate counts as long as the answer that it replaces."""
    retains = args.retain_loss_type != "none"
    seed = args.seed if args.data_seed is None else args.data_seed
    others = [[row] for row in given.forget] if loss.uses_alternates else []
    rows = PairedRows(given.forget, given.retain, args.retain_per_forget if retains else 0, seed, others)
    for part in parts:
        rows = part.arrange(rows, epochs_of_run(args, len(rows.forget), processes))
    return rows


@dataclass(frozen=True)
class _Largest:
    rows: int
    length: int
    labels: int
    vocabulary_tensors: float
    passes: int


def _largest_pass(
    args: UnlearnConfig,
    data: PairedRows,
    parts: Sequence[TrainingPart],
    losses: Sequence[Loss],
    most: int | None,
) -> _Largest:
    """The longest rows of every kind in one micro-batch, or as many of them as a pass takes."""
    size = args.per_device_train_batch_size
    alone = any(needs_separate_passes(part) or isinstance(part, Auto | Cycles) for part in parts)
    kinds: list[tuple[Sequence[EncodedRow], int, Loss]] = [
        (data.forget, size, losses[0]),
        (data.alternates, size if data.alternates else 0, losses[0]),
    ]
    kinds += [(data.retainable, size * data.retain_per_forget, losses[1])]
    groups = [kinds[:2], kinds[2:]] if alone else [kinds]
    passes = [_together(group, most) for group in groups if any(count for _, count, _ in group)]
    largest = max(passes, key=lambda each: (each.rows * each.length, each.labels * each.vocabulary_tensors))
    several = max(each.passes for each in passes) * args.gradient_accumulation_steps
    if any(needs_separate_passes(part) for part in parts):
        several = max(2, several)
    return _Largest(largest.rows, largest.length, largest.labels, largest.vocabulary_tensors, several)


def _together(kinds: Sequence[tuple[Sequence[EncodedRow], int, Loss]], most: int | None) -> _Largest:
    used = [(rows, count, loss) for rows, count, loss in kinds if rows and count]
    length = max(len(row.input_ids) for rows, _, _ in used for row in rows)
    count = sum(count for _, count, _ in used)
    fit = count if most is None or count * length <= most else max(1, most // length)
    labels = tensors = 0.0
    for rows, own, loss in used:
        of_kind = own * max(len(row.input_ids) - row.n_prompt for row in rows)
        labels += of_kind
        tensors += of_kind * _vocabulary_tensors(loss)
    share = fit / count
    return _Largest(fit, length, math.ceil(labels * share), tensors / max(1, labels), math.ceil(1 / share))


def _vocabulary_tensors(loss: Loss) -> float:
    """Tensors of the vocabulary's size that are alive at a label when the backward pass begins.

    The logits of the pass and their gradient; of losses on whole distributions also the target's, both normalized, and
    what their backward pass makes.
    """
    if not loss.uses_logits:
        return 0.0
    return 7.0 if loss.uses_reference_logits else 3.0


def _kept(
    given: TrainingInput, model: Any, shape: ModelShape, args: UnlearnConfig, largest: _Largest
) -> tuple[Kept, bool]:
    dtype = DTYPES[_computed(args)]
    key = (largest.rows, largest.length, dtype, shape)
    if key not in given._kept:
        found = kept_by(model, largest.rows, largest.length, dtype)
        given._kept[key] = found or by_rule(
            shape.layers, shape.width, shape.inner, largest.rows, largest.length, dtype.itemsize
        )
        given._kept[(*key, "ruled")] = given._kept[key] if found is None else None  # type: ignore[assignment]
    return given._kept[key], given._kept[(*key, "ruled")] is not None


def _stored(args: UnlearnConfig, strategy: Strategy) -> Stored:
    kwargs = cast(Mapping[str, Any], args.model_init_kwargs or {})
    itemsize = DTYPES.get(_loaded(args), torch.float32).itemsize
    if args.stepping != "fp32":
        itemsize = 2
    weights: float = itemsize
    if kwargs.get("quantization_config") is not None:
        weights = _FOUR_BITS
    trained = 4 if args.peft is not None else itemsize
    name = str(getattr(args.optim, "value", args.optim))
    states = _STATES.get(name, 8.0) * (trained / 4)
    computed = DTYPES[_computed(args)].itemsize
    if strategy in ("zero2", "zero3", "zero3_offload") and args.bf16:
        return Stored(2, 2, 2 * states if trained == 2 else states, 2, master=4)
    return Stored(weights, trained, states, computed)


def _computed(args: UnlearnConfig) -> str:
    if args.bf16 or args.stepping != "fp32":
        return "bfloat16"
    return "float16" if args.fp16 else _loaded(args) if _loaded(args) in DTYPES else "float32"


def _loaded(args: UnlearnConfig) -> str:
    """The type that weights are loaded in."""
    kwargs = cast(Mapping[str, Any], args.model_init_kwargs or {})
    return str(kwargs.get("dtype", "float32")).removeprefix("torch.")


def _pass_tokens(args: UnlearnConfig, machine: Machine) -> int:
    return args.pass_tokens or (ACCELERATOR_TOKENS if machine.accelerator else CPU_TOKENS)


def _head_copy(args: UnlearnConfig, losses: Sequence[Loss], shape: ModelShape, taken_over: bool) -> bool:
    compares = any(loss.uses_reference_logits for loss in losses)
    return compares and args.reference == "cache" and (shape.head_trained or taken_over)


def _weight_copies(parts: Sequence[TrainingPart], machine: Machine) -> int:
    """A rehearsal keeps the weights of before, and its change, in the machine's memory."""
    rehearses = any(isinstance(part, Auto) and part.rehearse_passes for part in parts)
    rehearses = rehearses or any(isinstance(part, Cycles) and part.rehearse_steps for part in parts)
    return 2 if rehearses and not machine.accelerator else 0


def _operations(shape: ModelShape, work: TrainingWork, data: PairedRows, recomputed: bool) -> float:
    done, looked = work.forward_backward, work.forward
    found = 0.0
    if done.rows:
        length = done.tokens / done.rows * work.padding
        found += training(shape, Pass(done.rows, length, done.labels), recomputed=recomputed)
    if looked.rows:
        found += forward(shape, Pass(looked.rows, looked.tokens / looked.rows * work.padding, looked.labels))
    return found


Fits = Callable[[Memory], bool]


def what_would_fit(given: TrainingInput, devices: Devices, fits: Fits) -> str | None:
    """The least change with which a run would fit, in words; ``None`` if nothing that is tried does.

    In this order: a smaller micro-batch with more accumulation, which changes nothing but time; gradient
    checkpointing; both; adapters; sharded weights on more devices.
    """
    args = given.config()
    size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    single = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": steps * size}
    smaller = [
        {"per_device_train_batch_size": each, "gradient_accumulation_steps": steps * size // each}
        for each in range(size - 1, 0, -1)
        if size % each == 0
    ]
    checkpointing = {"gradient_checkpointing": True}
    adapters = {"peft": {"r": 16, "target_modules": "all-linear"}} if args.peft is None else {}
    tries: list[dict[str, Any]] = [*smaller, checkpointing, {**single, **checkpointing}]
    if adapters:
        tries += [adapters, {**adapters, **checkpointing}, {**adapters, **single, **checkpointing}]
    for changed in tries:
        if fits(plan_training(given, devices, changed).memory):
            return "set " + ", ".join(f"{key}: {_yaml(value)}" for key, value in changed.items())
    return _more_devices(given, devices, {**single, **checkpointing}, fits)


def _more_devices(given: TrainingInput, devices: Devices, changed: Mapping[str, Any], fits: Fits) -> str | None:
    parts = given.config().build_parts()
    if not devices.machine.accelerator or any(
        part.needs_whole_weights or needs_separate_passes(part) for part in parts
    ):
        return None
    for count in (2, 4, 8, 16, 32, 64):
        if count < devices.count or (count == devices.count and devices.strategy in SHARDS_WEIGHTS):
            continue
        for settings in ({}, changed):
            more = Devices(devices.machine, count, "zero3")
            if fits(plan_training(given, more, settings).memory):
                also = "".join(f", {key}: {_yaml(value)}" for key, value in settings.items())
                return f"use {count} devices with zero3.yaml{also}"
    return None


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    return str(value)
