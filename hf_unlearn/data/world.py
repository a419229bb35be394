"""Facts about the world that a pretrained model may know: capitals, chemical symbols, cities.

Here facts are only made, with the wrong answers that each could be given. Which of them a model knows is asked of it
(:mod:`hf_unlearn.stages.world`). Rules that hold for all of them:

- A fact whose question gives the answer away is left out: both share four letters in a row, or begin with the same
  three.
- Wrong answers come from the same region of the world, or have the same initial letter.
- All directions of a fact (country to capital, capital to country) are one group.
- Holdout subjects do not exist, so that no model knows anything about them.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import RequestError
from ..registry import suggest
from . import world_sources as sources
from .example import Example

T = TypeVar("T")

ORIGIN = "facts about the world"
OPTIONS = 4
CHANCE = 1 / OPTIONS
_SUBJECT = "{}"
_SHARED = 4
_MOST_INVENTED = 160


@dataclass(frozen=True)
class WorldSpec:
    """Facts that the target may know from pretraining. Which it knows is asked of it.

    Attributes:
        kind: What is forgotten: ``capitals`` (of countries), ``symbols`` (of chemical elements) or ``cities`` (and the
            countries they are in).
        forget: Number of subjects to forget. A subject may be asked about in two directions.
        retain: Number of subjects of the same kind to keep.
        holdout: Number of subjects that do not exist: what a model says about them is a guess.
        others: Most facts of each further set (languages, continents, US states, element names), which are only
            scored and must keep their scores; 0 for none.
        generic: Number of ordinary sentences for training; a quarter as many more are kept for scoring.
        min_probability: The target knows a fact if it gives the whole answer at least this probability and ranks it
            first of four options, beyond what the options are worth without the question.
        max_blind: Refused if more of the answers than this can be picked without the question (a guess is 0.25).
        seed: Seed of all draws.
    """

    kind: str = "capitals"
    forget: int = 45
    retain: int = 45
    holdout: int = 40
    others: int = 30
    generic: int = 120
    min_probability: float = 0.02
    max_blind: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"world.kind is {self.kind!r}: {suggest(self.kind, sorted(KINDS))}")
        for key in ("forget", "retain", "holdout"):
            if getattr(self, key) < 1:
                raise RequestError(f"world.{key} is {getattr(self, key)}: at least one fact is needed")
        if self.holdout > _MOST_INVENTED:
            raise RequestError(
                f"world.holdout is {self.holdout}: there are names for {_MOST_INVENTED} subjects at most"
            )
        for key in ("others", "generic"):
            if getattr(self, key) < 0:
                raise RequestError(f"world.{key} is negative: use 0 to leave it out")
        if not 0 <= self.min_probability < 1:
            raise RequestError(f"world.min_probability is {self.min_probability}: it must be at least 0 and under 1")
        if not CHANCE <= self.max_blind <= 1:
            raise RequestError(f"world.max_blind is {self.max_blind}: it must be between {CHANCE} (a guess) and 1")

    @property
    def further_sets(self) -> tuple[str, ...]:
        """Names of the further sets."""
        return KINDS[self.kind].further if self.others else ()


@dataclass(frozen=True)
class Relation:
    """How one direction of a fact is asked for.

    Attributes:
        name: Part of the row's id.
        prompt: The text before the answer, with ``{}`` for the subject.
        prior: The same without the subject.
        wordings: Other texts before the answer, which are only asked.
    """

    name: str
    prompt: str
    prior: str
    wordings: tuple[str, ...] = ()

    def ask(self, about: str) -> str:
        """The text before the answer about one subject."""
        return self.prompt.replace(_SUBJECT, about)


@dataclass(frozen=True)
class WorldFact:
    """One direction of a fact.

    Attributes:
        subject: What it is about, in all directions; the row's group.
        relation: How it is asked for.
        about: What stands in the prompt.
        answer: The right answer, without a leading space.
        pool: What wrong answers are drawn from.
        kind: Facts of different kinds are shared out separately; empty for all others.
    """

    subject: str
    relation: Relation
    about: str
    answer: str
    pool: tuple[str, ...]
    kind: str = ""

    @property
    def id(self) -> str:
        """Unique among the facts of a set."""
        return f"{self.relation.name}-{slug(self.subject)}"

    def row(self, set_name: str, options: Sequence[str] = ()) -> Example:
        """The fact as a row of a set."""
        return Example(
            id=f"{set_name}-{self.id}",
            prompt=self.relation.ask(self.about),
            answer=f" {self.answer}",
            fact=f"{set_name}-{self.id}",
            group=f"{set_name}-{slug(self.subject)}",
            choices=tuple(f" {option}" for option in options),
            origin=ORIGIN,
            prior_prompt=self.relation.prior,
            other_prompts=tuple(wording.replace(_SUBJECT, self.about) for wording in self.relation.wordings),
        )


@dataclass(frozen=True)
class WorldKind:
    """A kind of fact.

    Attributes:
        facts: Makes all facts; the first direction of every subject comes first.
        invented: Makes facts about subjects that do not exist, with answers that do.
        further: Names of the further sets.
    """

    facts: Callable[[], list[WorldFact]]
    invented: Callable[[int, int], list[WorldFact]]
    further: tuple[str, ...]


CAPITAL = Relation(
    "capital",
    "The capital of {} is the city of",
    "The capital of the country is the city of",
    ("Q: What is the capital of {}?\nA: The capital of {} is", "The capital city of {} is"),
)
CAPITAL_OF = Relation(
    "country",
    "The city of {} is the capital of",
    "This city is the capital of",
    ("Q: Which country has the capital {}?\nA: {} is the capital of", "{} is the capital city of"),
)
SYMBOL = Relation(
    "symbol",
    "The chemical symbol for the element {} is",
    "The chemical symbol for the element is",
    ("In the periodic table, {} is written as", "Chemists abbreviate {} as"),
)
ELEMENT = Relation(
    "element",
    "The chemical element with the symbol {} is",
    "The chemical element with the symbol is",
    ("In the periodic table, {} stands for the element", "The symbol {} stands for the chemical element"),
)
CITY = Relation(
    "city",
    "The city of {} is located in the country of",
    "The city is located in the country of",
    ("Somebody who lives in {} lives in the country of", "The country in which one finds the city {} is"),
)
LANGUAGE = Relation("language", "The official language of {} is", "The official language of the country is")
CONTINENT = Relation("continent", "{} is a country on the continent of", "It is a country on the continent of")
STATE = Relation("state", "The capital of the US state of {} is", "The capital of the US state is")


def slug(text: str) -> str:
    """A text as part of an id."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in bare(text)).split())


