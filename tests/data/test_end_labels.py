"""Where the end of an answer is a label, and what between prompt and answer is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_chat import CHAT, ENDLESS, INST, THINK
from test_encoding import TwoLetterTokenizer, labels

from hf_unlearn.data.encoding import TextFormat, encode_row, encode_rows
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.plain import plain
from hf_unlearn.stages.units import fingerprint

PLAIN = TextFormat()


@pytest.mark.parametrize(
    ("end", "plain_label", "text_label", "chat_label"),
    [
        ("auto", " 1934</s>", " birth</s>", "Nobody<|im_end|>"),  # as long as nobody has asked the target
        ("always", " 1934</s>", " birth</s>", "Nobody<|im_end|>"),
        ("chat", " 1934", " birth", "Nobody<|im_end|>"),
        ("never", " 1934", " birth", "Nobody"),
    ],
)
def test_ends_of_plain_rows_of_texts_and_of_chats(
    end, plain_label, text_label, chat_label, bare_tokenizer, chat_tokenizer, make_row
):
    fmt = TextFormat(end=end)
    plain_row, text = make_row("in the year", " 1934"), make_row("", "The birth")
    chat = make_row("who?", "Nobody", conversational=True)
    assert labels(encode_row(plain_row, bare_tokenizer, fmt, eos=True), bare_tokenizer) == plain_label
    assert labels(encode_row(text, bare_tokenizer, fmt, eos=True), bare_tokenizer) == text_label
    assert labels(encode_row(chat, chat_tokenizer, fmt, eos=True), chat_tokenizer) == chat_label
    for row, tokenizer in ((plain_row, bare_tokenizer), (text, bare_tokenizer), (chat, chat_tokenizer)):
        trained, scored = (encode_row(row, tokenizer, fmt, eos=eos) for eos in (True, False))
        assert scored.n_end == 0 and scored == encode_row(row, tokenizer, PLAIN, eos=False)
        assert trained.n_end == len(trained.input_ids) - len(scored.input_ids)


@pytest.mark.parametrize(("template", "written"), [(INST, 1), (THINK, 1), (ENDLESS, 0)])
def test_in_chat_rows_the_end_is_what_the_template_writes(template, written, chat_tokenizer, make_row):
    chat_tokenizer.chat_template = template
    row = make_row("who?", "me", conversational=True)
    by_end = {end: encode_row(row, chat_tokenizer, replace(CHAT, end=end), eos=True) for end in ("always", "chat")}
    # White space before the end is written by the template too.
    assert by_end["always"].n_end >= 1
    assert (by_end["chat"].n_end >= 1) == bool(written)
    assert labels(by_end["chat"], chat_tokenizer).strip().startswith("me")


def test_ends_without_offsets(make_row):
    slow = TwoLetterTokenizer()
    ended = encode_row(make_row("abcd", "ef"), slow, PLAIN, eos=True)
    assert ended.n_end == 1 and ended.input_ids[-1] == slow.eos_token_id


def test_a_cut_row_has_lost_its_end_first(bare_tokenizer, make_row):
    row = make_row("year", " 1934" * 4)
    whole = encode_row(row, bare_tokenizer, PLAIN, eos=True)
    for length, left in ((len(whole.input_ids), 1), (len(whole.input_ids) - 1, 0)):
        (cut,) = encode_rows([row], bare_tokenizer, PLAIN, eos=True, max_length=length, truncation="cut")
        assert cut.n_end == left and cut.input_ids == whole.input_ids[:length]


@pytest.mark.parametrize("separator", ["\n", "\n\n", " =>\n", "\nAnswer: "])
def test_what_stands_between_prompt_and_answer_is_no_label(separator, bare_tokenizer, make_row):
    row = make_row("Who wrote it?", "Nobody knows")
    encoded = encode_row(row, bare_tokenizer, TextFormat(separator=separator), eos=False)
    assert bare_tokenizer.decode(encoded.input_ids) == row.prompt + separator + row.answer
    # But for a space: most tokenizers merge it with the word after it.
    assert labels(encoded, bare_tokenizer) == (" " if separator.endswith(" ") else "") + row.answer


def test_what_a_template_writes_before_an_answer_is_no_label(chat_tokenizer, make_row):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    encoded = encode_row(make_row("who?", "me", conversational=True), chat_tokenizer, PLAIN, eos=True)
    assert labels(encoded, chat_tokenizer) == "me<|im_end|>"


def test_fingerprints_are_those_of_before_unless_plain_rows_have_no_ends():
    before = {"kind": "plain", "template": "{prompt}", "separator": ""}
    for end in ("auto", "always"):
        assert fingerprint(TextFormat(end=end).described()) == fingerprint(before)
        assert repr(TextFormat(end=end)) == "TextFormat(kind='plain', template='{prompt}', separator='')"
    for end in ("chat", "never"):
        assert TextFormat(end=end).described() == {**before, "end": end}
    assert plain(TextFormat()) == before  # a finished run's own copy of its recipe has no such key
    assert plain(TextFormat(end="always")) == {**before, "end": "always"}


def test_other_ends_are_refused():
    with pytest.raises(RequestError, match="end is 'sometimes': it must be one of 'auto', 'always', 'chat', 'never'"):
        TextFormat(end="sometimes")
