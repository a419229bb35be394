"""Facts about the world chosen by what the target knows: the sets of ``data.world``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..data.example import DataBundle, Example, RowSet
from ..data.planted import PlantedSpec, make_generic
from ..data.world import FURTHER, KINDS, OPTIONS, Relation, WorldFact, WorldSpec, draw_options
from ..errors import RequestError
from .target_answers import TargetAnswers


@dataclass(frozen=True)
class Asked:
    """A fact with its options and what the target says.

    Attributes:
        fact: The fact.
        options: Answers to choose from.
        probability: Of the whole right answer.
        knows: Whether the right option gains most from the question.
        blind: Whether the right option is the most likely one without the question.
    """

    fact: WorldFact
    options: tuple[str, ...]
    probability: float
    knows: bool
    blind: bool


def make_world(spec: WorldSpec, target: TargetAnswers, say: Callable[[str], None] = lambda text: None) -> DataBundle:
    """All sets, of facts that the target knows.

    Args:
        spec: Sizes, rules and seed.
        target: The model to ask.
        say: Told what is about to take time.

    Raises:
        RequestError: The target knows too few facts, or the options give the answers away.
        MissingExtraError: A package that facts are read from is not installed.
    """
    kind = KINDS[spec.kind]
    facts = kind.facts()
    say(f"asking the target which {spec.kind} it knows")
    likely = _likely(target, facts, spec.min_probability)
    asked = _asked(target, likely, spec.seed)
    forget, retain = _shared_out(spec, asked, facts)
    holdout = _asked(target, kind.invented(spec.holdout, spec.seed), spec.seed)
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    extra = {name: _further(target, name, spec) for name in spec.further_sets}
    notes = [_told(spec, facts, asked, sets)]
    for name, members in (*sets.items(), *extra.items()):
        notes.append(_blind_note(name, members, spec.max_blind))
    rows = {name: _rows(name, members) for name, members in (*sets.items(), *extra.items())}
    generic = make_generic(_sentences(spec))
    further = {name: rows[name] for name in extra}
    return DataBundle(rows["forget"], rows["retain"], rows["holdout"], generic, further, notes=tuple(notes))


def _sentences(spec: WorldSpec) -> PlantedSpec:
    return PlantedSpec(generic=spec.generic, seed=spec.seed)


def _likely(target: TargetAnswers, facts: Sequence[WorldFact], least: float) -> list[WorldFact]:
    """Facts whose answer the target gives at least this probability."""
    logps = target.logps([fact.row("asked") for fact in facts])
    return [fact for fact, logp in zip(facts, logps, strict=True) if math.exp(logp) >= least]


def _asked(target: TargetAnswers, facts: Sequence[WorldFact], seed: int) -> list[Asked]:
    """Draw options for facts and ask the target for them."""
    if not facts:
        return []
    unasked = _worth(target, facts)
    drawn = draw_options(facts, lambda fact, option: unasked[fact.relation.prior, option], seed)
    logps = iter(
        target.logps([_option_row(fact, option) for fact, some in zip(facts, drawn, strict=True) for option in some])
    )
    found = []
    for fact, options in zip(facts, drawn, strict=True):
        scores = {option: next(logps) for option in options}
        prior = {option: unasked[fact.relation.prior, option] for option in options}
        gains = {option: scores[option] - prior[option] for option in options}
        found.append(
            Asked(
                fact,
                options,
                math.exp(scores[fact.answer]),
                _is_first(gains, fact.answer),
                _is_first(prior, fact.answer),
            )
        )
    return found


def _is_first(scores: Mapping[str, float], right: str) -> bool:
    return all(scores[right] > score for option, score in scores.items() if option != right)


def _worth(target: TargetAnswers, facts: Sequence[WorldFact]) -> dict[tuple[str, str], float]:
    """Log-probability of every possible answer after the prompt without a subject."""
    wanted = sorted({(fact.relation.prior, option) for fact in facts for option in (*fact.pool, fact.answer)})
    rows = [_row(f"prior-{number}", prior, option) for number, (prior, option) in enumerate(wanted)]
    return dict(zip(wanted, target.logps(rows), strict=True))


def _option_row(fact: WorldFact, option: str) -> Example:
    return _row(f"{fact.id}-{option}", fact.row("asked").prompt, option)


def _row(name: str, prompt: str, answer: str) -> Example:
    return Example(name, prompt, f" {answer}", name, name)


def _shared_out(
    spec: WorldSpec, asked: Sequence[Asked], facts: Sequence[WorldFact]
) -> tuple[list[Asked], list[Asked]]:
    """Known subjects to forget and to keep, with all directions of each that the target knows.

    A subject counts if its first direction is known. Facts of different kinds are shared out in equal parts.
    """
    main = facts[0].relation
    known = [item for item in asked if item.knows]
    subjects = [item.fact for item in known if item.fact.relation is main]
    needed = spec.forget + spec.retain
    if len(subjects) < needed:
        raise RequestError(
            f"data.world: of {len({fact.subject for fact in facts})} {spec.kind} the target knows {len(subjects)} by "
            f"the rules, and {spec.forget} to forget and {spec.retain} to keep are asked for: lower forget, retain or "
            "min_probability"
        )
    order = _mixed(subjects, spec.seed)
    chosen = dict.fromkeys(order[: spec.forget], "forget")
    chosen |= dict.fromkeys(order[spec.forget : needed], "retain")
    sets: dict[str, list[Asked]] = {"forget": [], "retain": []}
    for item in known:
        if item.fact.subject in chosen:
            sets[chosen[item.fact.subject]].append(item)
    return sets["forget"], sets["retain"]


def _mixed(subjects: Iterable[WorldFact], seed: int) -> list[str]:
    """Subjects in an order drawn by the seed, in every part of which the kinds have about the same share."""
    by_kind: dict[str, list[str]] = {}
    for fact in subjects:
        by_kind.setdefault(fact.kind, []).append(fact.subject)
    placed = []
    for kind, members in sorted(by_kind.items()):
        drawn = random.Random(f"world-{seed}-{kind}").sample(sorted(members), len(members))
        placed += [((place + 0.5) / len(drawn), kind, subject) for place, subject in enumerate(drawn)]
    return [subject for _, _, subject in sorted(placed)]


def _further(target: TargetAnswers, name: str, spec: WorldSpec) -> list[Asked]:
    """Facts of a further set that the target ranks first; those that it does not know could not be lost."""
    facts = FURTHER[name]()
    some = facts if len(facts) <= 2 * spec.others else facts[: 2 * spec.others]
    known = [item for item in _asked(target, some, spec.seed) if item.knows]
    kept = without_surplus(known, spec.others)
    if not kept:
        raise RequestError(f"data.world: the target knows none of the facts in {name}: set others to 0")
    return kept


def without_surplus(members: Sequence[Asked], most: int) -> list[Asked]:
    """At most so many facts, the first ones, no more of them picked without the question than by chance.

    The target's own choice of facts shifts what the draw of options had balanced.
    """
    blind = [item for item in members if item.blind]
    others = [item for item in members if not item.blind][: most - min(len(blind), most // OPTIONS)]
    chosen = {*others, *blind[: min(most - len(others), len(others) // (OPTIONS - 1))]}
    return [item for item in members if item in chosen]


def _rows(name: str, members: Sequence[Asked]) -> RowSet:
    rows = tuple(item.fact.row(name, item.options) for item in members)
    if name not in ("forget", "holdout"):
        rows = tuple(replace(row, other_prompts=()) for row in rows)
    return RowSet(rows, rows)


def _told(
    spec: WorldSpec, facts: Sequence[WorldFact], asked: Sequence[Asked], sets: Mapping[str, Sequence[Asked]]
) -> str:
    relations: dict[Relation, int] = {}
    for item in sets["forget"]:
        relations[item.fact.relation] = relations.get(item.fact.relation, 0) + 1
    directions = " and ".join(f"{count} by {relation.name}" for relation, count in relations.items())
    known = sum(item.knows for item in asked)
    return (
        f"Facts about the world ({spec.kind}): of {len(facts)} questions the target knows {known} (whole answer at "
        f"{spec.min_probability:g} or more, and first of {OPTIONS} options beyond what they are worth without the "
        f"question). {spec.forget} subjects are forgotten ({directions}) and {spec.retain} kept."
    )


def _blind_note(name: str, members: Sequence[Asked], most: float) -> str:
    blind = sum(item.blind for item in members) / len(members)
    if blind > most:
        raise RequestError(
            f"data.world: {blind:.2f} of the answers in the {name} set can be picked without the question (a guess is "
            f"{1 / OPTIONS:g}, and data.world.max_blind allows {most:g}): the options leak, so draw with another seed "
            "or raise it"
        )
    mean = sum(item.probability for item in members) / len(members)
    return (
        f"{name}: {len(members)} facts, mean probability of the answer {mean:.3f}, picked without the question "
        f"{blind:.2f} (a guess is {1 / OPTIONS:g})."
    )
