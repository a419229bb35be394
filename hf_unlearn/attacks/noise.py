"""Weight noise: a disturbance that depends on no grid, no data and no facts.

Whatever sits on a narrow, fragile configuration of the weights falls to any disturbance of its size, and what was
learned broadly stays. A 4-bit grid disturbs by about a tenth of a weight's root mean square, an 8-bit one by about a
hundredth, so the sizes can be compared with formats. For noise that has the error of one grid group by group, see the
``noise-...`` formats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.example import DataBundle
from ..errors import RequestError
from . import ATTACKS
from .base import Attacked, AttackResult
from .best import best_of, read_epochs
from .edits import WeightEdit, check_sizes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@ATTACKS.register(
    "noise",
    summary="add Gaussian noise to every linear layer, at several sizes and draws",
    paper="this project (fragility, see docs/explanation.md)",
    defaults={"amounts": [0.05, 0.1, 0.2], "draws": 3},
    needs=("never-knew control",),
    tier="quick",
)
@dataclass(frozen=True)
class Noise(WeightEdit):
    """Settings of weight noise. Nothing is trained.

    Attributes:
        amounts: Standard deviations of the noise, as shares of the root mean square of each row of a matrix; the
            attacker keeps the best.
        draws: Draws of each size; the attacker keeps the best of them too. Apart from its size, the same draw adds the
            same noise to every model.
        seed: Seed of the draws.
    """

    amounts: tuple[float, ...] = (0.05, 0.1, 0.2)
    draws: int = 3
    seed: int = 0

    turned: ClassVar[str] = "amount"

    def __post_init__(self) -> None:
        check_sizes("noise.amounts", self.amounts, 0, float("inf"), what="sizes above 0")
        if self.draws < 1:
            raise RequestError(f"noise.draws is {self.draws}: it must be at least 1")

    @property
    def sizes(self) -> tuple[float, ...]:
        """The amounts."""
        return self.amounts

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per amount and draw."""
        return [f"{job}-draw{draw}" for job in super().plan(bundle) for draw in range(1, self.draws + 1)]

    def edit(self, model: PreTrainedModel, job: str, attacked: Attacked) -> None:
        """Add one draw to every linear layer but the output head."""
        from ..quantization.base import body_layers

        for name, layer in body_layers(model, "noise").items():
            add_noise(layer.weight, self.size_of(job), f"{self.seed}-{_draw(job)}-{name}")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best amount and draw."""
        tries = []
        for job, folder in folders.items():
            # A draw is recorded where attacks that train record their epoch; 0 is the model before the attack.
            for found in read_epochs(folder, 0, self.size_of(job)):
                tries.append(replace(found, epoch=_draw(job) if found.epoch else 0))
        result = best_of(tries, metrics, setting_name=self.turned)
        details = [{"draw" if key == "epoch" else key: value for key, value in row.items()} for row in result.details]
        return replace(result, details=details)

    def size_of(self, job: str) -> float:
        """The amount in a job's name."""
        return super().size_of(job.partition("-draw")[0])

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Amounts and draws."""
        return {
            "amounts": list(self.amounts),
            "draws": self.draws,
            "layers": "all linear layers but the output head",
        }


def add_noise(weight: Tensor, amount: float, name: str) -> None:
    """Add Gaussian noise in place, with a standard deviation of ``amount`` times each row's root mean square.

    Args:
        weight: ``[out, in]``.
        amount: Share of the root mean square.
        name: Of the weight and draw; each name has its own noise, the same for weights of the same shape.
    """
    import torch

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight)
    size = weight.float().square().mean(dim=1, keepdim=True).sqrt().to(weight.dtype)
    weight.add_(noise * size, alpha=amount)


def _draw(job: str) -> int:
    return int(job.partition("-draw")[2])
