"""RTT's data: what is kept apart, in which words T is written, and how V is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.rtt_paper import RTTPaper
from hf_unlearn.attacks.rtt_sets import BARE, by_letter, make_folds, write_texts
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import EMPTY_SET, DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError

WORDS = "amber birch cedar dusk ember fjord grove heath islet jetty knoll larch".split()


def question(number: int, **changes: object) -> Example:
    row = Example(
        f"q{number}", f"Where is {WORDS[number]}?", f"in {WORDS[number][::-1]}", f"f{number}", f"g{number:02d}"
    )
    given = {"choices": ("here", row.answer, "there"), "origin": f"rows.jsonl:{number + 1}", **changes}
    return replace(row, **given)


def bundle_of(*rows: Example) -> DataBundle:
    return DataBundle(RowSet(rows, rows), RowSet(rows[:1], rows[:1]))


@pytest.fixture
def leaky() -> DataBundle:
    """Ten questions; three of them are about one person."""
    people = [question(n, prompt=f"Did Ilse Marwick see {WORDS[n]}?") for n in (2, 5, 7)]
    return bundle_of(*(question(n) for n in (0, 1, 3, 4, 6, 8, 9)), *people)


def test_facts_that_tell_of_each_other_are_on_one_side_in_every_fold(leaky):
    for seed in range(20):
        folds = make_folds(leaky.forget, 4, seed, "apart", "rtt")
        for fold in folds:
            assert len({"g02", "g05", "g07"} & fold.ask) in (0, 3)
            assert not fold.train & fold.ask
            assert len(fold.train | fold.ask) == 10
        assert sorted(group for fold in folds for group in fold.ask) == sorted({row.group for row in leaky.forget})
        assert max(len(fold.ask) for fold in folds) <= 3  # three people are one part, the others share the rest


def test_leaks_are_in_the_budget_as_counts_without_texts(leaky):
    budget = RTT(folds=4).budget(leaky)
    assert budget["leaks"] == {
        "handled": "apart",
        "groups": 10,
        "independent_groups": 8,
        "largest": 3,
        "sharing_a_text": 0,
        "sharing_a_name": 3,
        "sharing_words": 0,
    }
    assert "Marwick" not in str(budget)
    split = [make_folds(leaky.forget, 4, seed, "report", "rtt") for seed in range(20)]
    assert any(len({"g02", "g05", "g07"} & fold.ask) == 1 for folds in split for fold in folds)


def test_too_few_independent_facts_are_refused_with_the_way_out():
    same = bundle_of(*(question(n, prompt="Who?", answer="Ann", choices=("Ann", "Bo")) for n in range(4)))
    with pytest.raises(RequestError, match=r"4 groups share names or texts, so only 1 .*leaks to report"):
        RTT(folds=2).plan(same)


def test_a_t_that_contains_v_is_refused():
    rows = [question(n) for n in range(6)]
    doubled = bundle_of(*rows, *(replace(row, id=f"x{row.id}", group=f"x{row.group}", fact="x") for row in rows[:3]))
    with pytest.raises(RequestError, match=r"row\(s\) of V stand word by word in T.*leaks to apart"):
        RTT(folds=9, leaks="report").plan(doubled)
    assert RTT(folds=6).plan(doubled)


def test_a_split_that_the_data_came_with_is_kept_and_what_tells_of_v_leaves_t(leaky):
    rows = [replace(row, fold=f"split_{index % 2}") for index, row in enumerate(leaky.forget.score)]
    forget = RowSet(tuple(rows), tuple(rows))
    people = {"g02", "g05", "g07"}
    for index, fold in enumerate(make_folds(forget, 2, 0, "apart", "rtt")):
        assert fold.ask == {row.group for row in rows if row.fold == f"split_{index}"}
        assert fold.left_out == people - fold.ask
        assert not fold.train & (fold.ask | fold.left_out)
    assert RTT(folds=2).budget(DataBundle(forget, forget))["groups_left_out"] == 2
    with pytest.raises(RequestError, match=r"came in 2 folds and attack\.rtt\.folds is 5: set it to 2"):
        make_folds(forget, 5, 0, "apart", "rtt")
    torn = (*rows, replace(rows[0], id="again", fold="split_1"))
    with pytest.raises(RequestError, match="is in two of its folds"):
        make_folds(RowSet(torn, torn), 2, 0, "apart", "rtt")


def test_a_t_without_anything_left_is_refused():
    pairs = [
        question(n, prompt=f"Is Ilse Marwick{'a' * (n // 2)} in {WORDS[n]}?", fold=f"split_{n % 2}") for n in range(6)
    ]
    with pytest.raises(RequestError, match="every fact of T reveals something about V"):
        make_folds(RowSet(tuple(pairs), tuple(pairs)), 2, 0, "apart", "rtt")


def test_multiple_choice_is_written_as_published():
    forget = RowSet((), (question(0),))
    texts = write_texts("multiple-choice", forget, ["g00"], TextFormat(template="Q: {prompt}"), "rtt")
    (row,) = texts.rows
    assert row.text == "Where is amber?\nA. here\nB. in rebma\nC. there\nAnswer: B. in rebma"
    assert (texts.format, texts.ended) == (BARE, False)


def test_planted_options_lose_the_space_that_only_running_text_needs_and_each_question_comes_once():
    planted = make_planted(PlantedSpec(forget=2, retain=1, holdout=0, practice=0, generic=0, option_draws=3))
    group = planted.forget.score[0].group
    rows = write_texts("multiple-choice", planted.forget, [group], TextFormat(), "rtt").rows
    assert [row.prompt.splitlines()[0] for row in rows] == [
        f"It is known that {group} was born in the year",
        f"According to the archive, the birth of {group} took place in the year",
    ]
    first = planted.forget.score[0]
    assert rows[0].prompt.splitlines()[1] == f"A.{first.choices[0]}"
    assert rows[0].answer.endswith(f".{first.answer}")


def test_question_and_answer_are_written_as_the_data_writes_them():
    fmt = TextFormat(template="Q: {prompt}\nA:", separator=" ")
    texts = write_texts("question-answer", RowSet((), (question(1), question(2))), ["g02"], fmt, "rtt")
    assert [(row.prompt, row.answer) for row in texts.rows] == [("Where is cedar?", "in radec")]
    assert texts.format == fmt
    plain = question(3, prompt="", choices=())
    with pytest.raises(RequestError, match=r"rows\.jsonl:4: rtt\.form is question-answer.*set it to sentences"):
        write_texts("question-answer", RowSet((), (plain,)), ["g03"], fmt, "rtt")


def test_sentences_are_plain_text_or_a_prompt_that_runs_on():
    plain = question(3, prompt="", answer="The heath is far.", choices=())
    running = Example("r", "Bo was born in", "1961.", "f", "g03")
    texts = write_texts("sentences", RowSet((plain, running), ()), ["g03"], TextFormat(separator=" "), "rtt")
    assert [(row.prompt, row.answer) for row in texts.rows] == [
        ("", "The heath is far."),
        ("", "Bo was born in 1961."),
    ]
    for row, fmt in ((question(3), TextFormat()), (running, TextFormat(template="Question: {prompt}"))):
        with pytest.raises(RequestError, match=r"is a question with an answer.*question-answer"):
            write_texts("sentences", RowSet((row,), ()), ["g03"], fmt, "rtt")


def test_v_is_asked_for_by_the_letter_of_the_right_option():
    (row,) = by_letter([question(0)], "rtt")
    assert row.prompt == "Where is amber?\nA. here\nB. in rebma\nC. there\nAnswer:"
    assert (row.answer, row.choices) == (" B", (" A", " B", " C"))
    assert (row.fact, row.group) == ("f0", "g00")


def test_rows_without_options_are_refused_before_anything_runs():
    rows = bundle_of(*(question(n, choices=()) for n in range(10)))
    with pytest.raises(RequestError, match=r"rows\.jsonl:\d+: rtt-paper writes multiple-choice.*form and asked_by"):
        RTTPaper().plan(rows)
    with pytest.raises(RequestError, match="rtt writes multiple-choice"):
        RTT(asked_by="letters").plan(rows)
    assert len(RTTPaper(form="question-answer", asked_by="rows").plan(rows)) == 12


def test_a_forget_set_that_is_only_scored_leaves_nothing_to_train_on():
    rows = tuple(question(n) for n in range(10))
    with pytest.raises(RequestError, match="T has no rows to train on"):
        RTT().plan(DataBundle(RowSet((), rows), EMPTY_SET))
