"""What every attack is: a dataclass of its settings that plans jobs, runs one, and says what the jobs brought back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.metrics import METRICS
from ..evaluation.records import ScoredRow
from ..verification.recovery import RecoveryCurve
from ..verification.scores import FactScores
from .cost import AttackCost


@dataclass(frozen=True)
class AttackResult:
    """What an attack brought back.

    Attributes:
        scores: Metric to values per attacked fact, at the attacker's best setting.
        details: Plain data for the report: chosen settings and mean scores per fold.
        holdout: The same for the holdout facts that were asked beside them, at the setting that was best for the
            attacked facts. Empty where none were asked.
        curves: Scores step by step, from an attack that asks how long it takes.
    """

    scores: Mapping[str, FactScores]
    details: list[dict[str, Any]]
    holdout: Mapping[str, FactScores] = field(default_factory=dict)
    curves: tuple[RecoveryCurve, ...] = ()

    def by_set(self) -> Iterator[tuple[str, str, FactScores]]:
        """All scores, with their set and metric."""
        for split, scores in (("forget", self.scores), ("holdout", self.holdout)):
            for metric, facts in scores.items():
                yield split, metric, facts


@dataclass(frozen=True)
class Attacked:
    """A model in the attacker's hands, and what the attacker is told.

    Attributes:
        folder: The model.
        target: The model before unlearning; only attacks that say ``target model`` among their needs look at it.
        bundle: The run's data.
        text_format: How prompt and answer become one text.
        metrics: Names of metrics that records are made for.
        then: Format that what comes of the attack is put into before it is scored; ``None`` scores it as it is.
            :func:`~hf_unlearn.attacks.scoring.score_attacked` sees to it.
    """

    folder: Path
    target: Path
    bundle: DataBundle
    text_format: TextFormat
    metrics: tuple[str, ...]
    then: str | None = None


class Attack(ABC):
    """Settings of one attack and the work it takes. Jobs are independent of each other and resumable one by one.

    Attributes:
        edits_weights: Whether it changes weights and scores them by
            :func:`~hf_unlearn.attacks.scoring.score_attacked`, so that they can be quantized in between (``then``).
        judged: Whether a gate that names no attacks judges it. ``False`` for what only tells more.
        no_floor: Why holdout facts cannot stand in for a never-knew model under it, as half a sentence; empty where
            they can.
    """

    edits_weights: ClassVar[bool] = False
    judged: ClassVar[bool] = True
    no_floor: ClassVar[str] = ""

    @abstractmethod
    def plan(self, bundle: DataBundle) -> list[str]:
        """Names of the jobs, usable as folder names.

        Raises:
            RequestError: The data cannot be attacked this way.
        """

    @abstractmethod
    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Run one job against a model and write its records into ``out``, an existing folder."""

    @abstractmethod
    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """What the finished jobs (by name) brought back."""

    @abstractmethod
    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What the attacker is given, as plain data for the report."""

    def check(self, attacked: Attacked) -> None:  # noqa: B027 (most attacks take any model)
        """Refuse, before any job of the run, a model that this attack does not fit; no weights are loaded.

        Raises:
            RequestError: Says what does not fit.
        """

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Those of these metrics that its scores have: by default what one forward pass over a row gives.

        A gate judges the attack by these alone.

        Raises:
            RequestError: A name is not in the registry of metrics.
        """
        return metrics_of(FORWARD, metrics)

    def asked_groups(self, bundle: DataBundle) -> int:
        """Groups of facts that it asks for: of too few there is no interval, and so no verdict."""
        return len({row.group for row in bundle.forget.score})

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """The holdout rows that it asks as it asks the forget set; those that cannot be asked so are left out."""
        return bundle.floor

    def asked_sets(self, bundle: DataBundle) -> dict[str, tuple[Example, ...]]:
        """What is asked, by set: the forget set, and holdout rows where there is no never-knew model."""
        holdout = self.floor_rows(bundle)
        return {"forget": bundle.forget.score, **({"holdout": holdout} if holdout else {})}

    def rows_per_pass(self, bundle: DataBundle) -> int:
        """How many rows are asked when it asks once: the forget set, and the holdout rows beside it."""
        return len(bundle.forget.score) + len(self.floor_rows(bundle))

    def cost(self, bundle: DataBundle) -> AttackCost:
        """What it takes on one model, told before it starts.

        Here that is a pass over the forget set before and after each job. Attacks that train, generate or score
        otherwise say so themselves.
        """
        jobs = len(self.plan(bundle))
        return AttackCost(jobs, rows_scored=2 * jobs * self.rows_per_pass(bundle))

    def records_kept(self, bundle: DataBundle) -> int:
        """About how many records it leaves of one model: by default one for each row scored or answer generated."""
        cost = self.cost(bundle)
        return cost.rows_scored + cost.rows_generated


LAYERS = 32
"""As many layers as are counted before a model is looked at."""

FORWARD = ScoredRow(
    "row",
    "fact",
    "group",
    "forget",
    logps=(-0.5, -0.25, -1.0),
    hits=(True, True, False),
    choice_logps=(-1.75, -2.5),
    choice_lengths=(3, 3),
    right_choice=0,
    answer="an answer of words",
)
"""What one forward pass over a row with options gives: no generated text, no other wordings, no gradient."""


_SUGGESTED = ("probability", "extraction_strength", "mc_accuracy", "exact_match", "rouge_l")


def metrics_of(record: ScoredRow, metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of these metrics that are a number of a record that holds as much as this one.

    Raises:
        RequestError: A name is not in the registry of metrics.
    """
    return tuple(name for name in metrics if METRICS.get(name).value(record) is not None)


def check_judgeable(name: str, attack: Attack, metrics: Sequence[str]) -> None:
    """Refuse a gate under which an attack could not be judged.

    Args:
        name: What the recipe calls the attack.
        attack: Its settings.
        metrics: The gate's metrics.

    Raises:
        RequestError: The attack measures none of them; names some that it does measure.
    """
    if attack.measures(metrics):
        return
    measured = attack.measures(_SUGGESTED) or attack.measures(METRICS.names())
    if not measured:
        raise RequestError(
            f"{name!r} is a diagnosis with no score that a gate could judge: leave it out of gate.attacks"
        )
    raise RequestError(
        f"{name!r} measures none of the gate's metrics ({', '.join(metrics)}), so that nothing could be judged under "
        f"it: add to gate.metrics what it measures ({', '.join(measured)}), or leave it out of gate.attacks, where "
        "all attacks stand by default"
    )
