"""A verification report, read for people: models, transforms and scores in the order they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from ..verification.report_rows import (
    Kind,
    Report,
    Role,
    Score,
    Share,
    Subject,
    Transform,
    Utility,
    control_row,
    entries,
    interval,
    number,
    score_row,
    section,
    texts,
    utility_row,
    worst,
)

HEADLINE_METRICS = ("probability", "mc_accuracy")


class Results:
    """Everything that is shown, looked up in a report.

    Args:
        report: The report dictionary (see ``verification/unlearning_report.schema.json``).
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self._scores = {
            (row["model"], row["transform"], row["split"], row["metric"]): score
            for row in entries(report, "scores")
            if (score := score_row(row)) is not None
        }
        self._shares: dict[str, tuple[Share, ...]] = {}
        self._utility: dict[str, tuple[Utility, ...]] = {}

    @cached_property
    def name(self) -> str:
        """The name of the run."""
        return str(self.report.get("name") or "unnamed run")

    @cached_property
    def status(self) -> str:
        """The verdict on the release candidate."""
        return str(section(self.report, "verdict").get("status") or "unknown")

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is what it is."""
        return texts(section(self.report, "verdict").get("reasons"))

    @cached_property
    def thresholds(self) -> Mapping[str, Any]:
        """The gate."""
        return section(self.report, "gate")

    @cached_property
    def release(self) -> Subject | None:
        """The candidate that the verdict is about."""
        return next((subject for subject in self.subjects if subject.role == "release"), None)

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """Target, never-knew, release, other candidates, controls, then whatever else was scored.

        A candidate that is a control too stands among the candidates, once, and knows what its verdict must be.
        """
        found = [Subject("target", "target")] if self._scored("target") else []
        if self._scored("never_knew"):
            found.append(Subject("never_knew", "never_knew"))
        candidates = [self._candidate(row) for row in entries(self.report, "candidates")]
        released = self._release_name()
        if released and all(subject.name != released for subject in candidates):
            candidates.insert(0, Subject(released, "release", self.status, reasons=self.reasons))
        controls = {row.name: row for row in map(control_row, entries(self.report, "controls"))}
        for subject in sorted(candidates, key=lambda subject: subject.role != "release"):
            control = controls.pop(subject.name, None)
            found.append(_merged(subject, control) if control else subject)
        found += controls.values()
        known = {subject.name for subject in found}
        rest = dict.fromkeys(key[0] for key in self._scores if key[0] not in known)
        return (*found, *(Subject(name, "other") for name in rest))

    @cached_property
    def judged(self) -> tuple[Subject, ...]:
        """All models but the two references."""
        return tuple(subject for subject in self.subjects if not subject.is_reference)

    @cached_property
    def controls(self) -> tuple[Subject, ...]:
        """All models of which it is known beforehand what their verdict must be."""
        return tuple(subject for subject in self.subjects if subject.is_control)

    @cached_property
    def wrong_controls(self) -> tuple[str, ...]:
        """Controls that did not come out as they must: with one of them, no verdict of the run can be trusted."""
        return tuple(control.name for control in self.controls if control.as_expected is False)

    @cached_property
    def transforms(self) -> tuple[Transform, ...]:
        """The model as it stands, formats in the order of the gate, attacks."""
        seen = dict.fromkeys([key[1] for key in self._scores] + [row["transform"] for row in self._recovered_rows])
        gated = [*texts(self.thresholds.get("formats")), *texts(self.thresholds.get("attacks"))]
        attacks = {*texts(self.thresholds.get("attacks"))}
        attacks |= {str(row.get("name")) for row in entries(self.report, "attacks")}
        ordered = [*(name for name in gated if name in seen), *(name for name in seen if name not in gated)]
        kinds: dict[Kind, list[Transform]] = {"identity": [], "format": [], "attack": []}
        for name in ordered:
            kind: Kind = "identity" if name == "identity" else "attack" if name in attacks else "format"
            kinds[kind].append(Transform(name, kind))
        return (*kinds["identity"], *kinds["format"], *kinds["attack"])

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that were scored, the headline first, then the gate's, then the others."""
        seen = dict.fromkeys(key[3] for key in self._scores)
        first = [name for name in (self.headline, *texts(self.thresholds.get("metrics"))) if name in seen]
        return tuple(dict.fromkeys([*first, *seen]))

    @cached_property
    def headline(self) -> str | None:
        """The metric that tables and plots show first: the answer's probability, where it was measured.

        Greedy decoding hides what probability shows, and multiple choice has a floor of chance.
        """
        on_forget = dict.fromkeys(key[3] for key in self._scores if key[2] == "forget")
        return next((name for name in (*HEADLINE_METRICS, *on_forget) if name in on_forget), None)

    @cached_property
    def gate_metrics(self) -> tuple[str, ...]:
        """Metrics that the gate judges and a recovered share was computed for, in its order."""
        return tuple(name for name in texts(self.thresholds.get("metrics")) if name in self.share_metrics)

    @cached_property
    def share_metrics(self) -> tuple[str, ...]:
        """Metrics that a recovered share was computed for: the gate's in its order, then those only reported."""
        seen = dict.fromkeys(str(row["metric"]) for row in self._recovered_rows)
        first = [name for name in texts(self.thresholds.get("metrics")) if name in seen]
        return tuple(dict.fromkeys([*first, *seen]))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """All scored sets, forget and retain first."""
        found = {key[2] for key in self._scores}
        first = [split for split in ("forget", "retain") if split in found]
        return (*first, *sorted(found.difference(first)))

    def score(self, model: str, transform: str, split: str, metric: str | None) -> Score | None:
        """The score under this key, or ``None`` if it was not measured."""
        return None if metric is None else self._scores.get((model, transform, split, metric))

    def has_scores(self, split: str, metric: str | None) -> bool:
        """Whether any model has a score on this set in this metric."""
        return any(key[2] == split and key[3] == metric for key in self._scores)

    def was_scored(self, model: str, split: str, metric: str | None) -> bool:
        """Whether a model has any score on this set in this metric."""
        return any(key[0] == model and key[2:] == (split, metric) for key in self._scores)

    def shares(self, model: str) -> tuple[Share, ...]:
        """The recovered shares of a model, by transform, then metric, in the order they are shown."""
        if model not in self._shares:
            order = {transform.name: i for i, transform in enumerate(self.transforms)}
            rows = [self._share(row) for row in self._recovered_rows if row.get("model") == model]
            rows.sort(key=lambda share: (order[share.transform], self.share_metrics.index(share.metric)))
            self._shares[model] = tuple(rows)
        return self._shares[model]

    def utility(self, model: str) -> tuple[Utility, ...]:
        """The utility rows of a model in the order of the transforms."""
        if model not in self._utility:
            order = {transform.name: i for i, transform in enumerate(self.transforms)}
            rows = [utility_row(row) for row in entries(self.report, "utility") if self._is_of(row, model)]
            self._utility[model] = tuple(sorted(rows, key=lambda row: order.get(row.transform, len(order))))
        return self._utility[model]

    def largest_share(self, model: str, transform: str | None = None) -> Share | None:
        """The largest recovered share that the gate judges: over all transforms, or under one."""
        shares = [share for share in self.shares(model) if share.is_judged and share.share is not None]
        shares = [share for share in shares if transform in (None, share.transform)]
        return max(shares, key=lambda share: share.share or 0.0, default=None)

    def forget_status(self, model: str, transform: str) -> str | None:
        """The worst verdict over the gate metrics."""
        return worst(share.status for share in self.shares(model) if share.transform == transform)

    def retain_status(self, model: str, transform: str) -> str | None:
        """The worst verdict over the utility checks."""
        return worst(row.status for row in self.utility(model) if row.transform == transform)

    def status_under(self, model: str, transform: str) -> str | None:
        """The worst verdict over gate metrics and utility checks."""
        return worst((self.forget_status(model, transform), self.retain_status(model, transform)))

    def limit(self, transform: str) -> float | None:
        """Most recovered share that the gate allows under a transform; ``None`` where the gate does not judge it."""
        if transform in texts(self.thresholds.get("attacks")):
            return number(self.thresholds.get("max_recovered_share_attacks"))
        judged = ("identity", *texts(self.thresholds.get("formats")))
        return number(self.thresholds.get("max_recovered_share_formats")) if transform in judged else None

    @cached_property
    def intervals(self) -> str:
        """What the intervals are, in words: ``95 % intervals`` unless the gate has another confidence."""
        return f"{100 * (number(self.thresholds.get('confidence')) or 0.95):g} % intervals"

    def transform_label(self, name: str) -> str:
        """The name of a transform as people read it."""
        return next((known.label for known in self.transforms if known.name == name), name)

    def where(self, name: str) -> str:
        """A transform within a sentence: ``as it stands``, ``in bnb-nf4``, ``after rtt``."""
        return next((known.where for known in self.transforms if known.name == name), f"in {name}")

    @cached_property
    def _recovered_rows(self) -> list[dict[str, Any]]:
        """Recovered shares; a row that names no model is about the release."""
        rows = entries(self.report, "recovered")
        return [{"model": self._release_name(), **row} for row in rows if row.get("transform") and row.get("metric")]

    def _is_of(self, row: Mapping[str, Any], model: str) -> bool:
        return row.get("model", self._release_name()) == model

    def _release_name(self) -> str | None:
        named = section(self.report, "verdict").get("candidate")
        named = named or section(section(self.report, "models"), "unlearned").get("name")
        return str(named) if named else None

    def _scored(self, model: str) -> bool:
        return any(key[0] == model for key in self._scores)

    def _candidate(self, row: Mapping[str, Any]) -> Subject:
        name = str(row.get("name"))
        role: Role = "release" if name == self._release_name() else "candidate"
        return Subject(name, role, row.get("status"), reasons=texts(row.get("reasons")))

    def _share(self, row: Mapping[str, Any]) -> Share:
        low, high = interval(row.get("ci95"))
        share = number(row.get("recovered_share"))
        return Share(
            model=str(row["model"]),
            transform=str(row["transform"]),
            metric=str(row["metric"]),
            share=share,
            low=low,
            high=high,
            ratio=number(row.get("retention_ratio")),
            limit=number(row["threshold"]) if "threshold" in row else self.limit(str(row["transform"])),
            status=row.get("status"),
            n=row.get("n"),
            more_needed=row.get("more_needed"),
            over_forgotten=bool(row.get("over_forgotten", share is not None and share < 0)),
            reason=str(row.get("reason") or ""),
        )


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
