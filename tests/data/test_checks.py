"""Data on which a run would mean nothing is refused."""

from __future__ import annotations

import pytest

from hf_unlearn.data.checks import check_bundle
from hf_unlearn.data.example import EMPTY_SET, DataBundle, RowSet
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError


@pytest.fixture
def make_set(make_row):
    def make(name, *pairs):
        rows = tuple(
            make_row(prompt, answer, id=f"{name}-{number}", origin=f"{name}.jsonl:{number + 1}")
            for number, (prompt, answer) in enumerate(pairs)
        )
        return RowSet(rows, rows)

    return make


def test_good_data_passes(make_set):
    check_bundle(DataBundle(make_set("forget", ("q", "a")), make_set("retain", ("q", "b"), ("p", "a"))))


@pytest.mark.parametrize("name", ["forget", "retain"])
@pytest.mark.parametrize("part", [0, 1])
def test_empty_sets(name, part, make_set):
    sets = {"forget": make_set("forget", ("q", "a")), "retain": make_set("retain", ("q", "b"))}
    rows = sets[name].train
    sets[name] = RowSet(() if part == 0 else rows, () if part == 1 else rows)
    with pytest.raises(RequestError, match=f"the {name} set has no rows"):
        check_bundle(DataBundle(**sets))


def test_a_row_in_two_sets_names_both_lines(make_set):
    forget = make_set("forget", ("x", "y"), ("Who is it?", "Caf\u00e9  Stone"))
    same = ("who is  it?", "cafe\u0301 stone ")
    with pytest.raises(RequestError, match=r"forget and the retain.*forget\.jsonl:2 and retain\.jsonl:1"):
        check_bundle(DataBundle(forget, make_set("retain", same)))
    with pytest.raises(RequestError, match=r"forget and the holdout.*forget\.jsonl:2 and holdout\.jsonl:2"):
        check_bundle(DataBundle(forget, make_set("retain", ("a", "b")), make_set("holdout", ("c", "d"), same)))


def test_the_same_last_message_after_another_conversation_is_another_row(make_row):
    one = make_row("why?", "so", id="a", turns=(("user", "red"),), conversational=True)
    other = make_row("why?", "so", id="b", turns=(("user", "blue"),), conversational=True)
    check_bundle(DataBundle(RowSet((one,), (one,)), RowSet((other,), (other,))))


def test_a_file_given_twice_is_seen(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("one\ntwo\n")
    sets = [load_source(Source(path=str(path)), name) for name in ("forget", "retain")]
    with pytest.raises(RequestError, match=r"2 row.*rows\.txt:1 and .*rows\.txt:1"):
        check_bundle(DataBundle(*sets))


def test_duplicate_ids(make_set, make_row):
    forget, retain = make_set("forget", ("q", "a")), make_set("retain", ("q", "b"))
    twin = make_row("other", "text", id="forget-0", origin="extra.jsonl:7")
    with pytest.raises(RequestError, match=r"'forget-0'.*forget\.jsonl:1 and extra\.jsonl:7"):
        check_bundle(DataBundle(forget, retain, EMPTY_SET, RowSet((), (twin,))))
    with pytest.raises(RequestError, match="'forget-0'"):
        check_bundle(DataBundle(RowSet((*forget.train, twin), forget.score), retain))
    with pytest.raises(RequestError, match="'retain-0'"):
        check_bundle(DataBundle(forget, retain, extra={"again": retain}))
