"""Generation starts from what is scored, and a text that was rendered before has one beginning and one end."""

from __future__ import annotations

import pytest

from hf_unlearn.data.encoding import TextFormat, encode_prompt, encode_row

ENDING = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("prompt", ["The year is ", "The year is  ", "The year is", "The year:\n"])
@pytest.mark.parametrize("answer", ["1934", "Nobody knows", " 1934"])
def test_generation_starts_where_scoring_does(prompt, answer, tokenizer, bare_tokenizer, make_row):
    row = make_row(prompt, answer)
    for each in (tokenizer, bare_tokenizer):
        scored = encode_row(row, each, TextFormat(), eos=False)
        assert encode_prompt(row, each, TextFormat()) == scored.input_ids[: scored.n_prompt]
        assert each.decode(scored.input_ids, skip_special_tokens=True) == prompt + answer


def test_a_template_with_a_space_in_its_end(tokenizer, make_row):
    fmt = TextFormat(template="Question: {prompt} Answer: ")
    row = make_row("Who wrote it?", "Nobody")
    scored = encode_row(row, tokenizer, fmt, eos=False)
    assert encode_prompt(row, tokenizer, fmt) == scored.input_ids[: scored.n_prompt]
    assert tokenizer.decode(scored.input_ids[scored.n_prompt :]) == " Nobody"


def test_a_chat_template_with_a_space_in_its_end(chat_tokenizer, make_row):
    chat_tokenizer.chat_template = ENDING
    row = make_row("Who wrote it?", "Nobody", conversational=True)
    scored = encode_row(row, chat_tokenizer, TextFormat(), eos=False)
    assert encode_prompt(row, chat_tokenizer, TextFormat()) == scored.input_ids[: scored.n_prompt]


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("end", ["always", "never"])
def test_a_text_that_was_rendered_before_is_the_text(eos, end, tokenizer, bare_tokenizer, make_row):
    fmt = TextFormat(end=end)
    plain, rendered = make_row("", "Who wrote it?"), make_row("", "<s>Who wrote it?</s>")
    assert encode_row(rendered, tokenizer, fmt, eos=eos) == encode_row(plain, tokenizer, fmt, eos=eos)
    ids = encode_row(rendered, tokenizer, fmt, eos=True).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == (end == "always")
    # A tokenizer that writes no beginning keeps the one in the text.
    assert encode_row(rendered, bare_tokenizer, fmt, eos=True).input_ids.count(bare_tokenizer.bos_token_id) == 1


def test_a_prompt_and_answer_that_were_rendered_before(tokenizer, make_row):
    plain, rendered = make_row("Who wrote it?", " Nobody"), make_row("<s>Who wrote it?", " Nobody</s>")
    for eos in (True, False):
        one, other = (encode_row(row, tokenizer, TextFormat(), eos=eos) for row in (plain, rendered))
        assert one == other
    assert encode_prompt(rendered, tokenizer, TextFormat()) == encode_prompt(plain, tokenizer, TextFormat())
