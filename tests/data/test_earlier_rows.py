"""What earlier deletion requests were about is found again in rows that are to be kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.data.checks import check_bundle
from hf_unlearn.data.earlier import EarlierText, without_earlier
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.errors import RequestError


def row(name: str, prompt: str, answer: str) -> Example:
    return Example(name, prompt, answer, name, name, origin=f"file:{name}")


ADA = row("a", "In which town was Ada Quill born?", " In Oslo.")
BO = row("b", "Continue:", " Bo Fenn grew up on a farm near Bergen with five sisters and a blind horse called Moss.")
CY = row("c", "Continue:", " Cy Rudd sold kites.")


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ("In which town was Ada Quill born?", " In Oslo.", True),
        ("in which town was  ADA QUILL born?", " in oslo.", True),
        ("In which town was Ada Quill born?", " Where her mother lived.", True),
        ("In which town was Ida Quill born?", " In Oslo.", False),
        ("", "People say that Bo Fenn grew up on a farm near Bergen with five sisters and a horse.", True),
        ("", "People say that Bo Fenn grew up on a farm.", False),
        ("Continue:", " Dee Lund sold boats.", False),
        ("Continue:", " Cy Rudd sold kites.", True),
    ],
)
def test_rows_that_say_it_again(prompt, answer, found):
    assert EarlierText([ADA, BO, CY]).is_in(row("x", prompt, answer)) is found


def test_it_is_left_out_wherever_it_would_be_kept_and_counted():
    other = row("o", "In which town was Eva Holm born?", " In Turku.")
    again = {name: replace(ADA, id=name) for name in ("r", "g", "p", "e")}
    bundle = DataBundle(
        forget=RowSet((row("f", "Who is Finn?", " A baker."),) * 1, (row("f", "Who is Finn?", " A baker."),)),
        retain=RowSet((again["r"], other), (other,)),
        generic=RowSet((again["g"],), (again["g"],)),
        practice=RowSet((again["p"],), ()),
        extra={"more": RowSet((), (again["e"], other))},
        earlier={"one": RowSet((ADA,), (ADA,))},
    )
    kept = without_earlier(bundle)
    assert kept.retain == RowSet((other,), (other,))
    assert list(kept.generic) == list(kept.practice) == []
    assert kept.extra["more"].score == (other,)
    assert kept.forget == bundle.forget
    assert [note.split(" are left out")[0] for note in kept.notes] == [
        "1 of the 2 rows of the retain set",
        "1 of the 1 rows of the generic set",
        "1 of the 1 rows of the practice set",
        "1 of the 2 rows of the more set",
    ]
    assert set(kept.never_said) == {*bundle.forget, ADA}


def test_what_was_forgotten_cannot_be_what_nobody_knew():
    asked = row("f", "Who is Finn?", " A baker.")
    bundle = DataBundle(
        RowSet((asked,), (asked,)),
        RowSet((BO,), (BO,)),
        holdout=RowSet((), (replace(ADA, id="h"),)),
        earlier={"one": RowSet((ADA,), (ADA,))},
    )
    with pytest.raises(RequestError, match=r"both the earlier one and the holdout set, the first at file:a"):
        check_bundle(bundle)
