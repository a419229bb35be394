"""The same rows have the same tokens on every day, and a run knows what its chat template was given."""

from __future__ import annotations

import pytest

from hf_unlearn.data.encoding import TextFormat, encode_prompt, encode_row, read_otherwise
from hf_unlearn.data.example import EMPTY_SET, DataBundle, RowSet
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.context import bundle_rows, data_fingerprint, generation_inputs
from hf_unlearn.stages.units import fingerprint

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKS_FOR_TIME = "{{ 'Today: ' + strftime_now('%Y-%m-%d') }}\n" + CHATML
LIKE_LLAMA = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today: ' + date_string }}\n" + CHATML
)
THINKS = "{% if enable_thinking is defined and not enable_thinking %}no thinking\n{% endif %}" + CHATML


@pytest.mark.parametrize(("template", "said"), [(ASKS_FOR_TIME, "2024-07-26"), (LIKE_LLAMA, "26 Jul 2024")])
def test_rows_have_the_same_date_whatever_the_day(template, said, chat_tokenizer, make_row):
    chat_tokenizer.chat_template = template
    row, fmt = make_row("Who wrote it?", "Nobody", conversational=True), TextFormat()
    messages = [{"role": "user", "content": "x"}]
    assert said not in chat_tokenizer.apply_chat_template(messages, tokenize=False)  # what the clock says
    for ids in (encode_row(row, chat_tokenizer, fmt, eos=True).input_ids, encode_prompt(row, chat_tokenizer, fmt)):
        assert f"Today: {said}\n" in chat_tokenizer.decode(ids)


def test_a_clock_that_cannot_be_stopped_is_refused(chat_tokenizer, make_row):
    chat_tokenizer.chat_template = "{% set f = '%Y' %}{{ strftime_now(f) }}" + CHATML
    with pytest.raises(RequestError, match="asks the clock"):
        encode_prompt(make_row("q", "a", conversational=True), chat_tokenizer, TextFormat())


def test_arguments_reach_the_template(chat_tokenizer, make_row):
    row = make_row("Who?", "Nobody", conversational=True)

    def text(**arguments):
        encoded = encode_row(row, chat_tokenizer, TextFormat(chat_template_kwargs=arguments or None), eos=False)
        return chat_tokenizer.decode(encoded.input_ids)

    chat_tokenizer.chat_template = THINKS
    assert "no thinking" in text(enable_thinking=False) and "no thinking" not in text()
    chat_tokenizer.chat_template = ASKS_FOR_TIME
    assert "Today: 2026-03-01" in text(date_string="01 Mar 2026")
    chat_tokenizer.chat_template = LIKE_LLAMA
    assert "Today: 01 Mar 2026" in text(date_string="01 Mar 2026")


@pytest.mark.parametrize("wrong", [{"date_string": "today"}, {"date_string": 3}, {"messages": []}, {"tokenize": "x"}])
def test_arguments_that_cannot_be(wrong):
    with pytest.raises(RequestError, match="chat_template_kwargs"):
        TextFormat(chat_template_kwargs=wrong)
    with pytest.raises(RequestError, match="command line"):
        load_recipe("quickstart", [f"data.format.chat_template_kwargs={wrong}"])


def test_only_runs_with_chat_rows_have_the_arguments_in_their_fingerprints(make_row):
    def digest(fmt, **fields):
        rows = RowSet((row := make_row("q", "a", **fields),), (row,))
        return data_fingerprint(DataBundle(rows, EMPTY_SET), fmt)

    assert TextFormat().described() == {"kind": "plain", "template": "{prompt}", "separator": ""}
    dated = TextFormat(chat_template_kwargs={"date_string": "01 Mar 2026"})
    spelled = TextFormat(chat_template_kwargs={"date_string": "26 Jul 2024"})
    assert TextFormat(kind="chat").described()["chat_template_kwargs"] == {"date_string": "26 Jul 2024"}
    assert digest(TextFormat(), conversational=True) == digest(spelled, conversational=True)
    assert digest(TextFormat(), conversational=True) != digest(dated, conversational=True)


def test_a_recipe_keeps_the_arguments():
    recipe = load_recipe("quickstart", ["data.format.chat_template_kwargs={enable_thinking: false}"])
    assert recipe.to_dict()["data"]["format"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in load_recipe("quickstart").to_dict()["data"]["format"]


@pytest.mark.parametrize(
    ("prompt", "answer", "fmt", "found"),
    [
        ("Who?", " Ada", {}, []),
        ("Who?", "Ada", {"separator": " "}, []),
        ("Who?", "Ada <b> and [x]", {"template": "Question: {prompt}\nAnswer:"}, []),
        ("Who? ", "Ada", {}, []),
        ("<bos>Who?", "Ada", {}, ["rendered"]),
        ("", "It rains.</s>", {}, ["rendered"]),
        ("Who?", "Ada", {"separator": "\n"}, ["separator"]),
    ],
)
def test_scores_of_rows_that_are_read_otherwise_are_not_taken_from_earlier_versions(
    prompt, answer, fmt, found, make_row
):
    row, text_format = make_row(prompt, answer), TextFormat(**fmt)
    assert read_otherwise([row], text_format) == found
    kept = make_row("What?", "That", id="kept", fact="kept", group="kept")
    bundle = DataBundle(RowSet((row,), (row,)), RowSet((kept,), (kept,)))
    now = data_fingerprint(bundle, text_format)
    before = fingerprint({"rows": bundle_rows(bundle), "format": text_format.described()})
    assert (now == before) == (not found)


@pytest.mark.parametrize(
    ("prompt", "template", "changed"),
    [
        ("Who?", "{prompt}", False),
        ("Who? ", "{prompt}", True),
        ("Who?", "{prompt} A: ", True),
        ("", "{prompt} ", False),
    ],
)
def test_only_units_that_generate_know_of_prompts_that_end_in_a_space(prompt, template, changed, make_row):
    row = make_row(prompt, "Ada")
    bundle = DataBundle(RowSet((row,), (row,)), EMPTY_SET)
    assert bool(generation_inputs(bundle, TextFormat(template=template))) == changed
