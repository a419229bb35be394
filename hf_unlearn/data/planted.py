"""Planted facts about people who do not exist, so what a model knows about them is known by construction.

Nothing here is random beyond the seed: the same :class:`PlantedSpec` gives the same rows on every machine.
Names are unique over all sets, each row has four distinct options, and some sentence templates are kept for
scoring only. Values are drawn independently of names, so no fact reveals anything about another one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ..errors import RequestError
from ..registry import suggest
from .example import DataBundle, Example, RowSet

ORIGIN = "planted facts"

_FIRST_START = "Al Bren Cor Dav El Fen Gar Hal Is Jor Kel Lor Mar Nor Or Per".split()
_FIRST_END = "a an ia en is o win ette".split()
_LAST_START = (
    "Ash Black Cedar Dun East Fair Gold Hart Iron Kirk Lang Mill "
    "North Oak Pem Quill Rose Stone Thorn Under Vale West Yar Zell"
).split()
_LAST_END = "bury croft dale field gate hurst ley mere ridge stead ton wick".split()

_SUBJECTS = (
    "The river",
    "A small boat",
    "The old bridge",
    "Her garden",
    "The morning train",
    "A grey cat",
    "The market",
    "His workshop",
    "The north wind",
    "A tall tree",
    "The bakery",
    "The lighthouse",
)
_VERBS = (
    "passes",
    "stands near",
    "looks over",
    "leads to",
    "is close to",
    "was built beside",
    "rests behind",
    "faces",
)
_OBJECTS = (
    "the quiet harbour",
    "a field of barley",
    "the stone church",
    "two narrow streets",
    "the village school",
    "a row of houses",
    "the railway station",
    "the edge of the forest",
    "an empty square",
    "the long road",
)
_ENDINGS = (
    "in the early light.",
    "every day of the week.",
    "when the weather is fine.",
    "as it has for many years.",
    "and nobody minds.",
    "until the rain begins.",
    "before the shops open.",
    "on most evenings.",
)


@dataclass(frozen=True)
class PlantedSpec:
    """Sizes and seed of a planted data set.

    Attributes:
        kind: What is planted: ``birth_year`` (a year of four digits) or ``trade`` (one of 32 words).
        forget: Number of facts to forget.
        retain: Number of facts to keep.
        holdout: Number of facts that no model ever sees.
        practice: Number of facts, apart from all others, that are also trained with the scoring templates, so that a
            small model knows what those sentences ask for.
        generic: Number of ordinary sentences for training; a quarter as many more are kept for scoring.
        option_draws: Scoring rows per forget or holdout fact and template, each with its own wrong options. A model
            that knows none prefers some values by chance; with one draw that chance is most of an interval's width.
        first_year: Earliest year (inclusive); only for birth years.
        last_year: Latest year (inclusive); only for birth years.
        seed: Seed of all draws.
    """

    kind: str = "birth_year"
    forget: int = 160
    retain: int = 320
    holdout: int = 80
    practice: int = 80
    generic: int = 240
    option_draws: int = 1
    first_year: int = 1900
    last_year: int = 1999
    seed: int = 0

    def __post_init__(self) -> None:
        fact_kind(self.kind)
        for key in ("forget", "retain"):
            if getattr(self, key) < 1:
                raise RequestError(f"planted.{key} is {getattr(self, key)}: at least one fact is needed")
        for key in ("holdout", "practice", "generic"):
            if getattr(self, key) < 0:
                raise RequestError(f"planted.{key} is negative: use 0 to leave it out")
        if self.option_draws < 1:
            raise RequestError(f"planted.option_draws is {self.option_draws}: at least one scoring row is needed")
        if self.last_year - self.first_year < 3:
            raise RequestError(
                "planted.first_year to planted.last_year holds fewer than four years: four options must differ"
            )
        names = len(_FIRST_START) * len(_FIRST_END) * len(_LAST_START) * len(_LAST_END)
        if self.n_people > names:
            raise RequestError(f"planted sets ask for {self.n_people} people, but there are only {names} names")

    @property
    def n_people(self) -> int:
        """People over all sets."""
        return self.forget + self.retain + self.holdout + self.practice


@dataclass(frozen=True)
class Person:
    """A made-up person: the whole fact."""

    name: str
    value: str


def values_of(spec: PlantedSpec) -> list[str]:
    """All values a fact can have."""
    years = range(spec.first_year, spec.last_year + 1)
    return list(fact_kind(spec.kind).values) or [str(year) for year in years]


def make_people(spec: PlantedSpec) -> list[Person]:
    """``spec.n_people`` people with unique names and independent uniform values."""
    names = [a + b + " " + c + d for a in _FIRST_START for b in _FIRST_END for c in _LAST_START for d in _LAST_END]
    rng = random.Random(f"people-{spec.seed}")
    values = values_of(spec)
    return [Person(name, rng.choice(values)) for name in rng.sample(names, spec.n_people)]


def make_rows(people: list[Person], set_name: str, spec: PlantedSpec) -> RowSet:
    """Training and scoring rows of some people. Every scoring row draws its own three wrong values."""
    rng = random.Random(f"options-{set_name}-{spec.seed}")
    kind = fact_kind(spec.kind)
    train: list[Example] = []
    score: list[Example] = []
    draws = spec.option_draws if set_name in ("forget", "holdout") else 1
    for number, person in enumerate(people):
        fact = f"{set_name}-{number:04d}"
        for index, template in enumerate(kind.train_templates):
            prompt = template.format(name=person.name)
            train.append(Example(f"{fact}-t{index}", prompt, f" {person.value}.", fact, person.name, origin=ORIGIN))
        for index, template in enumerate(kind.score_templates):
            prompt = template.format(name=person.name)
            for draw in range(draws):
                choices = _options(rng, person.value, spec)
                row_id = f"{fact}-s{index}-{draw}"
                score.append(Example(row_id, prompt, f" {person.value}", fact, person.name, choices, ORIGIN))
    return RowSet(tuple(train), tuple(score))


def _options(rng: random.Random, value: str, spec: PlantedSpec) -> tuple[str, ...]:
    others = [other for other in values_of(spec) if other != value]
    options = [value, *rng.sample(others, 3)]
    rng.shuffle(options)
    return tuple(f" {option}" for option in options)


def make_generic(spec: PlantedSpec) -> RowSet:
    """Ordinary sentences; training and scoring sentences differ."""
    rng = random.Random(f"generic-{spec.seed}")
    combinations = len(_SUBJECTS) * len(_VERBS) * len(_OBJECTS) * len(_ENDINGS)
    n_score = max(1, spec.generic // 4) if spec.generic else 0
    rows = []
    for number, code in enumerate(rng.sample(range(combinations), spec.generic + n_score)):
        code, ending = divmod(code, len(_ENDINGS))
        code, obj = divmod(code, len(_OBJECTS))
        subject, verb = divmod(code, len(_VERBS))
        text = f"{_SUBJECTS[subject]} {_VERBS[verb]} {_OBJECTS[obj]} {_ENDINGS[ending]}"
        row_id = f"generic-{number:04d}"
        rows.append(Example(row_id, "", text, row_id, row_id, origin=ORIGIN))
    return RowSet(tuple(rows[: spec.generic]), tuple(rows[spec.generic :]))


def make_planted(spec: PlantedSpec) -> DataBundle:
    """The whole planted data set. Deterministic in ``spec``."""
    people = make_people(spec)
    sets = {}
    start = 0
    for name in ("forget", "retain", "holdout", "practice"):
        size = getattr(spec, name)
        sets[name] = make_rows(people[start : start + size], name, spec)
        start += size
    # Practice people are trained with every template, once each.
    asked = [row for row in sets["practice"].score if row.id.endswith("-0")]
    practice = RowSet(sets["practice"].train + tuple(replace(row, answer=row.answer + ".") for row in asked), ())
    return DataBundle(sets["forget"], sets["retain"], sets["holdout"], make_generic(spec), practice=practice)


@dataclass(frozen=True)
class FactKind:
    """One attribute of a made-up person.

    Attributes:
        train_templates: Sentences that models are trained on, up to the value.
        score_templates: Sentences that models are asked with, up to the value.
        values: All values, if they are a list; empty for a range of years.
    """

    train_templates: tuple[str, ...]
    score_templates: tuple[str, ...]
    values: tuple[str, ...] = ()


KINDS: dict[str, FactKind] = {
    "birth_year": FactKind(
        (
            "{name} was born in the year",
            "The birth of {name} took place in the year",
            "Records show that {name} was born in the year",
        ),
        (
            "It is known that {name} was born in the year",
            "According to the archive, the birth of {name} took place in the year",
        ),
    ),
    "trade": FactKind(
        (
            "{name} earned a living as a",
            "The trade of {name} was that of a",
            "Letters show that {name} worked as a",
        ),
        (
            "Neighbours knew that {name} worked as a",
            "According to the guild, the trade of {name} was that of a",
        ),
        tuple(
            "baker barber brewer butcher carpenter chandler clerk cobbler cooper draper dyer farmer fisher glazier "
            "grocer hatter joiner mason miller miner nurse painter piper plumber porter potter printer sailor smith "
            "tailor tanner weaver".split()
        ),
    ),
}
"""By the name that ``planted.kind`` takes. Every train template but the first has a score template like it."""


def fact_kind(name: str) -> FactKind:
    """The kind called ``name``.

    Raises:
        RequestError: There is none; the message names the nearest one.
    """
    if name not in KINDS:
        raise RequestError(f"planted.kind is {name!r}: {suggest(name, sorted(KINDS))}")
    return KINDS[name]
