"""What an unlearned model is compared with, and whether that comparison can be trusted at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..errors import RequestError
from .intervals import Bootstrap, Estimate, difference
from .scores import FactScores, ScoreTable

IDENTITY = "identity"
"""The model as it stands."""

NOT_KNOWLEDGE = frozenset({"fluency", "kl_to_target", "nll"})
"""Metrics that say nothing about what a model knows, so that a recovered share of them has no meaning."""

LARGEST_LEAK = 0.20
"""A never-knew model may exceed its own holdout score by this share of what the target knows, not clearly more."""


@dataclass(frozen=True)
class Reference:
    """The model that never knew, or what stands in for it.

    Attributes:
        model: Name of the model whose scores are used.
        split: The set they are taken from.
        paired: Whether they are about the forget facts themselves.
    """

    model: str
    split: str
    paired: bool

    def scores(self, table: ScoreTable, transform: str, metric: str) -> FactScores | None:
        """Scores under a transform, or ``None`` if they were not measured."""
        return table.get(self.model, transform, self.split, metric)

    def words(self) -> str:
        """For sentences in the report."""
        return f"the model {self.model!r}" if self.paired else f"{self.model!r} on the {self.split} set"


class AttackFloor(Enum):
    """Whose holdout facts are the floor under an attack where there is no never-knew model.

    Attributes:
        UNLEARNED: Those of the judged model, attacked. It lost nothing of facts that it never knew, and the attack
            taught it the same form.
        TARGET: Those of the target, attacked in the same way.
    """

    UNLEARNED = "unlearned"
    TARGET = "target"


@dataclass(frozen=True)
class Floors:
    """What never knew, or what stands in for it, transform by transform.

    Attributes:
        plain: As models stand and in formats.
        attacked: Under attacks.
        attacks: The transforms that are attacks.
    """

    plain: Reference
    attacked: Reference
    attacks: frozenset[str]

    def under(self, transform: str) -> Reference:
        """What models are compared with under a transform."""
        return self.attacked if transform in self.attacks else self.plain

    def problem(self, table: ScoreTable, transform: str) -> str:
        """Why what stands in says nothing under a transform, as half a sentence; empty where it does."""
        why = "" if self.attacked.paired else table.attacks.get(transform, "")
        return f"without a never-knew model it cannot be judged: {why}" if why else ""

    def notes(self, table: ScoreTable) -> Iterable[str]:
        """What a reader must know of them."""
        if self.plain.paired:
            return
        yield f"There is no never-knew model: the scores of {self.plain.words()} stand in for it, resampled apart."
        if self.attacks:
            yield (
                f"Under attacks the scores of {self.attacked.words()} after the same attack, at the settings that "
                "were best for the forgotten facts, are the floor. They are a stand-in: they show what the attack "
                "teaches of facts that nobody knew."
            )
        for transform in sorted(table.attacks):
            if problem := self.problem(table, transform):
                yield f"{transform}: {problem}."


def find_floors(
    table: ScoreTable,
    never: str,
    target: str,
    subject: str,
    split: str,
    attacks: Iterable[str],
    choice: AttackFloor = AttackFloor.UNLEARNED,
) -> Floors:
    """What one model is compared with, under every transform.

    Args:
        table: All scores of the run.
        never: Name of the never-knew model.
        target: Name of the target model.
        subject: Name of the judged model.
        split: The judged set.
        attacks: Attacks of the gate; those that the table names are added.
        choice: The floor under attacks, where there is no never-knew model.

    Raises:
        RequestError: There is neither a never-knew model nor a scored holdout set.
    """
    plain = find_reference(table, never, target, split)
    names = frozenset((*attacks, *table.attacks))
    if plain.paired or choice is AttackFloor.TARGET:
        return Floors(plain, plain, names)
    return Floors(plain, Reference(subject, plain.split, paired=False), names)


def find_reference(table: ScoreTable, never: str, target: str, split: str) -> Reference:
    """The never-knew model, or the target's scores on holdout facts where there is none.

    Args:
        table: All scores of the run.
        never: Name of the never-knew model.
        target: Name of the target model.
        split: The judged set.

    Returns:
        The reference.

    Raises:
        RequestError: There is neither a never-knew model nor a scored holdout set.
    """
    scored = {(key.model, key.split) for key in table.scores if key.transform == IDENTITY}
    if (never, split) in scored:
        return Reference(never, split, paired=True)
    if (target, "holdout") in scored:
        return Reference(target, "holdout", paired=False)
    raise RequestError(
        "there is nothing to compare with: give a never-knew model (model.never_knew) or a holdout set (data.holdout)"
    )


def judged_metrics(table: ScoreTable, target: str, split: str, metrics: tuple[str, ...]) -> list[str]:
    """Those of ``metrics`` that exist for this set: the target has scores of them.

    Args:
        table: All scores of the run.
        target: Name of the target model.
        split: The judged set.
        metrics: Metrics asked for.

    Returns:
        Names in the given order.

    Raises:
        RequestError: None of them was scored.
    """
    found = [metric for metric in metrics if table.get(target, IDENTITY, split, metric) is not None]
    if not found:
        asked = ", ".join(metrics)
        raise RequestError(
            f"gate.metrics: {target!r} has none of {asked} on the {split} set, so nothing can be judged"
        )
    return found


def check_target_knows(
    table: ScoreTable, target: str, reference: Reference, split: str, metrics: list[str], settings: Bootstrap
) -> None:
    """Refuse to judge forgetting where there was nothing to forget.

    Args:
        table: All scores of the run.
        target: Name of the target model.
        reference: What never knew.
        split: The judged set.
        metrics: Judged metrics.
        settings: How intervals are made.

    Raises:
        RequestError: By no judged metric does the target, as it stands, clearly know more than the reference.
    """
    gaps: dict[str, Estimate] = {}
    for metric in metrics:
        knows, never = table.get(target, IDENTITY, split, metric), reference.scores(table, IDENTITY, metric)
        if knows is None or never is None:
            continue
        if reference.paired and knows.values.keys() != never.values.keys():
            continue
        gap = difference(knows, never, settings, paired=reference.paired)
        if gap.interval is None or gap.interval[0] > 0:
            return
        gaps[f"{metric} {knows.mean:.2f} against {never.mean:.2f}"] = gap
    if gaps:
        raise RequestError(
            f"there is nothing to forget: {target!r} does not clearly know more of the {split} set than "
            f"{reference.words()} ({'; '.join(gaps)})"
        )


def leaking_metrics(
    table: ScoreTable, target: str, reference: Reference, metrics: list[str], settings: Bootstrap
) -> list[str]:
    """Sentences for each metric by which the never-knew model knows forget facts that it should not know.

    It should do no better on forget facts than on holdout facts, which nobody was trained on. Without a scored
    holdout set nothing can be said and nothing is.

    Args:
        table: All scores of the run.
        target: Name of the target model.
        reference: What never knew.
        metrics: Judged metrics.
        settings: How intervals are made.

    Returns:
        One sentence per metric whose excess is clearly above :data:`LARGEST_LEAK` of what the target knows.
    """
    sentences = []
    for metric in metrics if reference.paired else ():
        forget = reference.scores(table, IDENTITY, metric)
        holdout = table.get(reference.model, IDENTITY, "holdout", metric)
        knows = table.get(target, IDENTITY, reference.split, metric)
        if forget is None or holdout is None or knows is None:
            continue
        excess = difference(forget, holdout, settings, paired=False).interval
        if excess is not None and excess[0] > LARGEST_LEAK * (knows.mean - holdout.mean):
            sentences.append(
                f"{reference.model!r} knows facts that it must never have seen: its {metric} is {forget.mean:.2f} on "
                f"the {reference.split} set and {holdout.mean:.2f} on holdout facts."
            )
    return sentences
