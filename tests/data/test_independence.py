"""Facts that tell of each other are found by what their texts share, and nothing else puts them together."""

from __future__ import annotations

from dataclasses import replace

from hf_unlearn.data.example import Example
from hf_unlearn.data.independence import find_leaks, overlapping
from hf_unlearn.data.planted import PlantedSpec, make_planted


def rows(*texts: tuple[str, str]) -> list[Example]:
    """One group per row, and a few more that share nothing, so that two of all groups are few."""
    others = [(f"Question number{chr(97 + n)} about thing{chr(97 + n)}?", f"reply{chr(97 + n)}") for n in range(20)]
    pairs = [*texts, *others]
    return [Example(str(n), prompt, answer, str(n), f"g{n:02d}") for n, (prompt, answer) in enumerate(pairs)]


def together(found: list[Example]) -> set[frozenset[str]]:
    """Groups that were put together."""
    component = find_leaks(found).component
    sets = {frozenset(g for g in component if component[g] == name) for name in component.values()}
    return {members for members in sets if len(members) > 1}


def test_the_same_row_twice_and_the_same_question_with_two_answers_belong_together():
    found = rows(("Who wrote it?", "Ann"), ("who  WROTE it?", "ann"), ("Who wrote it?", "Bob"))
    assert together(found) == {frozenset({"g00", "g01", "g02"})}
    assert find_leaks(found).counts()["sharing_a_text"] == 3


def test_two_questions_about_one_person_belong_together_and_an_opening_word_is_no_name():
    found = rows(
        ("Did Ilse Marwick's father paint?", "no"),
        ("In which town did Ilse Marwick live?", "Ashford"),
        ("Did Jon Ask go?", "no"),
        ("Did Jon Bee go?", "yes"),
    )
    assert together(found) == {frozenset({"g00", "g01"})}
    assert find_leaks(found).counts()["sharing_a_name"] == 2


def test_names_chain_and_the_first_group_names_the_set():
    found = rows(
        ("Is Ada Lark with Ben Moss?", "no"), ("Has Ben Moss met Cy Thorn?", "yes"), ("Was Cy Thorn ill?", "no")
    )
    leaks = find_leaks(found)
    assert {leaks.component[group] for group in ("g00", "g01", "g02")} == {"g00"}
    assert leaks.reach(["g02"]) == {"g00", "g01", "g02"}
    assert leaks.counts()["largest"] == 3
    assert leaks.counts()["independent_groups"] == 21
    assert find_leaks(reversed(found)).component == leaks.component


def test_a_name_that_a_fifth_of_all_groups_hold_says_nothing():
    common = [(f"What of the Great Empire and topic{chr(97 + n)}?", f"a{n}") for n in range(8)]
    assert together(rows(*common)) == set()
    assert together(rows(*common[:3])) == {frozenset({"g00", "g01", "g02"})}


def test_a_copied_passage_is_found_and_a_template_is_not():
    passage = "seven striped otters juggled copper kettles beneath frozen lanterns"
    found = rows((f"Is it true that {passage} yesterday?", "yes"), (f"They say {passage} in 1931.", "no"))
    assert together(found) == {frozenset({"g00", "g01"})}
    assert find_leaks(found).counts()["sharing_words"] == 2
    template = [
        (f"According to the old archive of the town, when was person{chr(97 + n)} born?", "x") for n in range(9)
    ]
    assert together(rows(*template)) == set()


def test_the_same_answer_is_no_leak():
    assert together(rows(("When was ann born?", "1961"), ("When was bob born?", "1961"))) == set()


def test_planted_facts_are_independent_and_a_doubled_person_is_found():
    bundle = make_planted(PlantedSpec(forget=40, retain=1, holdout=0, practice=0, generic=0))
    assert find_leaks(bundle.forget).counts() == {
        "groups": 40,
        "independent_groups": 40,
        "largest": 1,
        "sharing_a_text": 0,
        "sharing_a_name": 0,
        "sharing_words": 0,
    }
    doubled = [*bundle.forget, *(replace(row, id=f"x{row.id}", group="other") for row in bundle.forget.train[:3])]
    assert together(doubled) == {frozenset({bundle.forget.train[0].group, "other"})}


def test_rows_that_are_trained_word_by_word_are_counted():
    asked = rows(("Who wrote it?", " Ann"), ("When?", "Now"))[:2]
    trained = [replace(asked[0], id="t", prompt="WHO wrote it?"), replace(asked[1], id="u", answer="Later")]
    assert overlapping(trained, asked) == 1
