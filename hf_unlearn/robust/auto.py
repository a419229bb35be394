"""The recommended stack: cycles with rehearsed attacks, sized by the forget set."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..data.pairing import PairedRows
from ..errors import RequestError
from ..losses.base import Loss
from . import ROBUST
from .base import OneRound, StepContext, TermWeights, TrainingContext, TrainingPart
from .cycles import Cycles
from .levelling import LOOK_EVERY, Levelling, UpToChance
from .weights import load_tensors, save_tensors

logger = logging.getLogger(__name__)

LEVEL_FILE = "auto_level.safetensors"
RAISED_WEIGHT = 0.2
"""Of what raises facts, beside the retain term: at 1 its gradient, that of cross-entropy, leaves repair no say."""

AUTO_SETTINGS: Mapping[str, Any] = {
    "loss_type": "ga",
    "retain_loss_type": "kl",
    "retain_weight": 1.0,
    "retain_per_forget": 2,
    "num_train_epochs": 120,
    "lr_scheduler_type": "constant",
}
"""Settings that go with :class:`Auto` unless a method sets them; the learning rate depends on the model.

The length is a limit: rounds end by themselves, after a quarter of it on small models, later on a pretrained one."""
USUAL_PASSES = 47
"""Half of the rounds that fit into so many passes, or into a shorter run, are always made."""


@ROBUST.register(
    "auto",
    summary="Rounds of unlearning and repair with a rehearsed attack before each, sized by the forget set.",
    paper="this project (see docs/auto.md)",
    defaults={
        "unlearn_passes": 0.53,
        "heal_passes": 1.0,
        "heal_retain_passes": 1.55,
        "rehearse_passes": 0.45,
        "unlearn_least": 6,
        "rehearse_least": 8,
        "until_gone": True,
        "level": True,
        "last": 0.13,
        "seed": 0,
    },
    needs=("retain",),
)
@dataclass
class Auto(TrainingPart):
    """:class:`~.cycles.Cycles` whose phases are measured in passes over the forget set, with a last phase of repair.

    Rounds end when the rehearsals bring no fact back, the run a last phase later. The length of the
    run limits their number (``num_train_epochs`` or ``max_steps``). In the last phase the learning rate falls linearly
    to zero, whatever the schedule; if most facts are below chance, only in its second half, and in the first they are
    raised beside the repair (:class:`~.levelling.Levelling`).

    Cost: that of :class:`~.cycles.Cycles`, and of forget rows in the last phase if facts are below chance.

    Attributes:
        unlearn_passes: Of the forget set in each phase of unlearning.
        heal_passes: As many steps of repair as this many passes would take; each is on ``retain_per_forget`` times as
            many retain rows.
        heal_retain_passes: Repair ends early after this many passes over the retain set: with few retain rows,
            more of it brings forget facts back and keeps nothing more.
        rehearse_passes: Of the forget set in each rehearsal; 0 for none. A rehearsal learns half of the facts, at
            twice the learning rate.
        unlearn_least: Least steps of each phase of unlearning, however few rows there are.
        rehearse_least: Least steps of each rehearsal. How far an attack gets is a matter of its steps: a rehearsal of
            two or three brings back nothing of what one of sixty does.
        until_gone: Whether rounds end when rehearsals bring no fact back, once half of those that fit into 47 passes
            were made; otherwise as many rounds as fit into the run are made.
        level: Whether the last phase raises facts if most are below chance; only with ``until_gone`` and rehearsals.
        last: Share of the run's steps that only repair, at its end.
        seed: Of what rehearsals draw.

    Raises:
        RequestError: A number is out of range, or the run is too short for two rounds.
    """

    needs_retain: ClassVar[bool] = True
    makes_rounds: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False

    unlearn_passes: float = 0.53
    heal_passes: float = 1.0
    heal_retain_passes: float = 1.55
    rehearse_passes: float = 0.45
    unlearn_least: int = 6
    rehearse_least: int = 8
    until_gone: bool = True
    level: bool = True
    last: float = 0.13
    seed: int = 0
    _epochs: float = field(default=0.0, init=False, repr=False)
    _heal_most: float = field(default=math.inf, init=False, repr=False)
    _cycles: Cycles = field(default_factory=Cycles, init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)
    _levelling: Levelling = field(default_factory=Levelling, init=False, repr=False)
    _context: TrainingContext | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("unlearn_passes", "heal_passes", "heal_retain_passes"):
            if not getattr(self, name) > 0:
                raise RequestError(f"auto: {name} is {getattr(self, name)}; it must be above 0")
        if not self.rehearse_passes >= 0:
            raise RequestError(f"auto: rehearse_passes is {self.rehearse_passes}; use 0 for none")
        for name in ("unlearn_least", "rehearse_least"):
            if getattr(self, name) < 1:
                raise RequestError(f"auto: {name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.last < 1:
            raise RequestError(f"auto: last is {self.last}; it must be a share from 0 to under 1")

    @property
    def uses_trained_weights(self) -> bool:  # type: ignore[override]
        """For the steps of a rehearsal."""
        return self.rehearse_passes > 0

    @property
    def rules(self) -> int:  # type: ignore[override]
        """Those of :class:`~.cycles.Cycles`; a third with the sizes of short sets and what the last phase raises."""
        return 3 if self.until_gone and self.rehearse_passes > 0 else 1

    def one_round(self) -> OneRound:
        """See :meth:`.cycles.Cycles.one_round`."""
        return self._cycles.one_round()

    def arrange(self, rows: PairedRows, epochs: float) -> PairedRows:
        """Records the length of the run and the number of retain rows; the rows stay as they are."""
        self._epochs = epochs
        if rows.retain_per_forget:
            in_a_pass = rows.retain_per_forget * len(rows.forget)
            self._heal_most = self.heal_retain_passes * len(rows.retain) / in_a_pass
        return rows

    def prepare(self, context: TrainingContext) -> None:
        """Sizes the phases, and warns if much of what is to be forgotten is out of reach."""
        if frozen := frozen_ends(context.model):
            logger.warning(
                "auto: %s are not trained, but they hold facts too, so little is forgotten for good: "
                "train them as well (with adapters: modules_to_save: [%s])",
                " and ".join(frozen),
                ", ".join(name.rpartition(".")[2] for name in frozen),
            )
        self._steps, self._context = context.max_steps, context
        self._cycles = self.sized(context.max_steps, self._epochs)
        self._cycles.prepare(context)

    def sized(self, steps: int, epochs: float) -> Cycles:
        """The cycles of a run.

        Args:
            steps: Of the whole run.
            epochs: Passes over the forget set that these would be.

        Raises:
            RequestError: There are too few steps for two rounds.
        """
        per_pass = steps / epochs
        heal_passes = min(self.heal_passes, self._heal_most)
        unlearn = max(self.unlearn_least, round(self.unlearn_passes * per_pass))
        repair = max(1, round(heal_passes * per_pass))
        rehearse = max(self.rehearse_least, round(self.rehearse_passes * per_pass)) if self.rehearse_passes else 0
        rounds, usual = (
            int(length * (1 - self.last)) // (unlearn + repair) for length in (steps, USUAL_PASSES * per_pass)
        )
        if rounds < 2:
            least = 2 * (unlearn + repair) / (1 - self.last)
            raise RequestError(
                f"auto: the run has {steps} steps, and two rounds with the repair after them take {least:.0f}: raise "
                "num_train_epochs or max_steps"
            )
        return Cycles(
            unlearn_steps=unlearn,
            heal_steps=repair,
            rounds=rounds,
            rehearse_steps=rehearse,
            rehearse_rate=2.0,
            until_gone=self.until_gone and rehearse > 0,
            least_rounds=math.ceil(min(rounds, usual) / 2),
            seed=self.seed,
        )

    @property
    def _levels(self) -> bool:
        return self.level and self.until_gone and self.rehearse_passes > 0

    def term_weights(self, step: int) -> TermWeights:
        """Forget alone, then retain alone; both while facts are raised."""
        if self._raises(step):
            return TermWeights(forget=RAISED_WEIGHT, retain=1.0)
        return self._cycles.term_weights(step)

    def further_forget_losses(self) -> Sequence[Loss]:
        """What raises facts in the last phase."""
        return (UpToChance(0.0),) if self._levels else ()

    def forget_loss(self, loss: Loss, step: int, steps: int) -> Loss:
        """On those that are left; what raises facts where they are raised."""
        if self._raises(step):
            return UpToChance(self._levelling.level)
        return self._cycles.forget_loss(loss, step, steps)

    def forget_rows(self, step: int, count: int) -> Sequence[int] | None:
        """Those that are left, or those that are raised."""
        if self._raises(step):
            return self._levelling.drawn((step - self._last_phase()[0]) * count, count)
        return self._cycles.forget_rows(step, count)

    def before_step(self, context: StepContext) -> None:
        """The round's rehearsal and its end; in the last phase looks for what to raise, and a falling rate."""
        self._cycles.before_step(context)
        _, end = self._last_phase()
        if self._looks_at(context.step):
            assert self._context is not None  # `prepare` comes before the first step
            self._levelling.look(self._context, f"level-{self.seed}-{context.step}")
        falls_from = self._raising_ends()
        if context.step >= falls_from:
            left = (end - context.step) / (end - falls_from) if context.step < end else 0.0
            for group in context.optimizer.param_groups:
                group["lr"] *= left

    def _looks_at(self, step: int) -> bool:
        """Whether facts are looked at before a step: when the last phase begins, and while some are raised."""
        first = self._last_phase()[0]
        while_raised = first < step < self._raising_ends() and (step - first) % LOOK_EVERY == 0
        return self._levels and (step == first or while_raised)

    def _raising_ends(self) -> int:
        """The first step that raises nothing: half of the last phase, or its beginning if nothing was to be raised."""
        first, end = self._last_phase()
        return (first + end) // 2 if any(self._levelling.found[:1]) else first

    def _raises(self, step: int) -> bool:
        return bool(self._levelling.rows) and self._last_phase()[0] <= step < self._raising_ends()

    def ended(self, step: int) -> bool:
        """Whether the last phase is over, as far as its start is known by now."""
        return step >= self._last_phase()[1]

    def _last_phase(self) -> tuple[int, int]:
        """Its first step, and the one after its last."""
        first = self._cycles.rounds_to_make * self._cycles.round_steps
        if self._cycles.rounds_to_make == self._cycles.rounds:
            return first, self._steps
        return first, min(self._steps, math.ceil(first / (1 - self.last)))

    def finish(self, context: TrainingContext) -> None:
        """See :meth:`.cycles.Cycles.finish`; after a last phase there is nothing left to take back."""
        self._cycles.finish(context)

    def outcome(self) -> Mapping[str, Any]:
        """How many rounds there were, what rehearsals cost, and what they brought back."""
        told = {"rounds": self._cycles.rounds_to_make, **self._cycles.outcome()}
        if self._levelling.found:
            told["floating_point_ops"] = told.get("floating_point_ops", 0) + self._levelling.floating_point_ops
            told["raised"] = self._levelling.found
        return told

    def save_state(self, folder: Path) -> None:
        """What the rehearsal of the current phase changed, and which facts are raised."""
        self._cycles.save_state(folder)
        if self._levels:
            save_tensors(folder / LEVEL_FILE, self._levelling.saved())

    def save_shard(self, folder: Path) -> None:
        """The same of one process's shards."""
        self._cycles.save_shard(folder)

    def load_state(self, folder: Path) -> None:
        """Restores it."""
        self._cycles.load_state(folder)
        if self._levels:
            self._levelling.restore(load_tensors(folder / LEVEL_FILE, "auto"))


def frozen_ends(model: nn.Module) -> list[str]:
    """Names of the input embeddings and of the output head, as far as nothing of them is trained.

    Args:
        model: A transformers model, or one with adapters on it.
    """
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    ends = (getattr(model, find)() for find in ("get_input_embeddings", "get_output_embeddings"))
    found = [end for end in ends if end is not None and not any(each.requires_grad for each in end.parameters())]
    return list(dict.fromkeys(names[id(end)] for end in found))
