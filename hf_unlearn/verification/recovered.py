"""How much of what was to be forgotten is there, judged against a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from .intervals import Bootstrap, Drawn, Estimate, difference, drawn_share, least_groups, more_needed, retention_ratio
from .references import Floors, Reference
from .scores import FactScores, ScoreTable
from .simultaneous import Family
from .typed_json import Maybe, Schema, Stated
from .values import Count, Interval, finite

RecoveredStatus = Annotated[
    Literal["passed", "failed", "inconclusive", "reported"], Schema("reported: outside the gate.")
]


@dataclass(frozen=True)
class RecoveredRow:
    """How much of the forgotten knowledge is there under one transform, by one metric: a row of the report.

    Attributes:
        model: The judged model.
        transform: The transform.
        metric: The metric.
        retention_ratio: Score as a share of the target's; ``None`` where the target's is zero.
        recovered_share: 0 is a model that never knew, 1 is the target; ``None`` where it is undefined.
        ci95: Interval of the share.
        joint95: The interval that holds for all judged shares at once; ``None`` where the gate does not judge this
            number, or it has no interval.
        threshold: Largest allowed share; ``None`` where the gate does not judge this number.
        status: ``reported`` where the gate does not judge it.
        n: Facts it rests on.
        more_needed: Facts to add that would settle an inconclusive one; ``None`` where no number can be given.
        reason: Why it did not pass; empty where it did.
        over_forgotten: Whether it failed because the share is clearly too low. The oldest reports do not say it.
    """

    model: str
    transform: str
    metric: str
    retention_ratio: float | None
    recovered_share: float | None
    ci95: Interval
    joint95: Annotated[
        Interval,
        Schema("The interval that holds for all judged shares at once, by which a share fails.", since="1.2"),
    ]
    threshold: float | None
    status: Stated[RecoveredStatus]
    n: Stated[Count]
    more_needed: Annotated[int | None, Schema(minimum=1)] = None
    reason: str = ""
    over_forgotten: Maybe[bool] = False

    @property
    def is_judged(self) -> bool:
        """Whether the gate judges it; others are only reported."""
        return self.threshold is not None

    @property
    def marks_the_answer(self) -> bool:
        """Whether it lies clearly below a model that never knew."""
        if self.over_forgotten is None:
            return self.recovered_share is not None and self.recovered_share < 0
        return self.over_forgotten

    @property
    def still_known(self) -> bool:
        """Whether it failed because forgotten knowledge is there."""
        return self.status == "failed" and not self.marks_the_answer


@dataclass(frozen=True)
class MeasuredShare:
    """A recovered share before it is judged.

    Attributes:
        transform: The transform.
        metric: The metric.
        retention_ratio: Score as a share of the target's; ``None`` where the target's is zero.
        share: The recovered share with what its interval was read from.
    """

    transform: str
    metric: str
    retention_ratio: float | None
    share: Drawn


@dataclass(frozen=True)
class Limits:
    """What a recovered share may be.

    Attributes:
        maximum: Largest allowed share.
        minimum: A share clearly below this is over-forgetting; ``None`` where that is not judged.
    """

    maximum: float
    minimum: float | None = None


@dataclass(frozen=True)
class ShareMeter:
    """Measures one transform and metric at a time.

    Attributes:
        table: Scores of all models.
        subject: The judged model.
        target: The target model.
        floors: What never knew, by transform.
        split: The set that was to be forgotten.
        settings: How intervals are made.
    """

    table: ScoreTable
    subject: str
    target: str
    floors: Floors
    split: str
    settings: Bootstrap

    def __call__(self, transform: str, metric: str) -> MeasuredShare:
        """The recovered share; undefined, with its reason, where something was not measured."""
        subject = self.table.get(self.subject, transform, self.split, metric)
        target = self.table.get(self.target, transform, self.split, metric)
        reference = self.floors.under(transform)
        never = reference.scores(self.table, transform, metric)
        problem = (
            self.floors.problem(self.table, transform)
            or self._problem(subject, target, never, reference, metric)
            or self._gap_problem(target, reference, transform, metric)
        )
        if problem or subject is None or target is None or never is None:
            facts = len(subject.values) if subject is not None else 0
            return MeasuredShare(transform, metric, None, Drawn(Estimate(None, None, None, facts, 0, problem)))
        ratio = retention_ratio(subject, target, self.settings).value
        share = drawn_share(subject, target, never, self.settings, paired=reference.paired)
        return MeasuredShare(transform, metric, ratio, share)

    def _problem(
        self,
        subject: FactScores | None,
        target: FactScores | None,
        never: FactScores | None,
        reference: Reference,
        metric: str,
    ) -> str:
        """Why the three cannot be compared; empty where they can."""
        for scores, name in ((subject, self.subject), (target, self.target), (never, reference.words())):
            if scores is None or not scores.values:
                return f"{metric} was not measured for {name}"
        if subject is not None and target is not None and subject.values.keys() != target.values.keys():
            return f"{self.subject} and {self.target} were scored on different facts"
        if (
            reference.paired
            and subject is not None
            and never is not None
            and subject.values.keys() != never.values.keys()
        ):
            return f"{self.subject} and {reference.model} were scored on different facts"
        return ""

    def _gap_problem(self, target: FactScores | None, reference: Reference, transform: str, metric: str) -> str:
        """Why an attack leaves nothing to compare with where holdout facts of the judged model are the floor.

        The floor is another model's, so it is asked of the target alone whether it still knows more of the forget
        set than of facts that it never knew. Empty where it does, and wherever the floor is the target's own.
        """
        if reference.paired or reference.model == self.target or target is None:
            return ""
        own = self.table.get(self.target, transform, reference.split, metric)
        if own is None or not own.values:
            return f"{metric} was not measured for {self.target!r} on the {reference.split} set"
        gap = difference(target, own, self.settings, paired=False).interval
        if gap is not None and gap[0] <= 0:
            return (
                f"{self.target!r} does not clearly know more of the {self.split} set than of the {reference.split} "
                "set after the same attack"
            )
        return ""


def reported(model: str, measured: MeasuredShare) -> RecoveredRow:
    """A share that stands outside the gate."""
    share = measured.share.estimate
    return RecoveredRow(
        model=model,
        transform=measured.transform,
        metric=measured.metric,
        retention_ratio=finite(measured.retention_ratio),
        recovered_share=finite(share.value),
        ci95=share.interval,
        joint95=None,
        threshold=None,
        status="reported",
        n=share.facts,
        reason=_sentence(share.undefined),
    )


def judged(model: str, measured: MeasuredShare, limits: Limits, family: Family) -> RecoveredRow:
    """A share of the gate, held against its limits."""
    share = measured.share.estimate
    joint = family.interval(share)
    status, needed, reason = decide(share, joint, limits, family)
    too_low = status == "failed" and limits.minimum is not None and joint is not None and joint[1] < limits.minimum
    return replace(
        reported(model, measured),
        threshold=limits.maximum,
        status=status,
        more_needed=needed,
        reason=reason,
        over_forgotten=too_low,
        joint95=joint,
    )


def decide(
    share: Estimate, joint: tuple[float, float] | None, limits: Limits, family: Family
) -> tuple[RecoveredStatus, int | None, str]:
    """Status, facts needed and reason of one recovered share.

    A pass is decided by the share's own interval, a failure by the one that holds for all shares at once: see
    :mod:`~hf_unlearn.verification.simultaneous`.

    Args:
        share: The recovered share with its own interval.
        joint: Its joint interval.
        limits: What it may be.
        family: What it is judged together with.

    Returns:
        The status; how many more facts would settle it (``None`` where no number can be given, or it is settled); and
        a sentence that says why it did not pass (empty where it did).
    """
    if share.value is None or share.low is None or share.high is None or joint is None:
        return "inconclusive", None, _sentence(share.undefined)
    maximum, minimum = limits.maximum, limits.minimum
    shown = f"{share.value:.2f} ({family.confidence:.0%} interval {share.low:.2f} to {share.high:.2f}"
    if minimum is not None and joint[1] < minimum:
        reason = f"recovered share {shown}): it marks the true answers, at least {minimum:.2f} is allowed."
        return "failed", None, reason
    if joint[0] > maximum:
        return "failed", None, f"recovered share {shown}, at most {maximum:.2f} allowed)."
    if share.low > maximum:
        needed = more_needed(share, joint, maximum, family.confidence)
        return "inconclusive", needed, _only_alone(shown, maximum, joint, family, needed)
    if minimum is not None and share.high < minimum:
        mirrored = replace(share, value=-share.value, low=-share.high, high=-share.low)
        needed = more_needed(mirrored, (-joint[1], -joint[0]), -minimum, family.confidence)
        return "inconclusive", needed, _only_alone(shown, minimum, joint, family, needed)
    least = least_groups(maximum, family.confidence)
    if least is None or share.groups < least:
        needed = None if least is None else math.ceil((least - share.groups) * share.facts / share.groups)
        more = more_needed(share, joint, maximum, family.confidence)
        needed = needed if more is None or needed is None else max(needed, more)
        counted = f"{share.groups} facts" if share.groups == share.facts else f"{share.groups} groups of facts"
        reason = f"recovered share {shown}), but {counted} cannot show at most {maximum:.2f}{_more(needed)}."
        return "inconclusive", needed, reason
    if share.high > maximum:
        needed = more_needed(share, joint, maximum, family.confidence)
        reason = f"recovered share {shown}, at most {maximum:.2f} allowed) is undecided{_more(needed)}."
        return "inconclusive", needed, reason
    return "passed", None, ""


def _only_alone(shown: str, limit: float, joint: tuple[float, float], family: Family, needed: int | None) -> str:
    return (
        f"recovered share {shown}, limit {limit:.2f}) is outside by itself, but not with all {family.comparisons} "
        f"shares taken together ({joint[0]:.2f} to {joint[1]:.2f}){_more(needed)}."
    )


def _more(needed: int | None) -> str:
    return "" if needed is None else f"; about {needed} more facts would settle it"


def _sentence(text: str) -> str:
    return f"{text}." if text else ""
