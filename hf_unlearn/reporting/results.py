"""A verification report, read for people: models, transforms and scores in the order they are shown.

Reports of other versions, of audits without a never-knew model, or with metrics left out are read as far as possible.
What is missing is ``None``, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ..verification.controls import ControlOutcome
from ..verification.forgotten_rows import ForgottenRowsRow
from ..verification.gate import Gate
from ..verification.recovered import RecoveredRow
from ..verification.references import IDENTITY
from ..verification.report import CandidateOutcome, Report
from ..verification.scores import ScoreRow
from ..verification.single_facts import KnownFactsRow
from ..verification.utility import UtilityRow
from ..verification.values import Interval, Status

HEADLINE_METRICS = ("probability", "mc_accuracy")
Role = Literal["target", "never_knew", "release", "candidate", "control", "other"]
Kind = Literal["identity", "format", "attack"]

# A worse status hides a better one when a cell sums up several.
_SEVERITY = {"passed": 1, "inconclusive": 2, "failed": 3}


def worst(statuses: Iterable[str | None]) -> str | None:
    """The worst of several verdicts; ``None`` if none of them is a verdict."""
    known = [status for status in statuses if status in _SEVERITY]
    return max(known, key=lambda status: _SEVERITY[status]) if known else None


def severity(status: str | None) -> int:
    """How bad a verdict is; 0 for what is none."""
    return _SEVERITY.get(status or "", 0)


@dataclass(frozen=True)
class Subject:
    """A scored model.

    Attributes:
        name: As in the report.
        role: What it is there for; ``release`` is the candidate that the verdict is about.
        status: Its own verdict (references have none).
        expected: The verdict that a control must get. A candidate that is a control too has one as well.
        as_expected: Whether a control got it.
        caught_by: Transforms that caught a control.
        required_by: Transforms that had to be among them.
        reasons: Why it got its verdict.
    """

    name: str
    role: Role
    status: Status | None = None
    expected: Literal["passed", "failed"] | None = None
    as_expected: bool | None = None
    caught_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name as people write it."""
        return "never-knew" if self.name == "never_knew" else self.name

    @property
    def is_reference(self) -> bool:
        """Whether other models are measured against this one."""
        return self.role in ("target", "never_knew")

    @property
    def is_control(self) -> bool:
        """Whether its verdict is known beforehand."""
        return self.role == "control" or self.expected is not None

    @property
    def role_words(self) -> str:
        """What it is there for, as people read it."""
        role = {"target": "knows it all", "never_knew": "retrained model", "other": ""}.get(self.role, self.role)
        return f"{role} and control" if self.is_control and self.role != "control" else role


@dataclass(frozen=True)
class Transform:
    """Something done to a model before it is scored."""

    name: str
    kind: Kind

    @property
    def label(self) -> str:
        """The name as people read it."""
        return "as is" if self.kind == "identity" else self.name

    @property
    def where(self) -> str:
        """The name within a sentence: ``as it stands``, ``in bnb-nf4``, ``after rtt``."""
        if self.kind == "identity":
            return "as it stands"
        return f"{'after' if self.kind == 'attack' else 'in'} {self.name}"


