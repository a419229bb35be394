"""Where other answers to the forget prompts come from, and what is refused."""

from __future__ import annotations

import pytest

from hf_unlearn.data.alternates import ALTERNATES
from hf_unlearn.data.alternates.base import Given, SampledAnswers, check_prompts, same_answer, shaped_like
from hf_unlearn.data.alternates.fixed import REFUSALS
from hf_unlearn.data.example import Example
from hf_unlearn.errors import RequestError
from hf_unlearn.registry import build_part


def row(name: str, answer: str, fact: str = "", choices: tuple[str, ...] = (), **more) -> Example:
    return Example(
        name, f"Question {name}?", answer, fact or name, fact or name, choices, f"rows.jsonl:{name}", **more
    )


FORGET = [
    row("1", " 1950.", "a", (" 1950", " 1951", " 1952")),
    row("2", " 1950.", "a", (" 1953", " 1950", " 1954")),
    row("3", " 1960.", "b", (" 1960", " 1961")),
]
RETAIN = [row(f"r{year}", f" {year}.") for year in (1950, 1970, 1971, 1972)]


def answers(spec, forget=FORGET, retain=RETAIN, seed=0, write=None):
    return build_part(ALTERNATES, spec).answers(Given(forget, retain, seed, write))


def test_options_are_the_wrong_ones_with_the_space_of_the_answer():
    assert answers("options") == [(" 1951", " 1952"), (" 1953", " 1954"), (" 1961",)]


def test_a_fixed_option_is_one_for_all_rows_of_a_fact_and_for_every_epoch():
    found = answers("fixed-option")
    assert found[0] == found[1] and len(found[0]) == 1
    assert found[0][0] in (" 1951", " 1952", " 1953", " 1954")
    assert found == answers("fixed-option", list(reversed(FORGET)))[::-1]  # the order of rows changes nothing
    assert len({answers("fixed-option", seed=seed)[0] for seed in range(20)}) > 1


def test_a_fixed_option_is_right_in_no_row_of_the_fact():
    rows = [row("1", " red", "a", (" red", " blue")), row("2", " Blue.", "a", (" Blue.", " green"))]
    assert answers("fixed-option", rows) == [(" green",), (" green",)]


def test_a_row_without_options_takes_its_facts():
    rows = [row("1", " 1950.", "a", (" 1950", " 1951")), row("2", " 1950.", "a")]
    assert answers("fixed-option", rows) == [(" 1951",), (" 1951",)]


def test_variants_of_the_kind_that_is_named():
    rows = [row("1", " yes", variants=(("perturbed", ("no", "maybe")), ("paraphrased", ("indeed",))))]
    assert answers("variants", rows) == [(" no", " maybe")]
    assert answers({"name": "variants", "kind": "paraphrased"}, rows) == [(" indeed",)]


def test_refusals_are_this_projects_or_the_users():
    found = answers("refusals")
    assert found[0] == tuple(f" {text}" for text in REFUSALS) and len(set(REFUSALS)) == 16
    assert answers({"name": "refusals", "texts": ["No idea."]})[2] == (" No idea.",)
    assert answers({"name": "fixed-text", "text": "unknown"}, [row("1", "1950")]) == [("unknown",)]


def test_other_answers_come_from_retain_rows_and_are_wrong():
    found = answers({"name": "other-answers", "count": 2})
    assert all(len(texts) == 2 == len(set(texts)) for texts in found)
    assert not {text for texts in found for text in texts} - {" 1970.", " 1971.", " 1972.", " 1950."}
    assert " 1950." not in found[0] + found[1]
    assert found == answers({"name": "other-answers", "count": 2})
    assert any(found != answers({"name": "other-answers", "count": 2}, seed=seed) for seed in range(1, 6))


def test_generated_answers_that_are_right_empty_or_repeated_are_dropped():
    asked: list[tuple[list[Example], SampledAnswers]] = []

    def write(rows, wish):
        asked.append((rows, wish))
        return [["1950", " 1955", "1955", "", " 1950.", "1956 "] for _ in rows]

    spec = {"name": "generated", "count": 6, "ask": "Not {answer}: {prompt}", "stop": ["\n"], "seed": 4}
    assert answers(spec, FORGET[:1], write=write) == [(" 1955", " 1956")]
    rows, wish = asked[0]
    assert rows[0].prompt == "Not 1950.: Question 1?" and rows[0].id == "1"
    assert wish == SampledAnswers(6, 1.0, 200, ("\n",), 4)


def test_a_target_that_only_knows_the_true_answer_is_refused():
    with pytest.raises(RequestError, match=r"rows.jsonl:1 in 5 samples: raise alternates.temperature"):
        answers("generated", FORGET[:1], write=lambda rows, wish: [[" 1950."] * 5])


@pytest.mark.parametrize(
    ("spec", "forget", "message"),
    [
        ("options", [row("9", " 1950.")], "rows.jsonl:9 has no wrong options"),
        ("options", [row("9", " 1950.", choices=(" 1950", " 1950."))], "rows.jsonl:9 has no wrong options"),
        ("fixed-option", [row("9", " 1950.")], "rows.jsonl:9 has no wrong options"),
        ("variants", [row("9", " 1950.")], "rows.jsonl:9 has no variants of kind 'perturbed' .it has none"),
    ],
)
def test_rows_that_have_none_are_named(spec, forget, message):
    with pytest.raises(RequestError, match=message):
        answers(spec, forget)


def test_retain_rows_that_all_say_the_same_are_refused():
    with pytest.raises(RequestError, match=r"no retain row has another answer than rows\.jsonl:9"):
        answers("other-answers", [row("9", " 1970")], [row("r", " 1970.")])


def test_plain_text_has_no_other_answer():
    with pytest.raises(RequestError, match=r"rows\.jsonl:3 has no prompt"):
        check_prompts([*FORGET, Example("x", "", "Some text.", "x", "x", origin="rows.jsonl:3")])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refusal", "did you mean 'refusals'"),
        ("fixed-text", "fixed-text.text is ''"),
        ({"name": "refusals", "texts": []}, "refusals.texts"),
        ({"name": "refusals", "texts": [" "]}, "refusals.texts"),
        ({"name": "refusals", "texts": "No."}, "refusals.texts must be a list"),
        ({"name": "refusals", "text": "No."}, "no parameter 'text': did you mean 'texts'"),
        ({"name": "other-answers", "count": 0}, "other-answers.count"),
        ({"name": "generated", "count": 0}, "generated.count"),
        ({"name": "generated", "temperature": 0}, "generated.temperature"),
        ({"name": "generated", "max_new_tokens": 0}, "generated.max_new_tokens"),
        ({"name": "generated", "ask": "Say something."}, "must hold {prompt}"),
        ({"name": "generated", "stop": "\n"}, "generated.stop"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(spec, message):
    with pytest.raises(RequestError, match=message):
        build_part(ALTERNATES, spec)


def test_answers_alike_but_for_case_space_and_stop():
    assert same_answer(" The  Blue house.", "the blue house")
    assert not same_answer("1950", "1951")
    assert shaped_like(row("1", "  two"), " x ") == "  x" and shaped_like(row("1", "none"), " x") == "x"