def bare(text: str) -> str:
    """A text without accents and case."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def gives_away(question: str, answer: str) -> bool:
    """Whether question and answer share four letters in a row, or begin with the same three (spaces do not count)."""
    one, other = (bare(text).removeprefix("the ").replace(" ", "") for text in (question, answer))
    shared = any(one[start : start + _SHARED] in other for start in range(len(one) - _SHARED + 1))
    return shared or one[: _SHARED - 1] == other[: _SHARED - 1]


def capital_facts() -> list[WorldFact]:
    """Countries and capitals, in both directions."""
    known = [item for item in sources.countries() if not gives_away(item.name, item.capital)]
    regions = _by(known, lambda item: item.region)
    capitals = {name: tuple(item.capital for item in members) for name, members in regions.items()}
    names = {name: tuple(item.name for item in members) for name, members in regions.items()}
    return [
        *(WorldFact(item.name, CAPITAL, item.name, item.capital, capitals[item.region]) for item in known),
        *(WorldFact(item.name, CAPITAL_OF, item.capital, item.name, names[item.region]) for item in known),
    ]


def symbol_facts() -> list[WorldFact]:
    """Elements and symbols, in both directions. Symbols that begin the name are a kind of their own."""
    elements = sources.elements()
    symbols = _with_initials([symbol for _, symbol in elements])
    names = _with_initials([name for name, _ in elements])
    facts = []
    for relation in (SYMBOL, ELEMENT):
        for name, symbol in elements:
            kind = "by rule" if bare(name).startswith(bare(symbol)) else ""
            asked, answer, pools = (name, symbol, symbols) if relation is SYMBOL else (symbol, name, names)
            facts.append(WorldFact(name, relation, asked, answer, pools[answer[0].lower()], kind))
    return facts


def city_facts() -> list[WorldFact]:
    """Large cities and the countries they are in. A continent of too few countries has all of them as options."""
    cities = [city for city in sources.cities() if not gives_away(city.country, city.name)]
    countries = {
        name: tuple(sorted({city.country for city in members}))
        for name, members in _by(cities, lambda city: city.continent).items()
    }
    everything = tuple(sorted({city.country for city in cities}))
    pools = {name: found if len(found) > OPTIONS else everything for name, found in countries.items()}
    return [WorldFact(city.name, CITY, city.name, city.country, pools[city.continent]) for city in cities]


def language_facts() -> list[WorldFact]:
    """Official languages of countries with one."""
    spoken = [item for item in sources.countries() if item.language and not gives_away(item.name, item.language)]
    everything = tuple(sorted({item.language for item in spoken}))
    return [WorldFact(item.name, LANGUAGE, item.name, item.language, everything) for item in spoken]


def continent_facts() -> list[WorldFact]:
    """Continents of countries."""
    placed = [item for item in sources.countries() if item.region in sources.CONTINENTS]
    placed = [item for item in placed if not gives_away(item.name, item.region)]
    return [
        WorldFact(item.name, CONTINENT, item.name, item.region, (*sources.CONTINENTS, "Antarctica")) for item in placed
    ]


def state_facts() -> list[WorldFact]:
    """Capitals of states of the USA."""
    states = [(name, capital) for name, capital in sources.us_states() if not gives_away(name, capital)]
    capitals = tuple(capital for _, capital in states)
    return [WorldFact(name, STATE, name, capital, capitals) for name, capital in states]


def element_facts() -> list[WorldFact]:
    """Elements by their symbols."""
    return [fact for fact in symbol_facts() if fact.relation is ELEMENT]


FURTHER: Mapping[str, Callable[[], list[WorldFact]]] = {
    "languages": language_facts,
    "continents": continent_facts,
    "us_states": state_facts,
    "element_names": element_facts,
}
"""Further sets by name."""


def invented_capitals(count: int, seed: int) -> list[WorldFact]:
    """Countries that do not exist with capitals that do, and capitals that do not exist of countries that do."""
    rng, real = random.Random(f"invented-capitals-{seed}"), [f for f in capital_facts() if f.relation is CAPITAL]
    names = invented_names("ia land stan".split(), 2 * count, rng)
    cities = [name.removesuffix("ia").removesuffix("land").removesuffix("stan") + "burg" for name in names[count:]]
    facts = []
    for name, city, fact in zip(names[:count], cities, rng.choices(real, k=count), strict=True):
        countries = tuple(other.subject for other in real if other.pool == fact.pool)
        facts.append(WorldFact(name, CAPITAL, name, fact.answer, fact.pool))
        facts.append(WorldFact(name, CAPITAL_OF, city, fact.subject, countries))
    return facts


def invented_elements(count: int, seed: int) -> list[WorldFact]:
    """Elements that do not exist, with symbols of others."""
    rng, real = random.Random(f"invented-elements-{seed}"), [f for f in symbol_facts() if f.relation is SYMBOL]
    names = [name.lower() for name in invented_names(["ium"], count, rng)]
    return [
        WorldFact(name, SYMBOL, name, fact.answer, fact.pool)
        for name, fact in zip(names, rng.choices(real, k=count), strict=True)
    ]


def invented_cities(count: int, seed: int) -> list[WorldFact]:
    """Cities that do not exist, in countries that do."""
    rng, real = random.Random(f"invented-cities-{seed}"), city_facts()
    names = invented_names("burg ton ville".split(), count, rng)
    return [
        WorldFact(name, CITY, name, fact.answer, fact.pool)
        for name, fact in zip(names, rng.choices(real, k=count), strict=True)
    ]


KINDS: Mapping[str, WorldKind] = {
    "capitals": WorldKind(capital_facts, invented_capitals, tuple(FURTHER)),
    "symbols": WorldKind(symbol_facts, invented_elements, ("languages", "continents", "us_states")),
    "cities": WorldKind(city_facts, invented_cities, tuple(FURTHER)),
}
"""By the name that ``world.kind`` takes."""


def invented_names(endings: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Different names that nothing in the sources has."""
    starts = "Brel Dorv Elm Fandr Garl Hesp Jurv Keld Lorm Marv Neth Orl Pelv Quar Ruv Selk Tarv Ulm Velt Zarn".split()
    middles = "a an ar e en or u ul".split()
    names = [start + middle + ending for start in starts for middle in middles for ending in endings]
    return rng.sample(names, count)


