"""How much of what was to be forgotten is there, judged against a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .intervals import Bootstrap, Estimate, least_facts, more_needed, recovered_share, retention_ratio
from .references import Reference
from .scores import FactScores, ScoreTable

RecoveredStatus = Literal["passed", "failed", "inconclusive", "reported"]


@dataclass(frozen=True)
class RecoveredRow:
    """How much of the forgotten knowledge is there under one transform, by one metric.

    Attributes:
        model: The judged model.
        transform: The transform.
        metric: The metric.
        retention_ratio: Score as a share of the target's; ``None`` where the target's is zero.
        recovered: The recovered share with its interval.
        threshold: Largest allowed share; ``None`` where the gate does not judge this number.
        status: ``reported`` where the gate does not judge it.
        more_needed: Facts to add that would settle an inconclusive one; ``None`` where no number can be given.
        reason: Why it did not pass; empty where it did.
        over_forgotten: Whether it failed because the share is clearly too low.
    """

    model: str
    transform: str
    metric: str
    retention_ratio: float | None
    recovered: Estimate
    threshold: float | None
    status: RecoveredStatus
    more_needed: int | None = None
    reason: str = ""
    over_forgotten: bool = False

    @property
    def still_known(self) -> bool:
        """Whether it failed because forgotten knowledge is there."""
        return self.status == "failed" and not self.over_forgotten


@dataclass(frozen=True)
class RecoveredJudge:
    """Judges one transform and metric at a time.

    Attributes:
        table: Scores of all models.
        subject: The judged model.
        target: The target model.
        reference: What never knew.
        split: The set that was to be forgotten.
        settings: How intervals are made.
    """

    table: ScoreTable
    subject: str
    target: str
    reference: Reference
    split: str
    settings: Bootstrap

    def __call__(self, transform: str, metric: str, maximum: float | None, minimum: float | None) -> RecoveredRow:
        """The recovered share, judged.

        Args:
            transform: The transform.
            metric: The metric.
            maximum: Largest allowed share; ``None`` where the gate does not judge this number.
            minimum: A share clearly below this is over-forgetting; ``None`` where that is not judged.

        Returns:
            The row; *inconclusive* with its reason where something was not measured.
        """
        subject = self.table.get(self.subject, transform, self.split, metric)
        target = self.table.get(self.target, transform, self.split, metric)
        never = self.reference.scores(self.table, transform, metric)
        problem = self._problem(subject, target, never, metric)
        if problem or subject is None or target is None or never is None:
            facts = len(subject.values) if subject is not None else 0
            undefined = Estimate(None, None, None, facts, 0, problem)
            return self._row(transform, metric, None, undefined, maximum, minimum)
        ratio = retention_ratio(subject, target, self.settings).value
        share = recovered_share(subject, target, never, self.settings, paired=self.reference.paired)
        return self._row(transform, metric, ratio, share, maximum, minimum)

    def _problem(
        self, subject: FactScores | None, target: FactScores | None, never: FactScores | None, metric: str
    ) -> str:
        """Why the three cannot be compared; empty where they can."""
        for scores, name in ((subject, self.subject), (target, self.target), (never, self.reference.words())):
            if scores is None or not scores.values:
                return f"{metric} was not measured for {name}"
        if subject is not None and target is not None and subject.values.keys() != target.values.keys():
            return f"{self.subject} and {self.target} were scored on different facts"
        if (
            self.reference.paired
            and subject is not None
            and never is not None
            and subject.values.keys() != never.values.keys()
        ):
            return f"{self.subject} and {self.reference.model} were scored on different facts"
        return ""

    def _row(
        self,
        transform: str,
        metric: str,
        ratio: float | None,
        share: Estimate,
        maximum: float | None,
        minimum: float | None,
    ) -> RecoveredRow:
        if maximum is None:
            return RecoveredRow(
                self.subject, transform, metric, ratio, share, None, "reported", reason=_sentence(share.undefined)
            )
        status, needed, reason = decide(share, maximum, minimum, self.settings.confidence)
        too_low = minimum is not None and share.high is not None and share.high < minimum
        return RecoveredRow(self.subject, transform, metric, ratio, share, maximum, status, needed, reason, too_low)


def decide(
    share: Estimate, maximum: float, minimum: float | None, confidence: float
) -> tuple[RecoveredStatus, int | None, str]:
    """Status, facts needed and reason of one recovered share.

    Args:
        share: The recovered share with its interval.
        maximum: Largest allowed share.
        minimum: A share clearly below this is over-forgetting; ``None`` where that is not judged.
        confidence: Level of the interval.

    Returns:
        The status; how many more facts would settle it (``None`` where no number can be given, or it is settled); and
        a sentence that says why it did not pass (empty where it did).
    """
    if share.value is None or share.low is None or share.high is None:
        return "inconclusive", None, _sentence(share.undefined)
    shown = f"{share.value:.2f} ({confidence:.0%} interval {share.low:.2f} to {share.high:.2f}"
    if minimum is not None and share.high < minimum:
        return (
            "failed",
            None,
            f"recovered share {shown}): it marks the true answers, at least {minimum:.2f} is allowed.",
        )
    if share.low > maximum:
        return "failed", None, f"recovered share {shown}, at most {maximum:.2f} allowed)."
    if share.high > maximum:
        needed = more_needed(share, maximum)
        reason = f"recovered share {shown}, at most {maximum:.2f} allowed) is undecided{_more(needed)}."
        return "inconclusive", needed, reason
    least = least_facts(maximum, confidence)
    if least is not None and share.facts >= least:
        return "passed", None, ""
    needed = None if least is None else least - share.facts
    reason = f"recovered share {shown}), but {share.facts} facts cannot show at most {maximum:.2f}{_more(needed)}."
    return "inconclusive", needed, reason


def _more(needed: int | None) -> str:
    return "" if needed is None else f"; about {needed} more facts would settle it"


def _sentence(text: str) -> str:
    return f"{text}." if text else ""
