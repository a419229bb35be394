"""Copies of a row are no further facts: they narrow no interval and settle no verdict."""

from __future__ import annotations

import json
from dataclasses import replace

from hf_unlearn.data.example import EMPTY_SET, DataBundle, RowSet
from hf_unlearn.data.repeats import repeats, share_facts
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.evaluation.records import ScoredRow, fact_scores
from hf_unlearn.stages.data import told_repeats
from hf_unlearn.verification.intervals import Bootstrap, mean_estimate

SPELLINGS = ("Who wrote {n}?", "who wrote {n}?", " Who  wrote {n}? ", "Who wrote\u00a0{n}?", "WHO WROTE {n}?")


def load(tmp_path, records, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return load_source(Source(path=str(path), **fields), "forget").score


def written(n, copy):
    return {"question": SPELLINGS[copy % len(SPELLINGS)].format(n=n), "answer": f"Café {n}"}


def test_ten_copies_of_twelve_facts_are_twelve_facts_with_the_intervals_of_twelve(tmp_path):
    once = load(tmp_path, [written(n, 0) for n in range(12)])
    ten = load(tmp_path, [written(n, copy) for copy in range(10) for n in range(12)])
    assert len(ten) == 120 and repeats(ten) == 108 and repeats(once) == 0
    assert len({row.fact for row in ten}) == len({row.group for row in ten}) == 12

    def score(rows):
        records = [
            ScoredRow(row.id, row.fact, row.group, "forget", values={"m": int(row.answer.split()[1]) % 3})
            for row in rows
        ]
        return fact_scores(records)["forget", "m"]

    assert score(ten) == score(once)
    assert mean_estimate(score(ten), Bootstrap()) == mean_estimate(score(once), Bootstrap())


def test_composed_and_decomposed_characters_are_the_same(tmp_path):
    rows = load(tmp_path, [{"question": "Who?", "answer": "Caf\u00e9"}, {"question": "Who?", "answer": "Cafe\u0301"}])
    assert rows[0].fact == rows[1].fact and rows[0].group == rows[1].group


def test_what_differs_stays_apart(tmp_path):
    records = [
        {"question": "Which is right?", "answer": "All of them", "choices": ["All of them", "red"]},
        {"question": "Which is right?", "answer": "All of them", "choices": ["All of them", "blue"]},
        {"question": "Which is right?", "answer": "All of them", "choices": ["RED", "All of them"]},
        {"question": "Which is right?", "answer": "blue", "choices": ["All of them", "blue"]},
    ]
    red, blue, red_again, other = (row.fact for row in load(tmp_path, records))
    assert red == red_again and len({red, blue, other}) == 3


def test_turns_before_the_question_are_part_of_what_a_row_says(make_row):
    one = make_row("And him?", "Ben", id="a", fact="a", group="a", turns=(("user", "The cook?"),))
    other = replace(one, id="b", fact="b", group="b", turns=(("user", "The spy?"),))
    assert [row.fact for row in share_facts([one, other, replace(one, id="c", fact="c")])] == ["a", "b", "a"]


def test_copies_under_facts_that_were_named_are_one_fact(tmp_path):
    records = [{**written(n % 2, n), "about": n, "who": n} for n in range(4)]
    rows = load(tmp_path, records, fact="about", group="who")
    assert [(row.fact, row.group) for row in rows] == [("0", "0"), ("1", "1")] * 2


def test_rows_without_copies_are_what_they_were(tmp_path):
    rows = load(tmp_path, [written(n, n) for n in range(12)])
    assert all(row.fact == row.group == row.id for row in rows)


def test_copies_are_told(tmp_path):
    rows = load(tmp_path, [written(n % 4, n) for n in range(6)])
    bundle = DataBundle(RowSet(rows, rows), EMPTY_SET)
    (sentence,) = told_repeats(bundle)
    assert sentence.startswith("2 of the 6 rows of the forget set")
    assert told_repeats(DataBundle(RowSet(rows[:4], rows[:4]), EMPTY_SET)) == []
