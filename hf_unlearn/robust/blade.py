"""BLADE: forgetting under a retain constraint, whose multiplier rises faster than it falls."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data.encoding import EncodedRow
from ..errors import RequestError
from . import ROBUST
from .base import StepContext, TermWeights, TrainingContext
from .steered_weight import SteeredRetainWeight
from .weights import trained_parameters


@ROBUST.register(
    "blade",
    summary="A retain constraint whose multiplier rises fast and falls slowly; retain steps before each step.",
    paper="arXiv 2608.22557",
    defaults={
        "slack": 1.15,
        "penalty": 0.1,
        "start": 1.0,
        "least": 0.1,
        "largest": 0.0,
        "decay": 0.1,
        "inner_steps": 3,
        "inner_rate": 2e-4,
        "seed": 0,
    },
    needs=("retain",),
)
@dataclass
class Blade(SteeredRetainWeight):
    r"""Minimizes the forget loss while the retain loss stays below what the target's own is, and a little.

    .. math:: \min_\theta \; L_f + \lambda \, (L_r - \epsilon) + \frac{\rho}{2} \max(0, L_r - \epsilon)^2,
              \qquad \epsilon = c \, L_r(\theta_o)

    and after each step, with the retain loss of that step,

    .. math:: \lambda \leftarrow \max\left(\lambda_{min}, \lambda + \rho \, (L_r - \epsilon) \cdot
              \begin{cases} 1 & L_r > \epsilon \\ d & \text{otherwise} \end{cases}\right)

    A breach of the constraint is paid for at once and remembered long. Before each step but the first come
    ``inner_steps`` steps of plain gradient descent on the retain loss alone, each on retain rows of its own drawn
    from the whole retain set, with gradients of a norm of at most 1.

    The published method is this with the forget loss ``clamped-entropy``, the retain loss ``nll`` and LoRA adapters of
    rank 8 to 16 (``peft``); the part works with any forget loss. :math:`\lambda` and the penalty are factors on
    ``retain_weight``, which is best left at 1.

    Differences from the released code: the penalty is that of the whole step's retain loss (there of each
    micro-batch's); :math:`\epsilon` is from the whole retain set at the original weights (there from the first inner
    steps); further inner steps where the retain loss exceeds twice :math:`\epsilon`, and the variant that adapts its
    own learning rate and end, are not here.

    Cost: a forward pass of the step's retain rows, and ``inner_steps`` forward and backward passes of as many retain
    rows as a step has forget rows; once a forward pass over the retain set.

    Args:
        slack: ``c``, at least 1; 1.15 in public code.
        penalty: :math:`\rho`, above 0; 0.1.
        start: :math:`\lambda` of the first step, above 0; 1.
        least: :math:`\lambda_{min}`, above 0; 0.1.
        largest: Greatest :math:`\lambda`; 0 for none.
        decay: ``d``, from 0 to 1; 0.1.
        inner_steps: Retain steps before each step; 3, or 0 for none.
        inner_rate: Their learning rate, above 0; 2e-4.
        seed: Of the rows that they are on.

    Raises:
        RequestError: A value is out of range, or the retain loss is another one than ``nll``.

    Source: Toufikuzzaman, Mousavi and Lee, *BLADE: Bilevel Low-rank Augmented-Lagrangian Erasure for LLM Unlearning*
    (arXiv 2608.22557) and its code, read in a port of it; the paper's text could not be read.
    """

    state_file: ClassVar[str] = "blade.json"
    needs_whole_weights: ClassVar[bool] = True

    slack: float = 1.15
    penalty: float = 0.1
    start: float = 1.0
    least: float = 0.1  # type: ignore[misc]
    largest: float = 0.0
    decay: float = 0.1
    inner_steps: int = 3
    inner_rate: float = 2e-4
    seed: int = 0
    factor: float = field(init=False, repr=False)
    _limit: float = field(default=0.0, init=False, repr=False)
    _breach: float = field(default=0.0, init=False, repr=False)
    _run: TrainingContext | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for key, fits, wanted in (
            ("slack", self.slack >= 1, "at least 1"),
            ("penalty", self.penalty > 0, "above 0"),
            ("start", self.start > 0, "above 0"),
            ("least", self.least > 0, "above 0"),
            ("largest", self.largest == 0 or self.largest >= self.least, "0, or at least as large as least"),
            ("decay", 0 <= self.decay <= 1, "from 0 to 1"),
            ("inner_steps", self.inner_steps >= 0, "at least 0"),
            ("inner_rate", self.inner_rate > 0, "above 0"),
        ):
            if not fits:
                raise RequestError(f"blade: {key} is {getattr(self, key)}; it must be {wanted}")
        self.factor = self.start

    def check(self, config: Any) -> None:
        """Refuses a retain loss that is zero at the target, from which the limit is taken."""
        if config.retain_loss_type != "nll":
            raise RequestError(
                f"blade: the limit is a multiple of the target's own retain loss, which retain_loss_type "
                f"{config.retain_loss_type} does not give: set retain_loss_type to nll"
            )

    @torch.no_grad()
    def prepare(self, context: TrainingContext) -> None:
        """Takes the limit from the original weights, which a resumed run has too."""
        self._run = context
        self._limit = self.slack * sum(float(summand) for summand in context.retain_loss_summands())

    def before_step(self, context: StepContext) -> None:
        """The retain steps; then how far the constraint is breached."""
        self._breach = 0.0
        if context.step:
            for number in range(self.inner_steps):
                self._retain_step(context.step, number)
        value = context.measure(("retain",)).means.get("retain", self._limit)
        self._breach = max(0.0, value - self._limit)

    def _retain_step(self, step: int, number: int) -> None:
        assert self._run is not None  # prepare was called
        weights = list(trained_parameters(self._run.model).values())
        found = gradient_of_nll(self._run, drawn_rows(self._run, self.seed, step, number), weights)
        length = torch.linalg.vector_norm(torch.stack([each.norm() for each in found if each is not None]))
        rate = self.inner_rate * min(1.0, 1.0 / max(float(length), 1e-12))
        with torch.no_grad():
            for weight, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    weight.sub_(rate * gradient)

    def term_weights(self, step: int) -> TermWeights:
        """The multiplier and the slope of the penalty."""
        return TermWeights(retain=self.factor + self.penalty * self._breach)

    def next_factor(self, value: float, step: int) -> float:
        """The multiplier rises with a breach, and falls more slowly without one."""
        moved = self.penalty * (value - self._limit) * (1.0 if value > self._limit else self.decay)
        return min(self.factor + moved, self.largest) if self.largest else self.factor + moved

    def outcome(self) -> dict[str, Any]:
        """The multiplier at the end, and the limit."""
        return {**super().outcome(), "limit": round(self._limit, 6)}


def drawn_rows(context: TrainingContext, seed: int, step: int, number: int) -> list[EncodedRow]:
    """Retain rows of one inner step, the same on every process and in a resumed run."""
    draw = random.Random(f"{seed}-{step}-{number}")
    return draw.sample(list(context.retain_rows), min(context.rows_per_step, len(context.retain_rows)))


def gradient_of_nll(
    context: TrainingContext, rows: list[EncodedRow], weights: list[nn.Parameter]
) -> list[Tensor | None]:
    """Gradient of the mean negative log-likelihood of the rows' labels; none is left behind."""
    total: list[Tensor | None] = [None] * len(weights)
    count = 0
    for batch in context.batches(rows):
        logps = context.score(batch).logps
        count += logps.numel()
        found = torch.autograd.grad(-logps.sum(), weights, allow_unused=True)
        total = [
            new if kept is None else (kept if new is None else kept + new)
            for kept, new in zip(total, found, strict=True)
        ]
    return [None if each is None else each / max(count, 1) for each in total]
