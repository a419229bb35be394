"""Keys of every attack that retrains, and how its steps are taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

from ..errors import RequestError
from .tuning import LORA_RATE_FACTOR, OPTIMIZERS, Kind, OptimizerName, Tuning, check_optimizer

LossTokens = Literal["answer", "all"]
Dtype = Literal["float32", "bfloat16", "float16"]
Settings = TypeVar("Settings", bound="RetrainingSettings")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How every step is taken. Most attacks take these as they are; where a recipe may set them they are its keys.

    Attributes:
        loss_tokens: ``answer`` trains on the answers only, ``all`` on every token of the rows.
        max_tokens: Longer rows lose their beginning; whole if left out.
        lora_targets: Layers that get adapters; all linear layers except the output head if left out.
        optimizer: ``adamw``, ``lion``, ``adamw_8bit`` (8-bit states) or ``paged_adamw_8bit`` (the same, paged; needs a
            GPU), without weight decay.
        dtype: Type of the weights while they are trained.
        max_grad_norm: Gradient clipping; 0 turns it off.
    """

    loss_tokens: LossTokens = "answer"
    max_tokens: int | None = None
    lora_targets: tuple[str, ...] = ()
    optimizer: OptimizerName = "adamw"
    dtype: Dtype = "float32"
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RetrainingSettings:
    """Keys of every attack that retrains, and how each job of it fine-tunes.

    Attributes:
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over the rows; what is asked for is scored after each.
        batch_size: Rows per step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` trains adapters, ``auto`` trains all weights if they fit the
            device and adapters otherwise.
        lora_rank: Rank of the adapters; their scale is twice of it. With ``auto`` the largest that fits.
        optimizer: ``adamw``, ``lion``, ``adamw_8bit`` (8-bit states) or ``paged_adamw_8bit`` (the same, paged; needs a
            GPU), without weight decay.
        patience: Early stopping: a rate ends after this many epochs without gain; 0 turns it off.
        seed: Seed of the order of rows.
        bf16: Computes in bfloat16 where autocast allows it, in training and in the scores between epochs; weights and
            steps stay as they are. Several times as fast on GPUs and on processors with bfloat16 instructions, slower
            on others.
        sharded: Under a launcher each job runs over all processes, which hold the model in shards (FSDP2). With
            ``auto`` where nothing fits one device.

    Raises:
        RequestError: A setting makes no sense. Names the attack and the key.
    """

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    epochs: int = 1
    batch_size: int = 16
    warmup_steps: int = 0
    tuning: Kind = "full"
    lora_rank: int = 16
    optimizer: OptimizerName = field(default="adamw", metadata={"left_out_at_default": True})
    patience: int = 0
    seed: int = 0
    bf16: bool = field(default=False, metadata={"left_out_at_default": True})
    sharded: bool = field(default=False, metadata={"left_out_at_default": True})

    name: ClassVar[str] = "attack"

    @property
    def steps(self) -> StepSettings:
        """How every step is taken."""
        return StepSettings(optimizer=self.optimizer)

    @property
    def order(self) -> str | int:
        """Seeds the order of rows, and the adapters' first weights."""
        return f"{self.name}-{self.seed}"

    @property
    def decays(self) -> bool:
        """Whether the rate falls linearly to zero after the warm-up, instead of staying constant."""
        return False

    def rate_factor(self, step: int, steps: int) -> float:
        """The part of the learning rate that a step is taken with.

        Args:
            step: Which one, from 0.
            steps: How many there are in all. The first step after the warm-up has the whole rate; with a decay, the
                last one has one step's part of it, as in the Trainer's linear schedule.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return (steps - step) / (steps - self.warmup_steps) if self.decays else 1.0

    @property
    def trained(self) -> Tuning:
        """What of the model is trained."""
        return Tuning(self.tuning, self.lora_rank, self.steps.lora_targets)

    @property
    def needs_adapters(self) -> bool:
        """Whether any job trains adapters, for which peft is needed."""
        return self.tuning == "lora"

    def __post_init__(self) -> None:
        name, steps = self.name, self.steps
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise RequestError(f"{name}.learning_rates must name at least one rate above 0, and only such")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise RequestError(f"{name}.learning_rates names a rate twice: once is enough")
        check_least(name, "epochs", self.epochs, 1)
        check_least(name, "batch_size", self.batch_size, 1)
        check_least(name, "warmup_steps", self.warmup_steps, 0)
        check_least(name, "max_grad_norm", steps.max_grad_norm, 0)
        check_least(name, "patience", self.patience, 0)
        if steps.max_tokens is not None and steps.max_tokens < 2:
            raise RequestError(f"{name}.max_tokens is {steps.max_tokens}: a row has at least 2 tokens")
        check_optimizer(steps.optimizer, steps.dtype, name)
        if self.bf16 and steps.dtype != "float32":
            raise RequestError(
                f"{name}.bf16 computes float32 weights in bfloat16, and {name}.dtype is {steps.dtype}: leave one out"
            )
        if self.sharded and steps.optimizer != "adamw":
            raise RequestError(
                f"{name}.optimizer is {steps.optimizer}, whose states cannot be sharded: use adamw, or leave out "
                f"{name}.sharded"
            )
        self.trained.check(name)

    def settled(
        self: Settings, tuning: Tuning, optimizer: OptimizerName | None = None, *, sharded: bool | None = None
    ) -> Settings:
        """What ``tuning: auto`` comes to.

        Args:
            tuning: Of kind ``full`` or ``lora``.
            optimizer: Another one than these settings name.
            sharded: Whether over all processes of a launch, where that is decided too.

        Returns:
            For ``full`` the settings of a recipe that says so. For ``lora`` its rank, and learning rates for adapters:
            three times those for whole weights.
        """
        sharded = self.sharded if sharded is None else sharded
        if tuning.kind == "full":
            return replace(self, tuning="full", sharded=sharded)
        rates = tuple(float(f"{LORA_RATE_FACTOR * rate:.12g}") for rate in self.learning_rates)
        return replace(
            self,
            tuning="lora",
            lora_rank=tuning.rank,
            optimizer=optimizer or self.steps.optimizer,
            learning_rates=rates,
            sharded=sharded,
        )

    def step_count(self, rows: int) -> int:
        """Optimizer steps of one job that trains on so many rows."""
        return self.epochs * self.steps_per_epoch(rows)

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of one pass over so many rows."""
        return -(-rows // self.batch_size)

    def describe(self, rows: int) -> dict[str, Any]:
        """Rates, epochs and steps on so many rows, and what the attacker trains with, as plain data for the report."""
        library = OPTIMIZERS[self.steps.optimizer]
        computed = ", computed in bfloat16" if self.bf16 else ""
        return {
            "learning_rates": list(self.learning_rates),
            "epochs": self.epochs,
            "steps_per_rate": self.step_count(rows),
            "optimizer": f"{library}, {self.trained.describe()} in {self.steps.dtype}{computed}",
            "loss_tokens": self.steps.loss_tokens,
            **({"schedule": "linear decay to zero"} if self.decays else {}),
            **({"gives_up_after": self.patience} if self.patience else {}),
        }


def check_least(name: str, key: str, value: float, least: float) -> None:
    """Refuse a value of an attack's key below the least one that makes sense: :class:`RequestError`."""
    if value < least:
        raise RequestError(f"{name}.{key} is {value}: it must be at least {least}")
