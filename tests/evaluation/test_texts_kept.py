"""What is kept of texts between two scorings changes nothing, and is not mistaken for other texts."""

from __future__ import annotations

import copy

import pytest

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example
from hf_unlearn.evaluation import encoded
from hf_unlearn.evaluation.batch import grow_trees, kept_trees
from hf_unlearn.evaluation.encoded import known_texts
from hf_unlearn.evaluation.scoring import score_rows

YEARS = (" 1901", " 1934", " 1977", " 1988")
ROWS = tuple(
    Example(f"r{n}", f"{name} was born in the year of", YEARS[n], name, name, YEARS) for n, name in enumerate("Ada")
)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_last", (None, {}))


def test_a_copy_of_a_tokenizer_finds_what_the_first_one_made(tokenizer):
    fmt = TextFormat()
    known = known_texts(tokenizer, fmt, "")
    assert known_texts(copy.deepcopy(tokenizer), fmt, "") is known


def test_another_way_of_writing_rows_finds_nothing(tokenizer, monkeypatch):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<new>"])
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = "{{ messages }}"
    asked = [
        (tokenizer, TextFormat(), ""),
        (tokenizer, TextFormat(separator=" "), ""),
        (tokenizer, TextFormat(), "Sure"),
        (other, TextFormat(), ""),
        (templated, TextFormat(), ""),
    ]
    for each in asked:
        known = known_texts(*each)
        assert known == {}
        known["text"] = None
    monkeypatch.setattr(encoded, "MOST_KEPT", 0)
    assert known_texts(*asked[-1]) == {}


def test_scores_of_texts_that_are_known_are_the_same_to_the_bit(tokenizer, make_model, monkeypatch):
    model = make_model()
    first = score_rows(model, tokenizer, {"forget": ROWS}, TextFormat())
    assert encoded._last[1]
    monkeypatch.setattr("hf_unlearn.evaluation.scoring.encode_row", None)  # nothing is tokenized again
    again = score_rows(model, copy.deepcopy(tokenizer), {"other": tuple(reversed(ROWS))}, TextFormat())
    by_id = {record.id: record for record in again}
    for record in first:
        assert by_id[record.id].logps == pytest.approx(record.logps, rel=1e-6)
    assert score_rows(model, tokenizer, {"forget": ROWS}, TextFormat()) == first


def test_trees_that_are_kept_are_those_of_these_texts():
    texts = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 9)]
    for keys in (["a", "a", "a"], ["a", "b", "a"]):
        for width in (64, 10_000):
            assert list(kept_trees(texts, keys, width, 100)) == grow_trees(texts, keys, width, 100)
    assert kept_trees(texts, ["a"] * 3, 64, 100) is kept_trees([*texts], ["a"] * 3, 64, 100)
    assert list(kept_trees(texts[:2], ["a"] * 2, 64, 0)) == grow_trees(texts[:2], ["a"] * 2, 64, 0)
