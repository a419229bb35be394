"""Long texts in pieces, and questions that are scored in place of the texts that are trained on."""

import json

import pytest

from hf_unlearn.data.example import Example
from hf_unlearn.data.sources import Source, load_source, scored_apart
from hf_unlearn.data.windows import in_windows
from hf_unlearn.errors import RequestError


def text_row(text, number=0):
    return Example(f"t-{number}", "", text, f"t-{number}", f"t-{number}", origin=f"file:{number}")


def test_pieces_are_the_text_and_no_longer_than_asked():
    text = " ".join(f"word{number}" for number in range(50)) + "\n\nanother paragraph\tends here"
    pieces = in_windows([text_row(text), text_row("short", 1)], 40)
    assert all(len(piece.answer) <= 40 for piece in pieces)
    assert " ".join(" ".join(piece.answer for piece in pieces[:-1]).split()) == " ".join(text.split())
    assert pieces[-1] == text_row("short", 1)
    assert len({piece.id for piece in pieces}) == len({piece.fact for piece in pieces}) == len(pieces)
    assert {piece.group for piece in pieces} == {"t-0", "t-1"}


def test_a_word_longer_than_a_piece_is_cut():
    assert [piece.answer for piece in in_windows([text_row("x" * 25)], 10)] == ["x" * 10, "x" * 10, "x" * 5]


def test_a_question_is_not_cut():
    with pytest.raises(RequestError, match="file:0: window cuts plain text"):
        in_windows([Example("q", "Who?", "Nobody.", "q", "q", origin="file:0")], 10)


def test_a_source_is_cut_after_its_limit(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": "aa bb cc dd"}) for _ in range(3)), encoding="utf-8")
    rows = load_source(Source(path=str(file), limit=2, window=5), "forget")
    assert [row.answer for row in rows.train] == ["aa bb", "cc dd"] * 2
    with pytest.raises(RequestError, match="window is 0"):
        Source(path=str(file), window=0)


def test_rows_that_are_only_scored_are_no_facts_that_are_trained_on():
    rows = (text_row("one"), text_row("two", 1))
    apart = scored_apart(rows)
    assert [row.answer for row in apart] == ["one", "two"]
    for key in ("id", "fact", "group"):
        assert not {getattr(row, key) for row in rows} & {getattr(row, key) for row in apart}
