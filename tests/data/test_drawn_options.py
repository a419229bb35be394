"""Options drawn from the answers of other rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hf_unlearn.data.distractors import with_drawn_options
from hf_unlearn.data.example import Example
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError


def row(group: str, number: int) -> Example:
    return Example(f"{group}{number}", f"{group}, question {number}?", f"{group} says {number}", f"{number}", group)


ROWS = tuple(row(group, number) for group in "abc" for number in range(6))


def test_options_are_other_answers_of_the_group():
    drawn = with_drawn_options(ROWS, 3)
    for before, after in zip(ROWS, drawn, strict=True):
        assert replace(after, choices=()) == before
        assert len(set(after.choices)) == 4 and after.answer in after.choices
        assert all(choice.startswith(before.group) for choice in after.choices)


def test_the_right_answer_stands_anywhere():
    drawn = with_drawn_options(ROWS, 3)
    assert {after.choices.index(after.answer) for after in drawn} == {0, 1, 2, 3}


def test_another_order_of_the_file_gives_the_same_options():
    drawn = {after.id: after.choices for after in with_drawn_options(ROWS, 3)}
    assert {after.id: after.choices for after in with_drawn_options(ROWS[::-1], 3)} == drawn


def test_a_group_that_is_too_small_takes_answers_of_the_set():
    alone = [replace(one, group=one.id) for one in ROWS]
    groups = {choice[0] for after in with_drawn_options(alone, 3) for choice in after.choices}
    assert groups == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("rows", "wrong", "message"),
    [
        ([replace(ROWS[0], choices=("x", "y"))], 1, "options of its own: remove draw_choices"),
        ([replace(ROWS[0], prompt="")], 1, "plain text, which has no question"),
        (ROWS[:3], 3, "draw_choices is 3, but the set has only 3 different answers: set it to 2 or less"),
        (ROWS[:1], 3, "all rows of the set have one answer: remove draw_choices"),
    ],
)
def test_what_cannot_be_drawn_for(rows, wrong, message):
    with pytest.raises(RequestError, match=message):
        with_drawn_options(rows, wrong)


def test_a_source_draws(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) + "\n" for n in range(8)))
    found = load_source(Source(path=str(path), rows_per_group=4, draw_choices=3), "forget")
    assert set(found.score[0].choices) == {"a0", "a1", "a2", "a3"}
    assert load_source(Source(path=str(path), rows_per_group=4), "forget").score[0].choices == ()


def test_a_source_refuses_none():
    with pytest.raises(RequestError, match="draw_choices is 0: it must be at least 1"):
        Source(path="rows.jsonl", draw_choices=0)
