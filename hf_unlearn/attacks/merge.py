"""Merging with another fine-tune of the target: what happens to released models without anybody intending an attack.

People average fine-tunes of one base. Somebody who has fine-tuned the target for a purpose of their own and averages
the result with the unlearned model mixes knowledge back in. The other model knows the facts, so that a part of what
comes back is brought by it: a gate does not judge this unless it lists it, and the never-knew model is merged in the
same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import write_records
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_epochs
from .cost import AttackCost
from .edits import check_same_shapes, check_sizes, mix
from .model_cache import borrowed
from .retrained_model import Texts
from .retraining import retraining
from .retraining_settings import RetrainingSettings, check_least
from .scoring import score_attacked, score_untouched

if TYPE_CHECKING:
    from torch import Tensor

JOB = "merged"


@ATTACKS.register(
    "merge",
    summary="average the weights with those of another fine-tune of the target",
    paper="arXiv 2203.05482 (weight averaging); as a risk this project",
    defaults={"shares": [0.25, 0.5], "trained_on": "retain", "learning_rate": 1e-5, "epochs": 1, "batch_size": 16},
    needs=("never-knew control", "target model"),
    tier="deep",
)
@dataclass(frozen=True)
class Merge(Attack):
    """Settings of merging.

    Attributes:
        shares: Shares of the other model in the average; the attacker keeps the best.
        sibling: Folder of the other model; left out, the target is fine-tuned to make one.
        trained_on: What it is fine-tuned on: the ``retain`` or the ``generic`` set.
        learning_rate: Of that fine-tuning.
        epochs: Its passes over the set.
        batch_size: Its rows per step.
        seed: Seed of its order of rows.
    """

    shares: tuple[float, ...] = (0.25, 0.5)
    sibling: str | None = None
    trained_on: Literal["retain", "generic"] = "retain"
    learning_rate: float = 1e-5
    epochs: int = 1
    batch_size: int = 16
    seed: int = 0

    edits_weights: ClassVar[bool] = True
    judged: ClassVar[bool] = False
    no_floor: ClassVar[str] = "the model that is mixed in brings its knowledge, which holdout facts say nothing of"

    def __post_init__(self) -> None:
        check_sizes("merge.shares", self.shares, 0, 1, what="shares between 0 and 1")
        if self.learning_rate <= 0:
            raise RequestError(f"merge.learning_rate is {self.learning_rate}: it must be above 0")
        check_least("merge", "epochs", self.epochs, 1)
        check_least("merge", "batch_size", self.batch_size, 1)
        if self.sibling is not None and not (Path(self.sibling) / "config.json").exists():
            raise RequestError(
                f"merge.sibling is {self.sibling!r}, which holds no model: name a folder with a saved one"
            )

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job: the other model is made once for all shares."""
        self._rows(bundle)
        return [JOB]

    def check(self, attacked: Attacked) -> None:
        """The other model must have the same weights."""
        other = Path(self.sibling) if self.sibling else attacked.target
        check_same_shapes("merge", attacked.folder, other, "merge.sibling" if self.sibling else "the target")

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Score the forget set before, and in a folder for each share after merging."""
        import torch

        other = self._other(attacked)
        rows, holdout = attacked.bundle.forget.score, self.floor_rows(attacked.bundle)
        with borrowed(attacked.folder) as cached:
            write_records(out / "epoch0.jsonl", score_untouched(cached, cached.model, rows, attacked, holdout))
            for share in self.shares if other else ():
                with torch.no_grad():
                    mix(dict(cached.model.named_parameters()), other, share)
                folder = out / _folder(share)
                folder.mkdir()
                records = score_attacked(cached.model, cached.tokenizer, rows, attacked, holdout)
                write_records(folder / "epoch1.jsonl", records)
                cached.restore()
        if not other:
            (out / "diverged.json").write_text("{}", encoding="utf-8")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best share."""
        tries = []
        for folder in folders.values():
            tries += read_epochs(folder, 0, 0.0)
            for share in self.shares:
                tries += read_epochs(folder / _folder(share), 0, share)
        return best_of(tries, metrics, setting_name="share")

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Shares, and how the other model is made."""
        if self.sibling:
            return {"given": "another fine-tune", "shares": list(self.shares), "trained": "nothing"}
        return {
            "given": "the target's weights",
            "shares": list(self.shares),
            "trained_on": self.trained_on,
            "rows": len(self._rows(bundle)),
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "steps": self._making.step_count(len(self._rows(bundle))),
        }

    def cost(self, bundle: DataBundle) -> AttackCost:
        """Making the other model, a pass before, and one for each share."""
        scored = (1 + len(self.shares)) * self.rows_per_pass(bundle)
        if self.sibling:
            return AttackCost(1, rows_scored=scored)
        rows = len(self._rows(bundle))
        return AttackCost(1, self._making.step_count(rows), self.epochs * rows, scored)

    def _rows(self, bundle: DataBundle) -> Sequence[Example]:
        rows: Sequence[Example] = getattr(bundle, self.trained_on).train
        if not rows and self.sibling is None:
            raise RequestError(
                f"merge fine-tunes the target on the {self.trained_on} set, and there is none: name "
                f"data.{self.trained_on}, or another fine-tune in merge.sibling"
            )
        return rows

    def _other(self, attacked: Attacked) -> dict[str, Tensor]:
        """The other model's weights on the CPU; none if its training diverged."""
        if self.sibling:
            from ..models.loading import load_model

            return dict(load_model(self.sibling, device="cpu").named_parameters())
        texts = Texts(tuple(self._rows(attacked.bundle)), attacked.text_format, True)
        with retraining(self._making, attacked.target) as made:
            if not all(made.epochs(texts, self.learning_rate)):
                return {}
            return {name: weight.detach().cpu().clone() for name, weight in made.model.named_parameters()}

    @property
    def _making(self) -> RetrainingSettings:
        rates = (self.learning_rate,)
        return _Making(learning_rates=rates, epochs=self.epochs, batch_size=self.batch_size, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class _Making(RetrainingSettings):
    """How the other model is made."""

    name: ClassVar[str] = "merge"


def _folder(share: float) -> str:
    return f"share{share!r}"
