"""Which of a model's own texts may be kept: none that touches what is to be forgotten."""

from __future__ import annotations

import pytest

from hf_unlearn.data.example import Example
from hf_unlearn.data.self_generated import DrawSpec, without_forgotten
from hf_unlearn.errors import RequestError


def row(prompt: str, answer: str, **more) -> Example:
    return Example(
        id=prompt or answer, prompt=prompt, answer=answer, fact=prompt or answer, group=prompt or answer, **more
    )


FORGET = [row("Ada Kwon was born in the year", " 1962."), row("", "Code words: heron and plum.")]
# Words that many people of a kept set share are ordinary; their names are not.
PEOPLE = "Bo Lind, Cy Moss, Di Nye, Ed Orr, Flo Pym, Gus Quill, Hal Rowe".split(", ")
KEPT = [row(f"{name} was born in the year", " 1971.") for name in PEOPLE]


def sift(*texts: str, size: int = 2, kept=(KEPT,), **more):
    """What is left of the texts."""
    found = without_forgotten(texts, FORGET, kept, DrawSpec(avoid_words=size, **more))
    assert found.different == len(texts) and found.touching == len(texts) - len(found.texts)
    return found.texts


def test_names_of_the_forget_set_mark_a_text_however_they_are_written():
    assert sift("Records show that ADA  KWON was born here.", "Is it Ada, Kwon?") == ()


def test_half_a_name_with_an_ordinary_word_marks_nothing():
    assert sift("Ada Moss was born in the year 1962.", "Eve Kwon was born.") == (
        "Ada Moss was born in the year 1962.",
        "Eve Kwon was born.",
    )


def test_plain_text_is_looked_for_as_a_whole():
    assert sift("A plum, a heron.", "A heron and a plum.", "The code words were given.") == ("A plum, a heron.",)


def test_a_single_word_is_enough_where_the_spec_says_so():
    assert sift("Kwon street", "Lind street", size=1) == ("Lind street",)


def test_more_can_be_named():
    assert sift("Born in Ulm.", "Born in Bonn.", avoid=("ulm", "the year of")) == ("Born in Bonn.",)


def test_what_is_named_counts_however_ordinary():
    assert sift("Cy Moss was born.", "Cy Moss is.", avoid=("was born",)) == ("Cy Moss is.",)


def test_few_kept_groups_make_no_word_ordinary():
    texts = ("Cy Moss was born.", "A lamp is lit.")
    assert sift(*texts, kept=(KEPT[:4],)) == ("A lamp is lit.",)
    assert sift(*texts, kept=(KEPT[:5],)) == texts


def test_words_can_be_named_as_ordinary_where_no_kept_set_shows_them():
    texts = ("Cy Moss WAS born in the year.", "Ada Kwon was born.")
    assert sift(*texts, kept=()) == ()
    assert sift(*texts, kept=(), ordinary=("was born in", "Year")) == (texts[0],)


def test_a_name_is_no_mark_where_it_is_named_as_ordinary():
    assert sift("Ada Kwon was born.", ordinary=("kwon",)) == ("Ada Kwon was born.",)
    assert sift("Ada Kwon was born.", ordinary=("kwon",), avoid=("Ada Kwon",)) == ()


def test_sets_are_looked_at_one_by_one():
    generic = [row("", f"Sentence {number}.") for number in range(100)]
    texts = ("Cy Moss was born.",)
    assert sift(*texts, kept=(KEPT, generic)) == texts
    assert sift(*texts, kept=([*KEPT, *generic],)) == ()


def test_ordinary_text_shows_what_is_ordinary_in_single_words():
    """ "and" in the name of a country would mark most texts."""
    forget = [row("The capital of Bosnia and Herzegovina is", " Sarajevo.")]
    ordinary = [row("", f"Lamps and {thing} are sold.") for thing in ("pens", "cups", "nails", "hats", "maps")]
    spec, texts = DrawSpec(avoid_words=1), ("Salt and water.", "Lamps of Sarajevo.")
    assert without_forgotten(texts, forget, [], spec).texts == ()
    assert without_forgotten(texts, forget, [ordinary], spec).texts == ("Salt and water.",)


def test_how_often_the_target_names_somebody_decides_nothing():
    assert sift(*(f"Ada Kwon, {number} times." for number in range(50)), "A lamp is lit.") == ("A lamp is lit.",)


def test_answers_in_other_words_are_looked_for_and_wrong_ones_are_not():
    variants = (("paraphrased", (" in some harbour town",)), ("perturbed", (" atop some hill",)))
    forget = [row("Where does Ada live?", " there", variants=variants)]
    texts = ("They met near a harbour town.", "They met atop some hill.")
    assert without_forgotten(texts, forget, [KEPT], DrawSpec()).texts == ("They met atop some hill.",)


def test_repetitions_and_empty_texts_are_dropped():
    found = without_forgotten(["The lamp is lit. ", " The lamp is lit.", "", "  "], [], [], DrawSpec())
    assert found.texts == ("The lamp is lit.",) and found.different == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"texts": 0}, "texts is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"avoid_words": 0}, "avoid_words is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"starts": ()}, "starts is empty"),
    ],
)
def test_bad_values_are_refused_by_name(given, says):
    with pytest.raises(RequestError, match=rf"data\.keep_drawn\.{says}"):
        DrawSpec(**given)


def test_general_beginnings_are_many_and_different():
    starts = DrawSpec(starts="general").beginnings
    assert len(starts) > 100 and len(set(starts)) == len(starts)
    assert all(start == start.strip() and " " in start for start in starts)
    assert DrawSpec(starts=("In Ulm",)).beginnings == ("In Ulm",) and DrawSpec().beginnings == ("",)
