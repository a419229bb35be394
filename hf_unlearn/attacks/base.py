"""What every attack is: a dataclass of its settings that plans jobs, runs one, and says what the jobs brought back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat
from ..data.example import DataBundle
from ..verification.scores import FactScores


@dataclass(frozen=True)
class AttackResult:
    """What an attack brought back.

    Attributes:
        scores: Metric to values per attacked fact, at the attacker's best setting.
        details: Plain data for the report: chosen settings and mean scores per fold.
    """

    scores: Mapping[str, FactScores]
    details: list[dict[str, Any]]


@dataclass(frozen=True)
class Attacked:
    """A model in the attacker's hands, and what the attacker is told.

    Attributes:
        folder: The model.
        target: The model before unlearning; only attacks that say ``target model`` among their needs look at it.
        bundle: The run's data.
        text_format: How prompt and answer become one text.
        metrics: Names of metrics that records are made for.
    """

    folder: Path
    target: Path
    bundle: DataBundle
    text_format: TextFormat
    metrics: tuple[str, ...]


class Attack(ABC):
    """Settings of one attack and the work it takes. Jobs are independent of each other and resumable one by one."""

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
