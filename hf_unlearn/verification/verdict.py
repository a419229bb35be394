"""The verdict: what the gate says about one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from .forgotten_rows import ForgottenRowsRow, judge_forgotten_rows
from .gate import Gate, left_out_sentences, metrics_under
from .intervals import Bootstrap, needed_groups
from .outcomes import TransformOutcome, outcomes_of
from .recovered import Limits, RecoveredRow, ShareMeter, judged, reported
from .references import (
    IDENTITY,
    NOT_KNOWLEDGE,
    AttackFloor,
    Floors,
    check_target_knows,
    find_floors,
    judged_metrics,
    leaking_metrics,
)
from .scores import ScoreTable
from .simultaneous import Family, family_of
from .single_facts import COMBINED, CountedFacts, KnownFactsRow, ask, combine, count_facts, judge_counts
from .utility import UtilityRow, judge_utility, utility_metrics
from .values import Status

RULES = 3
"""Raised whenever the same scores would be judged differently, so that finished verdicts are made again."""

JudgedRow = RecoveredRow | KnownFactsRow | UtilityRow | ForgottenRowsRow


@dataclass(frozen=True)
class Judgement:
    """The verdict on one model.

    Attributes:
        subject: The judged model.
        status: ``inconclusive`` if the never-knew model knows what it must not; otherwise ``failed`` if anything
            failed; otherwise ``inconclusive`` if anything is undecided or was not tested; otherwise ``passed``.
        reasons: Short sentences for people, the weightiest first.
        recovered: Recovered shares, judged ones and those only reported.
        known_facts: How many single facts are still known.
        utility: Utility numbers.
        caught_by: Transforms under which forgotten knowledge is there: what a positive control must be caught by.
        not_tested: Transforms of the gate and kinds of score that were not tested.
        notes: What a reader must know to read the numbers.
        outcomes: What came of every transform of the gate that was tested.
        family: The recovered shares that were judged together.
        forgotten_rows: How well forgotten rows are told from holdout rows.
    """

    subject: str
    status: Status
    reasons: tuple[str, ...]
    recovered: tuple[RecoveredRow, ...]
    known_facts: tuple[KnownFactsRow, ...]
    utility: tuple[UtilityRow, ...]
    caught_by: tuple[str, ...]
    not_tested: tuple[str, ...]
    notes: tuple[str, ...]
    outcomes: tuple[TransformOutcome, ...]
    family: Family
    forgotten_rows: tuple[ForgottenRowsRow, ...] = ()


def judge(
    table: ScoreTable,
    subject: str,
    gate: Gate,
    *,
    never: str = "never_knew",
    target: str = "target",
    reference_split: str = "forget",
    seed: int = 0,
    attack_floor: AttackFloor = AttackFloor.UNLEARNED,
    with_utility: bool = True,
) -> Judgement:
    """Judge one model by a gate that stood before the run.

    For every transform of the gate and every gate metric that is measured there
    (:mod:`~hf_unlearn.verification.gate`) the recovered share has *passed* if its whole interval is at or under
    the allowed share, *failed* if all of the interval that holds for every judged share at once is above
    (:mod:`~hf_unlearn.verification.simultaneous`), and is *inconclusive* otherwise. A pass also needs as many groups
    of facts as :func:`~hf_unlearn.verification.intervals.least_groups` says. A joint interval wholly under
    ``gate.min_recovered_share``, as the model stands or in a format, is over-forgetting (*failed*). No more single
    facts may be known than a model that never knew shows (:mod:`~hf_unlearn.verification.single_facts`). Utility must
    hold under the same transform; under an attack it is judged only where it was scored. With
    ``gate.max_forgotten_rows_auc`` forgotten rows must not be told from others
    (:mod:`~hf_unlearn.verification.forgotten_rows`).

    Args:
        table: Scores of all models.
        subject: Name of the judged model: a method or a control.
        gate: Thresholds, metrics and transforms.
        never: Name of the never-knew model. Without scores of it the target's scores on the holdout set stand in,
            and under attacks those that ``attack_floor`` names.
        target: Name of the target model.
        reference_split: The set that was to be forgotten.
        seed: Seed of the bootstrap.
        attack_floor: What stands in for a never-knew model under attacks, where there is none.
        with_utility: Whether use, and whether forgotten rows are told from others, is judged too. ``False`` where
            another judgement of the same model does that.

    Returns:
        The judgement.

    Raises:
        RequestError: The subject has no scores, there is nothing to compare with, no gate metric was scored, or the
            target does not know what was to be forgotten.
    """
    if not any(key.model == subject and key.split == reference_split for key in table.scores):
        raise RequestError(f"there are no {reference_split} scores of {subject!r}, so it cannot be judged")
    settings = Bootstrap(gate.draws, gate.confidence, seed)
    floors = find_floors(table, never, target, subject, reference_split, gate.attacks, attack_floor)
    metrics = judged_metrics(table, target, reference_split, gate.metrics)
    check_target_knows(table, target, floors.plain, reference_split, metrics, settings)

    measure = ShareMeter(table, subject, target, floors, reference_split, settings)
    transforms = (IDENTITY, *(name for name in (*gate.formats, *gate.attacks) if name != IDENTITY))
    scored = [name for name in transforms if _has_scores(table, subject, name, reference_split)]
    untested = [name for name in transforms if name not in scored]
    asked = {name: metrics_under(name, metrics, gate, table, (target, subject), reference_split) for name in scored}
    tested = [name for name in scored if asked[name]]
    measured = [measure(transform, metric) for transform in tested for metric in asked[transform]]
    family = family_of([one.share for one in measured], gate.confidence)
    recovered = [judged(subject, one, _limits(gate, one.transform), family) for one in measured]
    utility = [
        row
        for name in (scored if with_utility else ())
        for row in judge_utility(table, subject, target, name, gate, asked_for=name not in gate.attacks)
    ]
    counts = [
        count
        for transform in tested
        if not floors.problem(table, transform)
        for count in _counts(table, subject, target, floors, reference_split, transform, asked)
    ]
    known_facts = judge_counts(subject, counts, gate.max_known_facts, settings)
    plain = [name for name in scored if name not in gate.attacks]
    told = judge_forgotten_rows(table, subject, never, plain, gate.max_forgotten_rows_auc) if with_utility else []
    outcomes = outcomes_of(tested, gate.attacks, recovered, known_facts, utility, told)
    recovered += _reported_only(table, measure, {(row.transform, row.metric) for row in recovered})

    leaks = leaking_metrics(table, target, floors.plain, metrics, settings)
    no_retain = with_utility and not utility_metrics(table, target, gate)
    no_generic = with_utility and not any(row.kind == "generic_kl" for row in utility)
    blocking = [f"{name} is in the gate and was not tested." for name in untested]
    blocking += [
        f"{name} is in the gate, and none of {', '.join(metrics)} was measured under it."
        for name in scored
        if name not in tested
    ]
    judged_by = {name: asked[name] for name in tested}
    blocking += ["Whether it keeps its use was not tested: the retain set has no scores."] * no_retain
    if with_utility and gate.max_forgotten_rows_auc is not None:
        measured_under = {row.transform for row in told}
        blocking += [
            f"Whether forgotten rows can be told from others was not measured under {name}: it takes holdout rows."
            for name in plain
            if name not in measured_under
        ]
    rows: list[JudgedRow] = [*recovered, *known_facts, *utility, *told]
    # Against a never-knew model that knows, neither a pass nor a failure would mean anything.
    status: Status = "inconclusive" if leaks else _overall(rows, bool(blocking))
    return Judgement(
        subject=subject,
        status=status,
        reasons=(*leaks, *_reasons(recovered, known_facts, utility, told, blocking, judged_by, metrics, with_utility)),
        recovered=tuple(recovered),
        known_facts=tuple(known_facts),
        utility=tuple(utility),
        caught_by=_ordered(
            name
            for name in transforms
            if any(row.transform == name and row.still_known for row in recovered)
            or any(row.transform == name and row.status == "failed" for row in known_facts)
        ),
        not_tested=(*untested, *["scores on the retain set"] * no_retain, *["KL on generic text"] * no_generic),
        notes=tuple(_notes(len(transforms), judged_by, metrics, gate, floors, table, family)),
        outcomes=tuple(outcomes),
        family=family,
        forgotten_rows=tuple(told),
    )


def _limits(gate: Gate, transform: str) -> Limits:
    if transform in gate.attacks:
        return Limits(gate.max_recovered_share_attacks)
    return Limits(gate.max_recovered_share_formats, gate.min_recovered_share)


def _counts(
    table: ScoreTable,
    subject: str,
    target: str,
    floors: Floors,
    split: str,
    transform: str,
    metrics: Mapping[str, Sequence[str]],
) -> Iterable[CountedFacts]:
    """Counts of known facts under a transform, by each metric and by all combined.

    As it stands a model was also asked in other words, by the attacks that only do that.
    """
    found = {
        (name, metric): asked
        for name in (transform, *(sorted(table.wordings & metrics.keys()) if transform == IDENTITY else ()))
        if not floors.problem(table, name)
        for metric in metrics[name]
        if (asked := ask(table, subject, target, floors.under(name), split, name, metric)) is not None
    }
    for (name, metric), asked in found.items():
        if name == transform:
            yield count_facts(asked, transform, metric)
    together = combine(list(found.values()))
    if together is not None:
        yield count_facts(together, transform, COMBINED)


def _has_scores(table: ScoreTable, subject: str, transform: str, split: str) -> bool:
    return any(
        key.model == subject and key.transform == transform and key.split == split and key.metric not in NOT_KNOWLEDGE
        for key in table.scores
    )


def _reported_only(
    table: ScoreTable, measure: ShareMeter, judged_ones: set[tuple[str, str]]
) -> Iterable[RecoveredRow]:
    """Recovered shares of what was scored and stands outside the gate."""
    for key in table.scores:
        mine = key.model == measure.subject and key.split == measure.split
        if mine and key.metric not in NOT_KNOWLEDGE and (key.transform, key.metric) not in judged_ones:
            yield reported(measure.subject, measure(key.transform, key.metric))


def _overall(rows: Sequence[JudgedRow], blocked: bool) -> Status:
    statuses = {row.status for row in rows}
    if "failed" in statuses:
        return "failed"
    return "inconclusive" if blocked or "inconclusive" in statuses else "passed"


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _under(transform: str) -> str:
    return "As it stands" if transform == IDENTITY else transform


def _reasons(
    recovered: Sequence[RecoveredRow],
    known_facts: Sequence[KnownFactsRow],
    utility: Sequence[UtilityRow],
    told: Sequence[ForgottenRowsRow],
    blocking: Sequence[str],
    judged_by: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    with_utility: bool,
) -> list[str]:
    """Sentences in the order of their weight; one that says what was passed where nothing stood in the way."""
    sentences = []
    failed = [row for row in recovered if row.status == "failed"]
    for over_forgotten, words in ((False, "is still there"), (True, "is over-forgotten")):
        kind = [row for row in failed if row.over_forgotten == over_forgotten]
        for transform in _ordered(row.transform for row in kind):
            bad = [row for row in kind if row.transform == transform]
            sentences.append(f"{_under(transform)}: forgotten knowledge {words} by {_worst(bad)}")
    sentences += [
        f"{_under(row.transform)}: {row.metric}: {row.reason}" for row in known_facts if row.status == "failed"
    ]
    sentences += [f"{_under(row.transform)}: {row.reason}" for row in utility if row.status == "failed"]
    sentences += [f"{_under(row.transform)}: {row.reason}" for row in told if row.status == "failed"]
    sentences += blocking
    undecided: list[RecoveredRow | KnownFactsRow | UtilityRow] = [*recovered, *known_facts, *utility]
    sentences += [
        f"{_under(row.transform)}: {row.metric}: {row.reason}" for row in undecided if row.status == "inconclusive"
    ]
    sentences += [f"{_under(row.transform)}: {row.reason}" for row in told if row.status == "inconclusive"]
    everywhere = all(len(names) == len(metrics) for names in judged_by.values())
    also = ", and the model keeps its use" if with_utility else ""
    return sentences or [
        f"Under all {len(judged_by)} conditions the forgotten facts stay forgotten by {', '.join(metrics)}"
        f"{'' if everywhere else ' (where these are measured)'}{also}."
    ]


def _worst(rows: Sequence[RecoveredRow]) -> str:
    """The row furthest from zero, with how many others there are."""
    worst = max(rows, key=lambda row: abs(row.recovered_share or 0.0))
    others = [row.metric for row in rows if row is not worst]
    also = f" Also by {', '.join(others)}." if others else ""
    return f"{worst.metric}: {worst.reason}{also}"


def _notes(
    n_transforms: int,
    judged_by: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    gate: Gate,
    floors: Floors,
    table: ScoreTable,
    family: Family,
) -> Iterable[str]:
    left_out = list(left_out_sentences(judged_by, metrics))
    each = "by" if left_out else "each by"
    yield (
        f"{len(judged_by)} of {n_transforms} conditions of the gate were tested, {each} {len(metrics)} metrics "
        f"({', '.join(metrics)}). A pass needs all of them, each by its own interval. A failure needs an interval "
        f"that holds for all {family.comparisons} shares at once, {family.factor:.2f} times as long (max-t "
        "bootstrap), so that many tests do not fail a model by chance."
    )
    yield from left_out
    not_there = [metric for metric in gate.metrics if metric not in metrics]
    if not_there:
        yield f"Not judged because the set has none of it: {', '.join(not_there)}."
    yield from floors.notes(table)
    allowed = gate.max_recovered_share_formats
    least = needed_groups(allowed, gate.confidence)
    if least is not None:
        yield f"At least {least} groups of facts are needed to show a recovered share of at most {allowed:.2f}."
