"""What an attacker trains where the device decides (``tuning: auto``), and what makes an attack fit that does not.

All weights where they fit. Otherwise adapters (LoRA) on all linear layers, with the largest rank that fits. Where even
the smallest does not, its optimizer gets 8-bit and then paged states. Where no job fits one device, all processes of a
launch share one: all weights if they fit so, otherwise adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from typing import Any

from ..attacks.base import Attack
from ..attacks.retraining_settings import RetrainingSettings
from ..attacks.rtt import RTT
from ..attacks.tuning import OPTIMIZERS, OptimizerName, Tuning
from .memory import MARGIN

RANKS = (256, 128, 64, 32, 16)
"""Ranks that are tried, the strongest attacker first."""
_SMALLER_STATES: tuple[OptimizerName, ...] = ("adamw_8bit", "paged_adamw_8bit")

Peak = Callable[[RetrainingSettings], int]
"""Bytes that one job needs with these settings."""


@dataclass(frozen=True)
class Choice:
    """What ``auto`` comes to.

    Attributes:
        settings: The attack with it.
        full: Bytes that one job would need to train all weights.
        fits: Whether one job with these settings fits.
    """

    settings: RetrainingSettings
    full: int
    fits: bool


def choose(
    settings: RetrainingSettings,
    model: Any,
    peak: Peak,
    limit: int | None,
    *,
    accelerator: bool,
    processes: int = 1,
) -> Choice:
    """The strongest attacker whose jobs fit a device, with as much to spare as plans are inexact.

    Args:
        settings: The attack, with ``tuning: auto``.
        model: What is attacked, on the ``meta`` device.
        peak: What a job takes.
        limit: Bytes of the device; ``None`` if no limit is known.
        accelerator: Whether the device is one.
        processes: Of the launch, which can share a job that fits no device.

    Returns:
        The choice. If nothing fits it is what takes least.

    Raises:
        RequestError: Adapters do not fit the model.
        MissingExtraError: Adapters are needed, and peft is not installed.
    """
    whole = settings.settled(Tuning())
    full = peak(whole)
    if _spare(full, limit):
        return Choice(whole, full, fits=True)
    least, smallest = full, whole
    tries = adapters(settings, model, accelerator=accelerator)
    if processes > 1 and settings.steps.optimizer == "adamw":
        tries = chain(tries, in_shards(settings, model))
    for tried in tries:
        needed = peak(tried)
        if _spare(needed, limit):
            return Choice(tried, full, fits=True)
        if needed < least:
            least, smallest = needed, tried
    return Choice(smallest, full, fits=False)


def _spare(needed: int, limit: int | None) -> bool:
    return limit is None or needed * (1 + MARGIN) <= limit


def adapters(settings: RetrainingSettings, model: Any, *, accelerator: bool) -> Iterator[RetrainingSettings]:
    """Attackers with adapters, the strongest first. No rank is above the narrowest layer's size.

    Raises:
        RequestError: Adapters do not fit the model.
        MissingExtraError: peft is not installed.
    """
    targets = settings.steps.lora_targets
    narrowest = Tuning("lora", 1, targets).narrowest(settings.name, model)
    ranks = [rank for rank in RANKS if rank <= narrowest] or [narrowest]
    for rank in ranks:
        yield settings.settled(Tuning("lora", rank, targets))
    if accelerator and settings.steps.optimizer == "adamw" and find_spec("bitsandbytes") is not None:
        for optimizer in _SMALLER_STATES:
            yield settings.settled(Tuning("lora", ranks[-1], targets), optimizer)


def in_shards(settings: RetrainingSettings, model: Any) -> Iterator[RetrainingSettings]:
    """Attackers whose jobs are shared by all processes of a launch, the strongest first.

    Raises:
        RequestError: Adapters do not fit the model.
        MissingExtraError: peft is not installed.
    """
    yield settings.settled(Tuning(), sharded=True)
    for tried in adapters(settings, model, accelerator=False):
        yield replace(tried, sharded=True)


def trained_by(settings: RetrainingSettings) -> str:
    """What an attacker trains, in words; the optimizer is named where it is not the usual one, and shards are."""
    optimizer = settings.steps.optimizer
    return _trained_by(settings, optimizer) + (", sharded over all processes" if settings.sharded else "")


def _trained_by(settings: RetrainingSettings, optimizer: OptimizerName) -> str:
    return settings.trained.describe() + (f", {OPTIMIZERS[optimizer]}" if optimizer in _SMALLER_STATES else "")


def attack_mend(
    name: str,
    settings: Attack,
    model: Any,
    peak: Peak,
    limit: int | None,
    *,
    accelerator: bool,
    processes: int = 1,
) -> str | None:
    """What would make an attack fit that does not: the first of a few things.

    Args:
        name: What the recipe calls the attack.
        settings: The attack, without its order.
        model: What is attacked, on the ``meta`` device.
        peak: What a job takes.
        limit: Bytes of the device.
        accelerator: Whether the device is one.
        processes: How many can share a job.

    Returns:
        ``None`` if it fits, or nothing helps.
    """
    if not isinstance(settings, RetrainingSettings) or limit is None or peak(settings) <= limit:
        return None
    tried = _mends(name, settings, model, accelerator=accelerator, processes=processes)
    return next((words for words, other in tried if _spare(peak(other), limit)), None)


def _mends(
    name: str, settings: RetrainingSettings, model: Any, *, accelerator: bool, processes: int
) -> Iterator[tuple[str, RetrainingSettings]]:
    """What to do in words, and the settings that this gives; what weakens the attack least comes first."""
    first, smaller = "", settings
    if settings.tuning == "full" and find_spec("peft") is not None:
        for smaller in adapters(settings, model, accelerator=accelerator):
            here = f"{trained_by(smaller)} here"
            yield f"set attack.{name}.tuning: auto ({here}), in a new --output-dir if this one was begun", smaller
        first = f"set attack.{name}.tuning: auto, and "
    if processes > 1 and not settings.sharded and settings.steps.optimizer == "adamw":
        yield f"set attack.{name}.sharded: true", replace(settings, sharded=True)
    while smaller.batch_size > 1:
        smaller = replace(smaller, batch_size=smaller.batch_size // 2)
        yield f"{first}lower attack.{name}.batch_size to {smaller.batch_size}", smaller
    if isinstance(smaller, RTT) and smaller.dtype == "float32":
        half = f"{first}set attack.{name}.dtype: bfloat16 and attack.{name}.batch_size: {smaller.batch_size}"
        yield half, replace(smaller, dtype="bfloat16")