class Results:
    """Everything that is shown, looked up in a report.

    Args:
        document: The report as JSON has it (see ``verification/unlearning_report.schema.json``).
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.report = Report.from_json(document)
        self._scores = {
            (row.model, row.transform, row.split, row.metric): row
            for row in self.report.scores
            if row.value is not None and all((row.model, row.transform, row.split, row.metric))
        }
        self._shares: dict[str, tuple[RecoveredRow, ...]] = {}
        self._utility: dict[str, tuple[UtilityRow, ...]] = {}

    @cached_property
    def name(self) -> str:
        """The name of the run."""
        return self.report.name or "unnamed run"

    @cached_property
    def status(self) -> str:
        """The verdict on the release candidate."""
        return self.report.verdict.status or "unknown"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is what it is."""
        return self.report.verdict.reasons

    @property
    def gate(self) -> Gate | None:
        """The thresholds; ``None`` unless all are there."""
        return self.report.gate

    @cached_property
    def release(self) -> Subject | None:
        """The candidate that the verdict is about."""
        return next((subject for subject in self.subjects if subject.role == "release"), None)

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """Target, never-knew, release, other candidates, controls, then whatever else was scored.

        A candidate that is also a control is listed once, among the candidates, with its expected verdict.
        """
        found = [Subject("target", "target")] if self._scored("target") else []
        if self._scored("never_knew"):
            found.append(Subject("never_knew", "never_knew"))
        candidates = [self._candidate(row) for row in self.report.candidates]
        released = self._release_name
        if released and all(subject.name != released for subject in candidates):
            candidates.insert(0, Subject(released, "release", self.report.verdict.status, reasons=self.reasons))
        controls = {row.name: _control(row) for row in self.report.controls}
        for subject in sorted(candidates, key=lambda subject: subject.role != "release"):
            control = controls.pop(subject.name, None)
            found.append(_merged(subject, control) if control else subject)
        found += controls.values()
        known = {subject.name for subject in found}
        rest = dict.fromkeys(model for model, *_ in self._scores if model not in known)
        return (*found, *(Subject(name, "other") for name in rest))

    @cached_property
    def judged(self) -> tuple[Subject, ...]:
        """All models but the two references."""
        return tuple(subject for subject in self.subjects if not subject.is_reference)

    @cached_property
    def controls(self) -> tuple[Subject, ...]:
        """All models whose verdict is known beforehand."""
        return tuple(subject for subject in self.subjects if subject.is_control)

    @cached_property
    def wrong_controls(self) -> tuple[str, ...]:
        """Controls that did not come out as they must: with one of them, no verdict of the run can be trusted."""
        return tuple(control.name for control in self.controls if control.as_expected is False)

    @cached_property
    def transforms(self) -> tuple[Transform, ...]:
        """The model as it stands, formats in the order of the gate, attacks."""
        seen = dict.fromkeys([key[1] for key in self._scores] + [row.transform for row in self._recovered])
        gated = (*self.gate.formats, *self.gate.attacks) if self.gate else ()
        attacks = {*(self.gate.attacks if self.gate else ()), *(run.name for run in self.report.attacks)}
        ordered = [*(name for name in gated if name in seen), *(name for name in seen if name not in gated)]
        kinds: dict[Kind, list[Transform]] = {"identity": [], "format": [], "attack": []}
        for name in ordered:
            kind: Kind = "identity" if name == IDENTITY else "attack" if name in attacks else "format"
            kinds[kind].append(Transform(name, kind))
        return (*kinds["identity"], *kinds["format"], *kinds["attack"])

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that were scored, the headline first, then the gate's, then the others."""
        seen = dict.fromkeys(key[3] for key in self._scores)
        first = [name for name in (self.headline, *self._gated_metrics) if name in seen]
        return tuple(name for name in dict.fromkeys([*first, *seen]) if name is not None)

    @cached_property
    def headline(self) -> str | None:
        """The metric that tables and plots show first: the answer's probability, if it was measured.

        Greedy decoding hides what probability shows, and multiple choice has a floor of chance.
        """
        on_forget = dict.fromkeys(key[3] for key in self._scores if key[2] == "forget")
        return next((name for name in (*HEADLINE_METRICS, *on_forget) if name in on_forget), None)

    @cached_property
    def gate_metrics(self) -> tuple[str, ...]:
        """Metrics that the gate judges and a recovered share was computed for, in its order."""
        return tuple(name for name in self._gated_metrics if name in self.share_metrics)

    @cached_property
    def share_metrics(self) -> tuple[str, ...]:
        """Metrics that a recovered share was computed for: the gate's in its order, then those only reported."""
        seen = dict.fromkeys(row.metric for row in self._recovered)
        first = [name for name in self._gated_metrics if name in seen]
        return tuple(dict.fromkeys([*first, *seen]))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """All scored sets, forget and retain first."""
        found = {key[2] for key in self._scores}
        first = [split for split in ("forget", "retain") if split in found]
        return (*first, *sorted(found.difference(first)))

    def score(self, model: str, transform: str, split: str, metric: str | None) -> ScoreRow | None:
        """The score under this key, or ``None`` if it was not measured."""
        return None if metric is None else self._scores.get((model, transform, split, metric))

    def value(self, model: str, transform: str, split: str, metric: str | None) -> float | None:
        """The mean under this key, or ``None`` if it was not measured."""
        found = self.score(model, transform, split, metric)
        return found.value if found else None

    def floor(self, model: str, transform: str, split: str, metric: str | None) -> float | None:
        """The score that stands for never having known: the 0 of a model's recovered share.

        Without a never-knew model it is that of holdout facts: the target's, and after an attack, which teaches the
        form of the answers, the attacked model's own (:class:`~hf_unlearn.verification.references.AttackFloor`). The
        retain set has no such substitute.
        """
        if self.report.models.never_knew is not None:
            return self.value("never_knew", transform, split, metric)
        known = self.transform(transform)
        asked = model if known is not None and known.kind == "attack" else "target"
        return self.value(asked, transform, "holdout", metric) if split == "forget" else None

    def interval(self, model: str, transform: str, split: str, metric: str | None) -> Interval:
        """The interval of that mean, or ``None`` if it has none."""
        found = self.score(model, transform, split, metric)
        return found.ci95 if found else None

    def has_scores(self, split: str, metric: str | None) -> bool:
        """Whether any model has a score on this set in this metric."""
        return any(key[2] == split and key[3] == metric for key in self._scores)

    def was_scored(self, model: str, split: str, metric: str | None) -> bool:
        """Whether a model has any score on this set in this metric."""
        return any(key[0] == model and key[2:] == (split, metric) for key in self._scores)

    def shares(self, model: str) -> tuple[RecoveredRow, ...]:
        """The recovered shares of a model, by transform, then metric, in the order they are shown."""
        if model not in self._shares:
            order = {transform.name: i for i, transform in enumerate(self.transforms)}
            rows = [row for row in self._recovered if row.model == model]
            rows.sort(key=lambda row: (order[row.transform], self.share_metrics.index(row.metric)))
            self._shares[model] = tuple(rows)
        return self._shares[model]

    def utility(self, model: str) -> tuple[UtilityRow, ...]:
        """The utility rows of a model in the order of the transforms."""
        if model not in self._utility:
            order = {transform.name: i for i, transform in enumerate(self.transforms)}
            rows = [row for row in self.report.utility if (row.model or self._release_name) == model]
            self._utility[model] = tuple(sorted(rows, key=lambda row: order.get(row.transform, len(order))))
        return self._utility[model]

    def known_facts(self, model: str) -> tuple[KnownFactsRow, ...]:
        """Counts of single facts that a model still knows, by transform; none in reports before version 1.3."""
        order = {transform.name: i for i, transform in enumerate(self.transforms)}
        rows = [row for row in self.report.known_facts if row.model == model]
        return tuple(sorted(rows, key=lambda row: order.get(row.transform, len(order))))

    def forgotten_rows(self, model: str) -> tuple[ForgottenRowsRow, ...]:
        """How well a model tells forgotten rows from holdout rows, by transform; none before version 1.5."""
        order = {transform.name: i for i, transform in enumerate(self.transforms)}
        rows = [row for row in self.report.forgotten_rows if row.model == model]
        return tuple(sorted(rows, key=lambda row: order.get(row.transform, len(order))))

    def largest_share(self, model: str, transform: str | None = None) -> RecoveredRow | None:
        """The largest recovered share that the gate judges: over all transforms, or under one."""
        shares = [row for row in self.shares(model) if row.is_judged and row.recovered_share is not None]
        shares = [row for row in shares if transform in (None, row.transform)]
        return max(shares, key=lambda row: row.recovered_share or 0.0, default=None)

    def forget_status(self, model: str, transform: str) -> str | None:
        """The worst verdict over recovered shares, counts of single facts, and whether forgotten rows can be told."""
        rows: list[RecoveredRow | KnownFactsRow | ForgottenRowsRow] = [
            *self.shares(model),
            *self.known_facts(model),
            *self.forgotten_rows(model),
        ]
        return worst(row.status for row in rows if row.transform == transform)

    def retain_status(self, model: str, transform: str) -> str | None:
        """The worst verdict over the utility checks."""
        return worst(row.status for row in self.utility(model) if row.transform == transform)

    def status_under(self, model: str, transform: str) -> str | None:
        """The worst verdict over gate metrics and utility checks."""
        return worst((self.forget_status(model, transform), self.retain_status(model, transform)))

    def only_run(self, model: str) -> list[str]:
        """Transforms that a model was scored under and the gate does not judge, in the order they are shown."""
        shares = self.shares(model)
        judged = {row.transform for row in shares if row.is_judged}
        return list(dict.fromkeys(row.transform for row in shares if row.transform not in judged))

    def limit(self, transform: str) -> float | None:
        """Most recovered share that the gate allows under a transform; ``None`` if the gate does not judge it."""
        return self.gate.limit(transform) if self.gate else None

    @cached_property
    def intervals(self) -> str:
        """What the intervals are, in words: ``95 % intervals`` unless the gate has another confidence."""
        return f"{100 * (self.gate.confidence if self.gate else 0.95):g} % intervals"

    def transform(self, name: str) -> Transform | None:
        """The transform of this name, if anything was measured under it."""
        return next((known for known in self.transforms if known.name == name), None)

    def transform_label(self, name: str) -> str:
        """The name of a transform as people read it."""
        known = self.transform(name)
        return known.label if known else name

    def where(self, name: str) -> str:
        """A transform within a sentence: ``as it stands``, ``in bnb-nf4``, ``after rtt``."""
        known = self.transform(name)
        return known.where if known else f"in {name}"

    @cached_property
    def _recovered(self) -> list[RecoveredRow]:
        """Recovered shares; a row that names no model is about the release."""
        rows = (row for row in self.report.recovered if row.transform and row.metric)
        return [row if row.model else replace(row, model=self._release_name) for row in rows]

    @property
    def _gated_metrics(self) -> tuple[str, ...]:
        return self.gate.metrics if self.gate else ()

    @cached_property
    def _release_name(self) -> str:
        return self.report.verdict.candidate or self.report.models.unlearned.name

    def _scored(self, model: str) -> bool:
        return any(key[0] == model for key in self._scores)

    def _candidate(self, row: CandidateOutcome) -> Subject:
        role: Role = "release" if row.name == self._release_name else "candidate"
        return Subject(row.name, role, row.status, reasons=row.reasons)


def _control(row: ControlOutcome) -> Subject:
    as_expected = row.ok
    if as_expected is None and row.status and row.expected:
        as_expected = row.status == row.expected
    return Subject(row.name, "control", row.status, row.expected, as_expected, row.caught_by, row.required_by)


def _merged(candidate: Subject, control: Subject) -> Subject:
    """A candidate that is a control too."""
    return replace(
        candidate,
        status=candidate.status or control.status,
        expected=control.expected,
        as_expected=control.as_expected,
        caught_by=control.caught_by,
        required_by=control.required_by,
    )
