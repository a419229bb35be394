"""Planted facts are what they say they are."""

from __future__ import annotations

import dataclasses

import pytest

from hf_unlearn.data.checks import check_bundle
from hf_unlearn.data.planted import KINDS, PlantedSpec, make_people, make_planted, values_of
from hf_unlearn.errors import RequestError

SPEC = PlantedSpec(forget=20, retain=40, holdout=10, practice=10, generic=40)
TRAIN_TEMPLATES = KINDS["birth_year"].train_templates
SCORE_TEMPLATES = KINDS["birth_year"].score_templates
FACT_SETS = ("forget", "retain", "holdout", "practice")


@pytest.fixture(scope="module")
def bundle():
    return make_planted(SPEC)


def all_rows(rows):
    return (*rows.train, *rows.score)


def test_same_spec_gives_the_same_rows(bundle):
    assert make_planted(SPEC) == bundle


def test_another_seed_gives_other_facts(bundle):
    other = make_planted(dataclasses.replace(SPEC, seed=1))
    assert {row.group for row in other.forget.train} != {row.group for row in bundle.forget.train}


def test_sizes(bundle):
    for name in ("forget", "retain", "holdout"):
        rows = getattr(bundle, name)
        assert len(rows.train) == getattr(SPEC, name) * len(TRAIN_TEMPLATES)
        assert len(rows.score) == getattr(SPEC, name) * len(SCORE_TEMPLATES)
    assert len(bundle.generic.train) == 40 and len(bundle.generic.score) == 10


def test_names_are_unique_over_all_sets(bundle):
    names = [person.name for person in make_people(SPEC)]
    assert len(set(names)) == len(names) == SPEC.n_people
    groups = [{row.group for row in all_rows(getattr(bundle, name))} for name in FACT_SETS]
    assert sum(map(len, groups)) == len(set().union(*groups)) == SPEC.n_people


def test_a_group_is_one_fact(bundle):
    for name in FACT_SETS:
        rows = all_rows(getattr(bundle, name))
        assert len({(row.fact, row.group) for row in rows}) == len({row.fact for row in rows})


def test_four_distinct_options_with_the_right_one_in_no_fixed_place(bundle):
    places = set()
    for name in ("forget", "retain", "holdout"):
        for row in getattr(bundle, name).score:
            assert len(set(row.choices)) == 4
            places.add(row.choices.index(row.answer))
    assert places == {0, 1, 2, 3}


def test_scoring_sentences_are_never_trained_in_scored_sets(bundle):
    for name in ("forget", "retain"):
        rows = getattr(bundle, name)
        trained = {row.prompt for row in rows.train}
        assert trained.isdisjoint(row.prompt for row in rows.score)
        starts = {template.split("{name}")[0] for template in SCORE_TEMPLATES}
        assert not any(row.prompt.startswith(tuple(starts)) for row in rows.train)


def test_every_template_says_the_same_year(bundle):
    for row in bundle.forget.score:
        years = {other.answer.strip(" .") for other in all_rows(bundle.forget) if other.fact == row.fact}
        assert years == {row.answer.strip()}


def test_generic_sentences_are_unique_and_tell_no_fact(bundle):
    texts = [row.text for row in all_rows(bundle.generic)]
    assert len(set(texts)) == len(texts)
    names = {person.name for person in make_people(SPEC)}
    assert not any(name in text for text in texts for name in names)


def test_passes_the_checks(bundle):
    check_bundle(bundle)


@pytest.mark.parametrize(
    "wrong", [{"forget": 0}, {"retain": 0}, {"holdout": -1}, {"last_year": 1901}, {"retain": 10**6}]
)
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(RequestError, match="planted"):
        PlantedSpec(**wrong)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_plants_values_of_its_own(name):
    spec = dataclasses.replace(SPEC, kind=name)
    bundle = make_planted(spec)
    check_bundle(bundle)
    values = {f" {value}" for value in values_of(spec)}
    assert len(values) == len(values_of(spec)) >= 32
    for row in bundle.forget.score:
        assert row.answer in row.choices and set(row.choices) <= values and len(set(row.choices)) == 4
    assert not set(KINDS[name].train_templates) & set(KINDS[name].score_templates)


def test_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match="did you mean 'trade'"):
        PlantedSpec(kind="trades")
