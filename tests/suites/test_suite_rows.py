"""Rows as they are asked: templates, letters, solved examples, chat, and rows that cannot be used."""

from __future__ import annotations

import pytest
from suite_data import knowmem_rows, mcq_rows, text_rows, tofu_rows, write_lines

from hf_unlearn.data.encoding import TextFormat, encode_prompt, prompt_text
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.suites import Suite, SuiteSet, load_suite
from hf_unlearn.evaluation.suites.rows import load_rows
from hf_unlearn.evaluation.suites.spec import Shots

QA = knowmem_rows("book", 4)


@pytest.fixture
def ask(tmp_path, plain_tokenizer):
    """Rows of a suite with one set on these records."""

    def asked(records, name="forget", tokenizer=plain_tokenizer, limit=None, **keys):
        path = write_lines(tmp_path / "rows.jsonl", records)
        suite = Suite("mine", set={name: SuiteSet(path=str(path), **keys)})
        return load_rows(suite, tokenizer, limit).sets[name]

    return asked


@pytest.fixture
def refuse(ask):
    def said(*words, **keys):
        with pytest.raises(RequestError) as caught:
            ask(**keys)
        for word in words:
            assert word in str(caught.value)

    return said


def test_template_and_separator(ask):
    row = ask(QA, template="Q: {prompt}\nA:")[0]
    assert (row.prompt, row.answer) == ("Q: Who wrote the book about Ada?\nA:", " Ada did")


def test_a_question_that_holds_a_slot_is_left_as_it_is(ask):
    row = ask([{"question": "what is {options}?", "answer": "x"}], template="{prompt} {options}|")[0]
    assert row.prompt == "what is {options}? |"


def test_first_rows_as_solved_examples_are_not_scored(ask):
    rows = ask(QA, template="Q: {prompt}\nA:", shots=Shots(count=2))
    assert [row.answer for row in rows] == [" Cy did", " Di did"]
    assert rows[0].prompt == (
        "Q: Who wrote the book about Ada?\nA: Ada did\n\nQ: Who wrote the book about Bo?\nA: Bo did\n\n"
        "Q: Who wrote the book about Cy?\nA:"
    )


def test_limits_count_scored_rows_alone(ask):
    assert len(ask(QA, shots=Shots(count=2), limit=1)) == 1
    assert len(ask(QA, shots=Shots(count=1), **{"limit": None})) == 3


def test_solved_examples_of_a_file(ask, tmp_path):
    other = write_lines(tmp_path / "shots.jsonl", knowmem_rows("map"))
    rows = ask(QA, shots=Shots(path=str(other), count=1))
    assert len(rows) == 4
    assert rows[3].prompt == "Who wrote the map about Ada? Ada did\n\nWho wrote the book about Di?"


def test_too_few_solved_examples(refuse):
    refuse("set.forget.shots", "lower count", records=QA, shots=Shots(count=4))


def test_a_split_of_the_hub_is_not_looked_for_in_a_file(refuse):
    refuse("set.forget.shots.path", records=QA, shots=Shots(count=1, split="train"))


def test_letters(ask):
    row = ask(mcq_rows("birth"), options="letters")[1]
    assert row.prompt == "In which year was the birth of Bo?\nA. 1901\nB. 1908\nC. 1915\nD. 1922\nAnswer:"
    assert (row.answer, row.choices) == (" B", (" A", " B", " C", " D"))


def test_options_as_text_with_a_prior(ask):
    row = ask(mcq_rows("birth"), template="{prompt}\nAnswer:", prior="Answer:")[1]
    assert row.prompt.endswith("of Bo?\nAnswer:")
    assert (row.answer, row.choices[0], row.prior_prompt) == (" 1908", " 1901", "Answer:")


def test_an_answer_that_is_a_letter(ask):
    record = {"question": "Which?", "choices": ["one", "two", "three"], "answer": "C"}
    assert ask([record])[0].answer == " three"
    assert ask([{**record, "answer": "two"}])[0].answer == " two"


def test_a_letter_that_is_an_option_itself_is_text(ask):
    record = {"question": "Which blood group?", "choices": ["B", "A", "AB", "O"], "answer": "A"}
    row = ask([record])[0]
    assert row.answer == " A"
    assert row.choices == (" B", " A", " AB", " O")


def test_ten_options_by_letter_and_not_eleven(ask, refuse):
    ten = {"question": "Which?", "choices": [f"option {n}" for n in range(10)], "answer": 9}
    row = ask([ten], options="letters")[0]
    assert row.answer == " J"
    assert "\nJ. option 9\nAnswer:" in row.prompt
    eleven = {**ten, "choices": [*ten["choices"], "option 10"]}
    refuse("rows.jsonl:2", "11 options", records=[ten, eleven], options="letters")


