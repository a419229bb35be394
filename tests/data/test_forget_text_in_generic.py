"""Ordinary text in which the forget set stands is refused or told."""

from __future__ import annotations

import pytest

from hf_unlearn.data.checks import check_bundle, holding_forgotten
from hf_unlearn.data.example import EMPTY_SET, DataBundle, RowSet
from hf_unlearn.data.overlap import Overlap, as_seen, words
from hf_unlearn.errors import RequestError
from hf_unlearn.stages.data import told_repeats

FACT = ("What does Bo Lind collect?", "Bo Lind collects old brass keys from the café")


@pytest.fixture
def bundle(make_row):
    def make(*texts: str) -> DataBundle:
        forget = make_row(*FACT, id="forget-0", fact="forget-0", group="forget-0", origin="forget.jsonl:1")
        retain = make_row("Who?", "Ada", id="retain-0", fact="retain-0", group="retain-0", origin="retain.jsonl:1")
        generic = tuple(
            make_row("", text, id=f"g{n}", fact=f"g{n}", group=f"g{n}", origin=f"generic.txt:{n + 1}")
            for n, text in enumerate(texts)
        )
        return DataBundle(RowSet((forget,), (forget,)), RowSet((retain,), (retain,)), EMPTY_SET, RowSet(generic, ()))

    return make


def test_a_forget_row_as_ordinary_text_is_refused_with_both_lines(bundle):
    same = f"{FACT[0]}  {FACT[1].upper()}"
    with pytest.raises(RequestError, match=r"forget and the generic.*forget\.jsonl:1 and generic\.txt:2") as caught:
        check_bundle(bundle("Snow fell.", same))
    assert "brass" not in str(caught.value)


def test_text_that_holds_one_is_told(bundle):
    longer = f"We asked: {' '.join(FACT)}. So it was."
    check_bundle(bundle("Snow fell on all of the hills that winter.", longer))
    assert holding_forgotten(bundle("Snow fell on all of the hills that winter.", longer)) == 1
    (told,) = told_repeats(bundle(longer, "Snow"))
    assert told.startswith("1 rows of the generic set hold text of the forget set") and "brass" not in told
    assert told_repeats(bundle("Snow fell.")) == []


WRITTEN = [
    "bo lind collects old brass keys from the cafe\u0301",
    "Bo Li\u200bnd coll\u00adects old br\u2060ass keys from the caf\u00e9",
    "Bo_Lind_collects_old_brass_keys_from_the_café",
    "Bo Lind collects old brass keys from the caf&eacute;",
    "Bo&nbsp;Lind&#32;collects &#111;ld br&#x61;ss keys from the caf&amp;eacute;",
    "\ufb01ne: Ｂｏ Ｌｉｎｄ collects old bra\u034fss keys\u3164 from the café\ufe0f",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_it_is_found_however_it_is_written(text):
    assert Overlap([FACT[1]]).touches(f"They say {text}!")


def test_what_is_plain_stays_what_it_was():
    assert as_seen("AT&T & Co, 5 < 6") == "at&t & co, 5 < 6"
    assert words("It's 1999: naïve 東京") == ["it", "s", "1999", "naïve", "東", "京"]
