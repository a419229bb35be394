"""Magnitude pruning: an edit that has no bins and no data, and yet can bring back what was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import load_tokenizer
from ..data.example import DataBundle
from ..errors import RequestError
from ..evaluation.records import write_records
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_epochs

if TYPE_CHECKING:
    from torch import Tensor


@ATTACKS.register(
    "prune",
    summary="set the smallest weights of every linear layer to zero, at several shares",
    paper="arXiv 2407.06483 (compression after unlearning)",
    defaults={"shares": [0.1, 0.2, 0.3]},
    needs=("never-knew control",),
)
@dataclass(frozen=True)
class Prune(Attack):
    """Settings of pruning. Nothing is trained.

    Attributes:
        shares: Shares of the weights of each matrix that are set to zero; the attacker keeps the best.
    """

    shares: tuple[float, ...] = (0.1, 0.2, 0.3)

    def __post_init__(self) -> None:
        if not self.shares or any(not 0 < share < 1 for share in self.shares):
            raise RequestError("prune.shares must name shares between 0 and 1, at least one")
        if len(set(self.shares)) < len(self.shares):
            raise RequestError("prune.shares names a share twice: once is enough")

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per share."""
        return [f"share{share!r}" for share in self.shares]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Score the forget set before and after."""
        import torch

        from ..evaluation.loading import load_model
        from ..evaluation.metrics import apply_metrics
        from ..evaluation.scoring import score_rows
        from ..quantization.base import body_layers

        tokenizer = load_tokenizer(str(attacked.folder))
        loaded = load_model(attacked.folder)
        for epoch in (0, 1):
            if epoch:
                with torch.no_grad():
                    for layer in body_layers(loaded, "pruning").values():
                        prune_smallest(layer.weight, _share(job))
            records = score_rows(loaded, tokenizer, {"forget": attacked.bundle.forget.score}, attacked.text_format)
            write_records(out / f"epoch{epoch}.jsonl", apply_metrics(records, attacked.metrics))

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best share."""
        tries = [each for job, folder in folders.items() for each in read_epochs(folder, 0, _share(job))]
        return best_of(tries, metrics, setting_name="share")

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """The shares."""
        return {"shares": list(self.shares), "layers": "all linear layers but the output head"}


def prune_smallest(weight: Tensor, share: float) -> None:
    """Set the ``floor(share * n)`` entries of least magnitude to zero, in place; of equals the first ones."""
    count = int(share * weight.numel())
    smallest = weight.abs().flatten().argsort(stable=True)[:count]
    weight.view(-1)[smallest] = 0


def _share(job: str) -> float:
    return float(job.removeprefix("share"))
