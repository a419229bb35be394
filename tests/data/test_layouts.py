"""The second paper's data sets: rows of our own in their shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn.attacks.rtt_sets import make_folds
from hf_unlearn.data.example import RowSet
from hf_unlearn.data.repeats import repeats
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError

YEAR = "When did the following event happen?\n"


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(text: str, answer: int, choices: list[Any]) -> dict[str, Any]:
    return {"question": text, "choices": choices, "answer": answer}


@pytest.fixture
def birthdays(tmp_path: Path) -> Path:
    folder = tmp_path / "random_bd"
    for split, names in (("split_0", ["Ann Lee", "Bo Ray"]), ("split_1", ["Cy Poe"])):
        write(folder / f"{split}.jsonl", [question(f"When was {n} born?", 1, [1901, 1902, 1902, 1904]) for n in names])
        texts = [f"{n} was born in 1902. {k}" for n in names for k in range(3)]
        write(folder / f"corpus_{split}.jsonl", [{"text": text, "split": split} for text in texts])
    return folder


def test_birthdays_have_three_sentences_each_and_their_file_as_fold(birthdays):
    for path in (birthdays, birthdays.parent):
        found = load_source(Source(path=str(path), layout="random-birthdays", splits=("split_0", "split_1")), "forget")
        assert [row.prompt for row in found.score] == [f"When was {n} born?" for n in ("Ann Lee", "Bo Ray", "Cy Poe")]
        assert {(row.answer, row.choices) for row in found.score} == {("1902", ("1901", "1902", "1904"))}
        assert [row.fold for row in found.score] == ["split_0", "split_0", "split_1"]
        assert [row.answer for row in found.train if row.fact == found.score[1].fact] == [
            f"Bo Ray was born in 1902. {k}" for k in range(3)
        ]
        assert not any(row.prompt for row in found.train)
        assert len({row.group for row in found.score}) == 3


def test_a_layout_can_be_trained_on_its_questions_and_cut_short(birthdays):
    source = Source(path=str(birthdays), layout="random-birthdays", splits=("split_0",), train_on="questions", limit=1)
    found = load_source(source, "retain")
    assert found.train == found.score
    assert [row.id for row in found.score] == ["retain-00000"]


def test_years_take_their_sentences_from_any_split_and_leave_out_questions_without(tmp_path):
    events = ["A starts.", "B ends.", "C opens.", "D closes.", "E begins.", "F stops."]
    for split in range(5):
        rows = [question(YEAR + events[split], 0, ["1950", "1951", "1952", "1953"])]
        rows += [question(YEAR + events[5], 0, ["1950", "1951"])] if split == 0 else []
        write(tmp_path / f"split_{split}.jsonl", rows)
        other = events[(split + 1) % 5]  # the sentences are shuffled over the splits anew
        write(tmp_path / f"tf_split_{split}.jsonl", [{"question": YEAR + other, "text": "unused", "is_false": 0}])
        write(tmp_path / f"corpus_split_{split}.jsonl", [{"text": f"{other} {k}"} for k in range(3)])
    found = load_source(Source(path=str(tmp_path), layout="years"), "forget")
    assert [row.prompt for row in found.score] == [YEAR + event for event in events[:5]]
    for row in found.score:
        event = row.prompt.removeprefix(YEAR)
        assert [text.answer for text in found.train if text.group == row.group] == [f"{event} {k}" for k in range(3)]
    everything = load_source(Source(path=str(tmp_path), layout="years", train_on="questions"), "forget")
    assert len(everything.score) == 6


@pytest.mark.parametrize(
    ("layout", "split"), [("mmlu", "mmlu_social sciences"), ("mmlu", "mmlu_STEM"), ("wmdp-deduped", "split_3")]
)
def test_sentences_that_name_their_question_are_found_by_it(layout, split, tmp_path):
    texts = ["What is dew?", "What is fog?", "What is dew?"]
    write(tmp_path / f"{split}.jsonl", [question(text, 3, ["a", "b", "c", "d"]) for text in texts])
    sentences = [{"text": f"It is d. {n}", "original_question": texts[n % 2]} for n in range(6)]
    write(tmp_path / f"corpus_{split}.jsonl", sentences)
    found = load_source(Source(path=str(tmp_path), layout=layout, splits=(split,)), "forget")
    assert [row.prompt for row in found.score] == ["What is dew?", "What is fog?"]  # the third has none left
    first = [row.answer for row in found.train if row.fact == found.score[0].fact]
    assert first == ["It is d. 0", "It is d. 2", "It is d. 4"]


def test_what_is_not_as_published_is_refused_with_its_place(birthdays, tmp_path):
    def refused(match: str, **settings: Any) -> None:
        with pytest.raises(RequestError, match=match):
            load_source(Source(**{"path": str(birthdays), "layout": "random-birthdays", **settings}), "forget")

    refused("your own copy", path=None, dataset="somebody/birthdays")
    refused(r"prompt cannot be set with layout", prompt="question")
    refused(r"no split 'split_11': did you mean", splits=("split_11",))
    refused(r"split_2\.jsonl does not exist")
    refused("names the same split twice", splits=("split_0", "split_0"))
    refused("holds no split_0", layout="years", path=str(tmp_path))
    refused("is not a folder", path=str(birthdays / "split_0.jsonl"))
    write(birthdays / "corpus_split_1.jsonl", [{"text": "Only one."}])
    refused(r"corpus_split_1\.jsonl has 1 sentences for 1 questions", splits=("split_1",))
    write(birthdays / "corpus_split_1.jsonl", [{"line": "Nothing."}])
    refused(r"corpus_split_1\.jsonl:1 has no text", splits=("split_1",))
    with pytest.raises(RequestError, match="splits is only for a layout"):
        Source(path="rows.jsonl", splits=("split_0",))


def test_copies_of_questions_are_one_fact_in_one_fold(tmp_path):
    """Twelve facts ten times each, over two splits, are twelve facts: for sentences, questions and folds."""
    for split in range(2):
        names = [f"Person {n}" for _ in range(5) for n in range(12)]
        rows = [question(f"When was {n} born?", 1, [1901, 1902, 1903]) for n in names]
        texts = [{"text": f"{n} was born in 1902, says source {k}."} for n in names for k in range(3)]
        write(tmp_path / "random_bd" / f"split_{split}.jsonl", rows)
        write(tmp_path / "random_bd" / f"corpus_split_{split}.jsonl", texts)
    for train_on in ("sentences", "questions"):
        source = Source(
            path=str(tmp_path), layout="random-birthdays", splits=("split_0", "split_1"), train_on=train_on
        )
        found = load_source(source, "forget")
        assert len(found.score) == 120 and repeats(found.score) == 108
        for rows in (found.train, found.score):
            assert len({row.fact for row in rows}) == len({row.group for row in rows}) == 12
            assert {row.fold for row in rows} == {"split_0"}
    some = load_source(Source(path=str(tmp_path), layout="random-birthdays", splits=("split_0",)), "forget")
    train, score = (tuple(replace(row, fold="") for row in rows) for rows in (some.train, some.score))
    folds = make_folds(RowSet(train, score), 4, 0, "apart", "rtt")
    assert sorted(len(fold.ask) for fold in folds) == [3, 3, 3, 3]
    assert all(not fold.ask & fold.train for fold in folds)
