"""Cycles of unlearning and repair: what repair brings back is unlearned again, until nothing comes back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import RequestError
from ..losses.base import Loss
from . import ROBUST
from .above_chance import above_chance
from .base import OneRound, StepContext, TermWeights, TrainingContext, TrainingPart
from .facts_left import FactsLeft
from .recovery_probe import RecoveryProbe
from .rehearsal import Rehearsal
from .shard_files import save_shard, with_shard
from .systematic import systematic_draw
from .weights import load_tensors, save_tensors, trained_parameters
from .zero_weights import clear_states

REHEARSAL_FILE = "cycles_rehearsal.safetensors"


@ROBUST.register(
    "cycles",
    summary="Rounds of steps on the forget loss alone, then on the retain loss alone, each with a fresh optimizer.",
    paper="this project (see docs/cycles.md)",
    defaults={
        "unlearn_steps": 30,
        "heal_steps": 50,
        "rounds": 0,
        "rehearse_steps": 0,
        "rehearse_share": 0.5,
        "rehearse_rate": 1.0,
        "until_gone": False,
        "least_rounds": 0,
        "perturb": 0.0,
        "seed": 0,
    },
    needs=("retain",),
)
@dataclass
class Cycles(TrainingPart):
    """Alternates between the forget term alone and the retain term alone.

    One pass of unlearning hides: repair on retain rows alone brings most forget facts back, even after the model has
    collapsed. What comes back can be unlearned again, and after enough rounds nothing comes back, even under
    retraining. Rounds follow from the run's ``max_steps``; a last unlearning phase that has no repair after it would
    leave the model damaged, so ``max_steps`` should be a multiple of a round.

    With ``rehearse_steps`` every phase of unlearning starts from a rehearsed attack (:class:`.rehearsal.Rehearsal`):
    some of the facts are learned again, are unlearned together with what that brought back, and what the rehearsal
    changed is taken back before repair.

    With ``until_gone`` rounds end when the rehearsals bring back no fact that they do not teach
    (:class:`.recovery_probe.RecoveryProbe`). Until then phases of unlearning are on the facts that are left, most
    often on those that are known best, and rehearsals teach those of which nothing is left first. Facts that are
    pushed below chance are left alone: more would only make them stand out, and could never make up for others.

    Cost: a forward and a backward pass of one term alone in each step, and ``rehearse_steps`` more such steps per
    round; the optimizer's state is reset twice per round. With a rehearsal, a copy of the trained weights, with
    ``until_gone``, a forward pass over at most 512 forget rows per round.

    Attributes:
        unlearn_steps: Optimizer steps on the forget term at the start of a round.
        heal_steps: Optimizer steps on the retain term that end it.
        rounds: After this many rounds only the retain term continues; 0 for no end.
        rehearse_steps: Steps of the attack that is rehearsed before each phase of unlearning; 0 for none.
        rehearse_share: Of the groups of facts, how many the rehearsal learns.
        rehearse_rate: Learning rate of the rehearsal, as a multiple of the step's own.
        until_gone: Rounds end when rehearsals bring no fact back, nor anything on average, after ``least_rounds``
            at the earliest and after ``rounds`` at the latest.
        least_rounds: For ``until_gone``; half of ``rounds`` if 0.
        perturb: Before repair, weights move by this share towards noise (as in UNDO, arXiv 2506.06278).
        seed: Of what the rehearsal draws.

    Raises:
        RequestError: A number is out of range.
    """

    needs_retain: ClassVar[bool] = True
    makes_rounds: ClassVar[bool] = True

    unlearn_steps: int = 30
    heal_steps: int = 50
    rounds: int = 0
    rehearse_steps: int = 0
    rehearse_share: float = 0.5
    rehearse_rate: float = 1.0
    until_gone: bool = False
    least_rounds: int = 0
    perturb: float = 0.0
    seed: int = 0
    _context: TrainingContext | None = field(default=None, init=False, repr=False)
    _rehearsal: Rehearsal = field(init=False, repr=False)
    _probe: RecoveryProbe = field(init=False, repr=False)
    _last_round: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("unlearn_steps", "heal_steps"):
            if getattr(self, name) < 1:
                raise RequestError(f"cycles: {name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rounds", "rehearse_steps", "least_rounds"):
            if getattr(self, name) < 0:
                raise RequestError(f"cycles: {name} is {getattr(self, name)}; use 0 for none")
        if not 0 < self.rehearse_share <= 1:
            raise RequestError(
                f"cycles: rehearse_share is {self.rehearse_share}; it must be a share above 0 and up to 1"
            )
        if not self.rehearse_rate > 0:
            raise RequestError(f"cycles: rehearse_rate is {self.rehearse_rate}; it must be above 0")
        if not 0 <= self.perturb < 1:
            raise RequestError(f"cycles: perturb is {self.perturb}; it must be a share from 0 to under 1")
        if self.until_gone and not self.rehearse_steps:
            raise RequestError(
                "cycles: until_gone measures what rehearsals bring back: set rehearse_steps, or leave it out"
            )
        self._rehearsal = Rehearsal(self.rehearse_steps, self.rehearse_share, self.seed)
        self._probe = RecoveryProbe(FactsLeft(0))

    @property
    def needs_whole_weights(self) -> bool:  # type: ignore[override]
        """Only noise uses whole tensors."""
        return self.perturb > 0

    @property
    def uses_trained_weights(self) -> bool:  # type: ignore[override]
        """For the steps of a rehearsal."""
        return self.rehearse_steps > 0

    @property
    def rules(self) -> int:  # type: ignore[override]
        """What ends rounds, and what they are on, has changed once."""
        return 2 if self.until_gone else 1

    @property
    def round_steps(self) -> int:
        """Steps of a round."""
        return self.unlearn_steps + self.heal_steps

    @property
    def rounds_to_make(self) -> int:
        """After this many rounds only the retain term continues, as far as that is known by now; 0 for no end."""
        return self.rounds if self._last_round is None else self._last_round + 1

    def one_round(self) -> OneRound:
        """A round with its rehearsal, on all facts."""
        same = ("unlearn_steps", "heal_steps", "rehearse_steps", "rehearse_share", "rehearse_rate", "perturb", "seed")
        part = {"name": "cycles", "rounds": 1, **{key: getattr(self, key) for key in same}}
        return OneRound(part, self.round_steps)

    def prepare(self, context: TrainingContext) -> None:
        """Keeps what a rehearsal needs; nothing is known of any fact yet."""
        self._context = context
        self._probe = RecoveryProbe(FactsLeft(len(context.forget_rows)))

    def term_weights(self, step: int) -> TermWeights:
        """Forget alone, then retain alone."""
        round_number, position = divmod(step, self.round_steps)
        unlearning = not self._ended(round_number) and position < self.unlearn_steps
        return TermWeights(forget=1.0, retain=0.0) if unlearning else TermWeights(forget=0.0, retain=1.0)

    def before_step(self, context: StepContext) -> None:
        """Momentum of one phase would carry its direction into the next: each starts without any."""
        round_number, position = divmod(context.step, self.round_steps)
        if position in (0, self.unlearn_steps):
            clear_states(context.optimizer)
        if self._ended(round_number):
            return
        if position == 0 and self.rehearse_steps:
            assert self._context is not None  # `prepare` comes before the first step
            rate = self.rehearse_rate * context.optimizer.param_groups[0]["lr"]
            spared = self._probe.facts.left if self.until_gone else frozenset()
            self._rehearsal.learn(self._context, rate, round_number, spared)
            if self.until_gone:
                self._look(self._context, round_number, spared)
        if position == self.unlearn_steps:
            assert self._context is not None
            self._rehearsal.take_back(self._context)
            if self.perturb:
                perturb_weights(context.model, self.perturb, seed=context.step)

    def _look(self, context: TrainingContext, round_number: int, spared: frozenset[int]) -> None:
        others = self._rehearsal.others(context, round_number, spared)
        self._probe.look(context, others, seed=f"brought-back-{self.seed}-{round_number}")
        # A model that repair does not restore prefers nothing, whatever it still knows.
        if self._probe.gone and round_number + 1 >= (self.least_rounds or self.rounds / 2):
            self._last_round = round_number

    def forget_loss(self, loss: Loss, step: int, steps: int) -> Loss:
        """With ``until_gone``, rows that have fallen below chance add nothing for the rest of their phase."""
        return above_chance(loss, self._probe.least)

    def forget_rows(self, step: int, count: int) -> Sequence[int] | None:
        """With ``until_gone``, phases of unlearning are on the facts that are left, most on those that are known best.

        While no look has found anything, or could, they are on the rows whose turn it is.
        """
        round_number, position = divmod(step, self.round_steps)
        if not self._probe.facts.pooled or position >= self.unlearn_steps or self._ended(round_number):
            return None
        draw = random.Random(f"left-{self.seed}-{round_number}")
        phase = systematic_draw(self._probe.facts.weights, self.unlearn_steps * count, draw)
        return phase[position * count : (position + 1) * count]

    def _ended(self, round_number: int) -> bool:
        return bool(self.rounds_to_make) and round_number >= self.rounds_to_make

    def finish(self, context: TrainingContext) -> None:
        """A run that ends within a phase of unlearning must not keep what its rehearsal taught."""
        self._rehearsal.take_back(context)

    def outcome(self) -> Mapping[str, Any]:
        """The cost of rehearsals and probes, which the steps do not include, and what was brought back."""
        if not self.rehearse_steps:
            return {}
        operations = self._rehearsal.floating_point_ops + self._probe.floating_point_ops
        probe = self._probe
        if not probe.preferences:
            return {"floating_point_ops": operations}
        found = {"brought_back": probe.preferences, "facts_left": probe.left, "facts_below_chance": probe.below}
        return {"floating_point_ops": operations, **found}

    def save_state(self, folder: Path) -> None:
        """What the rehearsal of the current phase changed, and what rehearsals brought back."""
        if self.rehearse_steps:
            kept = {
                "floating_point_ops": torch.tensor(self._rehearsal.floating_point_ops),
                "last_round": torch.tensor(-1 if self._last_round is None else self._last_round),
                **self._probe.saved(),
            }
            learned = {} if self._is_sharded else self._rehearsal.learned
            save_tensors(folder / REHEARSAL_FILE, {**learned, **kept})

    def save_shard(self, folder: Path) -> None:
        """What the rehearsal changed of this process's shards."""
        if self._is_sharded:
            save_shard(folder / REHEARSAL_FILE, self._rehearsal.learned)

    @property
    def _is_sharded(self) -> bool:
        return self._context is not None and self._context.trained_weights().sharded

    def load_state(self, folder: Path) -> None:
        """Restores it."""
        if self.rehearse_steps:
            tensors = load_tensors(folder / REHEARSAL_FILE, "cycles")
            self._rehearsal.floating_point_ops = int(tensors.pop("floating_point_ops"))
            last_round = int(tensors.pop("last_round"))
            self._last_round = None if last_round < 0 else last_round
            looks = {name: tensors.pop(name) for name in self._probe.saved() if name in tensors}
            if self.until_gone:
                if looks.keys() != self._probe.saved().keys():
                    raise RequestError(
                        f"{folder.parent} was made by a version whose rounds ended by another rule: delete that "
                        "folder to start anew"
                    )
                self._probe.restore(looks)
            if self._context is not None:
                weights = self._context.trained_weights()
                self._rehearsal.learned = with_shard(folder / REHEARSAL_FILE, tensors, weights, "cycles")


@torch.no_grad()
def perturb_weights(model: nn.Module, share: float, seed: int) -> None:
    """Move every trained matrix towards noise of its own scale: ``W <- (1 - share) W + share * std(W) * N(0, 1)``.

    Args:
        model: The model; changed in place.
        share: From 0 (nothing) to 1 (noise only).
        seed: Of the noise, so that a resumed run draws the same.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained_parameters(model).values():
        if parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.lerp_(noise * parameter.std(), share)
