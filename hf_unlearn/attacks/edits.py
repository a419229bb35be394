"""Editing weights without training: what attacks share that change a model in place and ask for the forget set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..data.example import DataBundle
from ..errors import RequestError
from ..evaluation.records import write_records
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_epochs
from .cost import AttackCost
from .model_cache import borrowed
from .scoring import score_attacked, score_untouched

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class WeightEdit(Attack):
    """An edit at several sizes, one job each; the model is restored in place between them.

    Attributes:
        turned: What the sizes are called in jobs and reports.
    """

    edits_weights: ClassVar[bool] = True
    turned: ClassVar[str]

    @property
    @abstractmethod
    def sizes(self) -> Sequence[float]:
        """The sizes."""

    @abstractmethod
    def edit(self, model: PreTrainedModel, job: str, attacked: Attacked) -> None:
        """Change the float32 weights in place; gradients are off."""

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per size."""
        return [f"{self.turned}{size!r}" for size in self.sizes]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Score the forget set before (``epoch0.jsonl``) and after (``epoch1.jsonl``)."""
        import torch

        rows, holdout = attacked.bundle.forget.score, self.floor_rows(attacked.bundle)
        with borrowed(attacked.folder) as cached:
            write_records(out / "epoch0.jsonl", score_untouched(cached, cached.model, rows, attacked, holdout))
            with torch.no_grad():
                self.edit(cached.model, job, attacked)
            after = score_attacked(cached.model, cached.tokenizer, rows, attacked, holdout)
            write_records(out / "epoch1.jsonl", after)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best size."""
        tries = [each for job, folder in folders.items() for each in read_epochs(folder, 0, self.size_of(job))]
        return best_of(tries, metrics, setting_name=self.turned)

    def cost(self, bundle: DataBundle) -> AttackCost:
        """A pass before all, and one for each job."""
        jobs = len(self.plan(bundle))
        return AttackCost(jobs, rows_scored=(jobs + 1) * self.rows_per_pass(bundle))

    def records_kept(self, bundle: DataBundle) -> int:
        """Each job has its own records from before, which are scored once."""
        return 2 * len(self.plan(bundle)) * self.rows_per_pass(bundle)

    def size_of(self, job: str) -> float:
        """The size in a job's name."""
        return float(job.removeprefix(self.turned))


def check_sizes(key: str, sizes: Sequence[float], least: float, most: float, *, what: str) -> None:
    """Refuse an empty list, sizes out of range (both ends excluded), and sizes given twice.

    Raises:
        RequestError: Names the key.
    """
    if not sizes or any(not least < size < most for size in sizes):
        raise RequestError(f"{key} must name {what}, at least one")
    if len(set(sizes)) < len(sizes):
        raise RequestError(f"{key} names one twice: remove one")


def check_same_shapes(name: str, folder: Path, other: Path, called: str) -> None:
    """Refuse models whose weights cannot be added to each other. Only configs are read.

    Args:
        name: The attack.
        folder: The attacked model.
        other: What it is mixed with.
        called: What messages call the other.

    Raises:
        RequestError: Names the first weight that does not fit, or the model that is quantized.
    """
    from ..models.loading import empty_model
    from .dequantize import is_quantized

    if is_quantized(other):
        raise RequestError(f"{name}: {called} is quantized, and weights are mixed in full precision: name that model")
    own, others = (_shapes(empty_model(path)) for path in (folder, other))
    wrong = next((key for key in (*own, *others) if own.get(key) != others.get(key)), None)
    if wrong is not None:
        raise RequestError(
            f"{name}: {called} has other weights than the attacked model ({wrong}), so they cannot be mixed: "
            f"leave {name} out"
        )


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def mix(weights: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> None:
    """``(1 - share) * w + share * other`` for every weight, in place.

    Args:
        weights: Weights by name.
        other: Those of the other model, of the same names and shapes, on any device and of any type.
        share: The other's share; below 0 leads away from it.
    """
    for name, weight in weights.items():
        weight.add_(other[name].to(weight) - weight, alpha=share)