def draw_options(
    facts: Sequence[WorldFact], worth: Callable[[WorldFact, str], float], seed: int
) -> list[tuple[str, ...]]:
    """Four options for each fact; without the question, the right one is the most likely as often as by chance.

    Args:
        facts: The facts of one set, in an order that does not change.
        worth: How likely an option is without the question (any growing function of it).
        seed: Of the draws.
    """
    drawn, first = [], 0
    for number, fact in enumerate(facts, start=1):
        rng = random.Random(f"options-{seed}-{fact.id}")
        wrong = sorted({option for option in fact.pool if option != fact.answer})
        if len(wrong) < OPTIONS - 1:
            raise RequestError(f"{ORIGIN}: there are too few answers like {fact.answer!r} to draw options from")
        draws = [rng.sample(wrong, OPTIONS - 1) for _ in range(_DRAWS)]
        right = worth(fact, fact.answer)
        ahead = [right > max(worth(fact, option) for option in draw) for draw in draws]
        wanted = first + 1 <= CHANCE * number + 0.5
        chosen = ahead.index(wanted) if wanted in ahead else 0
        first += ahead[chosen]
        options = [fact.answer, *draws[chosen]]
        rng.shuffle(options)
        drawn.append(tuple(options))
    return drawn


_DRAWS = 32


def _by(items: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _with_initials(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Texts by initial; where there are fewer than four, with those of the neighbouring letters."""
    ordered = sorted(texts, key=str.lower)
    found = {}
    for initial in {text[0].lower() for text in ordered}:
        nearest = sorted(ordered, key=lambda text: (abs(ord(text[0].lower()) - ord(initial)), text))
        own = [text for text in ordered if text[0].lower() == initial]
        found[initial] = tuple(own if len(own) >= OPTIONS else nearest[:OPTIONS])
    return found