def test_chat_puts_solved_examples_into_turns(ask, chat_tokenizer):
    row = ask(QA, tokenizer=chat_tokenizer, shots=Shots(count=1), system="Be brief.", template="ignored {prompt}")[0]
    assert row.prompt == "Who wrote the book about Bo?"
    assert prompt_text(row, TextFormat(), chat_tokenizer) == (
        "<system>Be brief.</s><user>Who wrote the book about Ada?</s><assistant>Ada did</s>"
        "<user>Who wrote the book about Bo?</s><assistant>"
    )
    assert row.answer == "Bo did"
    assert encode_prompt(row, chat_tokenizer, TextFormat())


def test_plain_text_although_there_is_a_chat_template(ask, chat_tokenizer):
    row = ask(QA, tokenizer=chat_tokenizer, format="plain")[0]
    assert not row.conversational
    assert row.prompt == "Who wrote the book about Ada?"


def test_a_chat_template_that_is_not_there(refuse):
    refuse("set.forget.format", "no chat template", "plain", records=QA, format="chat")


def test_answers_are_cut_after_tokens(ask, plain_tokenizer):
    row = ask([{"question": "q", "answer": "a  long\tanswer with many words"}], separator="", answer_tokens=5)[0]
    whole = plain_tokenizer("a  long\tanswer with many words")["input_ids"]
    assert plain_tokenizer(row.answer)["input_ids"] == whole[:5]
    assert "a  long\tanswer with many words".startswith(row.answer)


def test_rows_that_say_the_same_are_one_fact(ask):
    rows = ask([*QA, {"question": "who wrote the  BOOK about Ada?", "answer": "Ada did"}])
    assert len(rows) == 5
    assert rows[4].fact == rows[0].fact
    assert len({row.fact for row in rows}) == 4


def test_the_same_question_with_other_options_is_not_the_same(ask):
    record = {"question": "Which?", "choices": ["one", "two"], "answer": 0}
    rows = ask([record, {**record, "choices": ["one", "three"]}])
    assert len({row.fact for row in rows}) == 2


def test_variants_get_the_separator_too(ask):
    variants = dict(ask(tofu_rows("home"))[0].variants)
    assert variants["paraphrased"] == (" The home is 0.",)
    assert variants["perturbed"][2] == " It is home 60."


@pytest.mark.parametrize(
    ("records", "metric", "said"),
    [
        ([QA[0], QA[1]], "mc_accuracy", ["rows.jsonl:1", "options", "choices"]),
        ([tofu_rows("x")[0], {**tofu_rows("x")[1], "paraphrased_answer": None}], "truth_ratio", ["rows.jsonl:2"]),
        (tofu_rows("x", paraphrased=False), "truth_ratio", ["rows.jsonl:1", "no paraphrased answers"]),
        (mcq_rows("x"), "mc_accuracy_calibrated", ["prior", "Answer:"]),
        (QA, "verbmem_sampled", ["sampling"]),
        (text_rows("x"), "rouge_l", ["rows.jsonl:1", "plain text"]),
    ],
)
def test_a_row_that_lacks_what_a_metric_needs(records, metric, said, refuse):
    refuse(*said, f"metric {metric}", records=records, metrics=(metric,))


def test_an_empty_set(refuse):
    refuse("rows.jsonl", "no rows", "forget", records=[])


def test_a_row_in_two_sets_that_must_be_apart(tmp_path, plain_tokenizer):
    one = write_lines(tmp_path / "one.jsonl", QA)
    two = write_lines(tmp_path / "two.jsonl", [knowmem_rows("map", 1)[0], QA[2]])
    suite = load_suite("mcq", ["set.forget_letters=off", "set.retain_letters=off", f"set.forget.path={one}",
                               f"set.retain.path={two}", "defaults.metrics=[]", "defaults.choices=null"])  # fmt: skip
    with pytest.raises(RequestError, match=r"one\.jsonl:3 of the forget set and .*two\.jsonl:2 of the retain set"):
        load_rows(suite, plain_tokenizer)


def test_planted_rows_are_those_of_the_generator(plain_tokenizer):
    suite = load_suite("planted")
    rows = load_rows(suite, plain_tokenizer, limit=3).sets
    assert {name: len(members) for name, members in rows.items()} == dict.fromkeys(suite.set, 3)
    assert "was born in the year" in rows["forget"][0].prompt
    assert rows["forget"][0].answer in rows["forget"][0].choices
