"""What attackers train (``tuning: auto``): settled once, by the plan for the device, and kept with a run's folder.

Every model of a run is attacked in the same way, or its numbers could not be compared. So a folder in which something
has been made keeps its decisions, on whatever machine it is resumed, and all processes of a launch have one decision:
that for the smallest of their devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..attacks.base import Attack
from ..attacks.composed import OrderedAttack, bare
from ..attacks.retraining_settings import RetrainingSettings
from ..attacks.tuning import Tuning, check_device
from ..data.encoding import EncodedRow
from ..data.example import DataBundle, Example
from ..planning.attack_memory import AttackedShape, longest_row
from ..planning.attack_tuning import Choice, choose, trained_by
from ..planning.machines import Machine
from ..planning.shape import shape_of
from ..planning.words import size
from ..runtime.processes import gather

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Decisions = Mapping[str, Any]
"""``tuning``, ``lora_rank``, ``optimizer`` and ``sharded`` by the attack's name; learning rates follow from these."""


@dataclass(frozen=True)
class Settled:
    """What one attack trains.

    Attributes:
        decision: It, without a word of the machine, so that reports and cards say the same wherever a run is resumed.
        why: Why, on this machine.
    """

    decision: str
    why: str

    def __str__(self) -> str:
        return f"{self.decision}: {self.why}"


def settle_tuning(
    attacks: Mapping[str, Attack],
    bundle: DataBundle,
    attacked: Callable[[], PreTrainedModel],
    encode: Callable[[Example], EncodedRow],
    machine: Machine,
    before: Decisions,
    processes: int = 1,
) -> tuple[dict[str, Attack], list[Settled]]:
    """Attacks that say what they train. All processes of a launch call this together.

    Args:
        attacks: Attacks by name, which the rows fit.
        bundle: The rows.
        attacked: Gives the attacked model on the ``meta`` device; asked if there is something to settle.
        encode: Makes a row token ids.
        machine: What jobs run on.
        before: What the folder was begun with.
        processes: Of the launch, which can share a job.

    Returns:
        The attacks without an ``auto``, and each decision.

    Raises:
        RequestError: Adapters do not fit the model, or an optimizer does not fit the machine.
        EnvironmentFailure: A library is missing or too old.
    """
    settled, told = dict(attacks), list[Settled]()
    unsettled = {name: settings for name, settings in _retraining(attacks).items() if settings.tuning == "auto"}
    if unsettled:
        machine = replace(machine, memory=_smallest(machine))
        model = attacked()
        shape = AttackedShape(model, shape_of(model), machine.accelerator, processes)
        for name, settings in unsettled.items():
            decided = _as_before(settings, before.get(name))
            why = "as in the part of this run that is there"
            if decided is None:
                attack = attacks[name]
                # What is quantized afterwards is whole on one device.
                whole = isinstance(attack, OrderedAttack) and attack.then is not None
                here = replace(shape, processes=1) if whole else shape
                choice = _decide(settings, here, longest_row(bare(attack), bundle, encode), machine)
                decided, why = choice.settings, _why(choice, machine.memory)
            settled[name] = _with_settings(attacks[name], decided)
            told.append(Settled(f"attack.{name}.tuning: auto is {trained_by(decided)}", why))
    for name, settings in _retraining(settled).items():
        check_device(settings.steps.optimizer, f"attack.{name}", accelerator=machine.accelerator)
    return settled, told


def decisions(settled: Mapping[str, Attack], attacks: Mapping[str, Attack]) -> dict[str, dict[str, Any]]:
    """What was decided, as plain data to keep.

    Args:
        settled: Attacks that say what they train.
        attacks: The same as they were asked for.
    """
    asked = _retraining(attacks)
    return {
        name: {
            "tuning": each.tuning,
            "lora_rank": each.lora_rank,
            "optimizer": each.steps.optimizer,
            **({"sharded": True} if each.sharded else {}),
        }
        for name, each in _retraining(settled).items()
        if asked[name].tuning == "auto"
    }


def _retraining(attacks: Mapping[str, Attack]) -> dict[str, RetrainingSettings]:
    """Settings of those that retrain."""
    every = {name: bare(attack) for name, attack in attacks.items()}
    return {name: settings for name, settings in every.items() if isinstance(settings, RetrainingSettings)}


def _decide(settings: RetrainingSettings, shape: AttackedShape, tokens: int, machine: Machine) -> Choice:
    return choose(
        settings,
        shape.model,
        lambda tried: shape.memory(tried, tokens)[0].peak,
        machine.memory,
        accelerator=machine.accelerator,
        processes=shape.processes,
    )


def _with_settings(attack: Attack, settings: RetrainingSettings) -> Attack:
    assert isinstance(settings, Attack)  # they were an attack's
    return replace(attack, settings=settings) if isinstance(attack, OrderedAttack) else settings


def _smallest(machine: Machine) -> int | None:
    """Bytes of the smallest device of a launch; ``None`` where no limit is known."""
    return min((memory for memory in gather(machine.memory) if memory is not None), default=None)


def _as_before(settings: RetrainingSettings, kept: object) -> RetrainingSettings | None:
    if not isinstance(kept, Mapping):  # an attack that was left out is ``false``
        return None
    kind = kept.get("tuning")
    if kind == "full":
        return settings.settled(Tuning(), sharded=kept.get("sharded", settings.sharded))
    if kind == "lora":
        tuning = Tuning("lora", kept.get("lora_rank", settings.lora_rank))
        return settings.settled(tuning, kept.get("optimizer"), sharded=kept.get("sharded", settings.sharded))
    return None


def _why(choice: Choice, limit: int | None) -> str:
    if limit is None:
        return "no limit of memory is known"
    takes = f"takes about {size(choice.full)} of the device's {size(limit)}"
    if choice.settings.tuning == "full" and not choice.settings.sharded:
        return f"it {takes}"
    whole = f"full fine-tuning {takes}"
    if choice.settings.sharded and choice.fits:
        return f"{whole}, and adapters do not fit it either"
    return whole if choice.fits else f"{whole}, and it is not sure that even this fits"
