"""Which text a quantizer sees: what is left out of it, what is counted, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from text_models import bundle, calibration

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example, RowSet
from hf_unlearn.data.overlap import Overlap, words
from hf_unlearn.errors import RequestError
from hf_unlearn.quantization import ALIASES, FORMATS, calibration_kinds
from hf_unlearn.quantization.calibration import CalibrationSpec, Text, choose

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def plain(number: int, text: str) -> Example:
    return Example(f"text-{number}", "", text, f"text-{number}", f"text-{number}")


def chosen(texts, kind="generic", sets=None, **spec):
    text = Text(tuple(plain(number, row) for number, row in enumerate(texts)), "a text", "v1")
    return choose(kind, CalibrationSpec(**spec), text, sets or bundle(), TextFormat(), seed=0)


def ordinary(count: int) -> list[str]:
    return [f"Sentence {number} speaks of nothing in particular, only of number {number}." for number in range(count)]


@pytest.mark.parametrize(
    ("text", "touches"),
    [
        (LONG, True),
        ("And so: ONE, two;  three-four five six seven eight nine ten eleven twelve THIRTEEN!", True),
        ("two three four five six seven eight nine ten eleven twelve thirteen fourteen and more", True),
        ("one two three four five six seven eight nine ten eleven twelve", False),
        ("one two three four five six, seven eight nine ten eleven twelve zero thirteen fourteen", False),
        ("", False),
    ],
)
def test_thirteen_words_in_a_row_are_an_overlap(text, touches):
    assert Overlap([LONG]).touches(text) is touches


def test_short_texts_are_looked_for_as_a_whole_and_very_short_ones_not_at_all():
    known = Overlap(["Ann Ashbury was born in 1956.", "Born in 1956."])
    assert known.touches("It is written that ann ashbury was born in 1956 and lived long after it.")
    assert not known.touches("Ann Ashbury was born in 1957.")
    assert not known.touches("Many were born in 1956.")


def test_characters_without_spaces_between_words_are_counted_one_by_one():
    assert len(words("東京は日本の首都です。")) == 10
    assert words("Ｆｕｌｌ width, ﬁne") == ["full", "width", "fine"]
    assert Overlap(["東京は日本の首都です。"]).touches("昔から東京は日本の首都ですと書いてある。")


def test_rows_that_repeat_forget_or_scoring_text_are_taken_out_and_counted():
    forget, kept = bundle().forget.train[5], bundle().retain.score[3]
    rows = [
        *ordinary(9),
        f"Somebody wrote: {forget.text} And nobody minded at all.",
        f"Once more: {kept.text}, as everybody knows by now.",
        bundle().generic.score[0].text,
        "Too short.",
    ]
    found = chosen(rows)
    assert found.removed == {"forget": 1, "scoring": 2, "short": 1}
    assert sorted(row.text for row in found.rows) == sorted(ordinary(9))
    record = found.record(tokens=77)
    assert (record["found"], record["rows"], record["tokens"], record["revision"]) == (13, 9, 77, "v1")
    assert "Sentence" not in json.dumps(record)


def test_answers_in_other_words_count_as_scoring_text():
    row = replace(
        bundle().retain.score[0],
        variants=(("paraphrased", (" the twelfth year of the king's long reign",)), ("perturbed", (" no year",))),
    )
    sets = replace(bundle(), retain=RowSet(bundle().retain.train, (row,)))
    told = f"{row.prompt} the twelfth year of the king's long reign"
    assert chosen([*ordinary(3), told], sets=sets).removed["scoring"] == 1
    assert chosen([*ordinary(3), f"{row.prompt} no year"], sets=sets).removed["scoring"] == 0


def test_the_draw_depends_on_the_seed_alone():
    text = Text(tuple(plain(number, row) for number, row in enumerate(ordinary(200))), "a text")
    spec = CalibrationSpec(rows=10)
    first, again, other = (choose("generic", spec, text, bundle(), TextFormat(), seed) for seed in (1, 1, 2))
    assert first == again and len(first.rows) == 10
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert [row.id for row in first.rows] == sorted((row.id for row in first.rows), key=lambda name: int(name[5:]))


def test_the_forget_set_is_used_only_where_it_is_asked_for():
    generic, aware = (chosen(ordinary(40), kind, rows=20) for kind in ("generic", "forget-aware"))
    assert not generic.forget_rows and len(generic.rows) == 20
    assert len(aware.forget_rows) == len(aware.rows) == 10
    assert set(aware.forget_rows) <= set(bundle().forget.train)
    assert set(aware.rows).isdisjoint(aware.forget_rows)
    # What is published lets nobody test guesses at the forget set.
    assert aware.record(1)["digest"] == chosen(ordinary(40), rows=10).record(1)["digest"]
    assert aware.fingerprint() != chosen(ordinary(40), rows=10).fingerprint()


@pytest.mark.parametrize("kind", ["generic", "forget-aware"])
def test_a_text_that_is_the_forget_set_is_refused(kind):
    rows = [*ordinary(3), *(row.text for row in bundle().forget.train)]
    with pytest.raises(RequestError, match=r"72 of 75 rows of the calibration text \(a text\) repeat the forget set"):
        chosen(rows, kind)


def test_a_text_without_a_row_of_its_own_is_refused_with_the_mend():
    with pytest.raises(RequestError, match=r"has no rows: set another text in export\.calibration\.source"):
        chosen([])
    scored = [row.text for row in bundle().generic.score]
    with pytest.raises(RequestError, match=rf"of {len(scored)} rows {len(scored)} are scored too.*score_limit"):
        chosen(scored)


def test_text_that_is_too_short_for_the_model_is_refused():
    found = calibration()
    found.check_length(tokens=300, widest=300)
    with pytest.raises(RequestError, match=r"has 299 tokens in 24 rows, and 300 are needed"):
        found.check_length(tokens=299, widest=300)
    calibration(min_tokens=5).check_length(tokens=5, widest=300)


@pytest.mark.parametrize(("key", "value"), [("rows", 0), ("max_length", 1), ("min_tokens", 0)])
def test_settings_out_of_range_name_their_key(key, value):
    with pytest.raises(RequestError, match=rf"export\.calibration\.{key} is {value}"):
        CalibrationSpec(**{key: value})


def test_a_name_says_which_text_a_format_is_calibrated_on():
    assert set(ALIASES.values()) <= set(FORMATS.names())
    entry = FORMATS.get("gptq-int4@forget-aware")
    assert entry.name == entry.value.name == "gptq-int4-g128@forget-aware"
    assert entry.value is FORMATS.get("gptq-int4-g128@forget-aware").value
    assert issubclass(entry.value, FORMATS.get("gptq-int4").value)
    kinds = calibration_kinds(["bf16", "awq-int4-g32", "gptq-int4-g32@forget-aware"], "generic")
    assert kinds == {"awq-int4-g32": "generic", "gptq-int4-g32@forget-aware": "forget-aware"}
    with pytest.raises(RequestError, match="bnb-nf4 needs no calibration text"):
        FORMATS.get("bnb-nf4@generic")
    with pytest.raises(RequestError, match="did you mean 'forget-aware'"):
        FORMATS.get("awq-int4@forgetaware")
