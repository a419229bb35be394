"""Chat templates of the kinds in use: what is prompt, what is answer, what ends it."""

from __future__ import annotations

import pytest

from hf_unlearn.data.chat import TemplateArguments, render_chat
from hf_unlearn.data.encoding import TextFormat, encode_prompt, encode_row, encode_rows, prompt_text
from hf_unlearn.errors import RequestError

CHAT = TextFormat(kind="chat", template="ignored {prompt}", separator=" ignored ")
# Writes a space between prompt and answer, trims, and opens with BOS.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }} </s>"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Puts an empty thinking block before a given last answer, but does not ask generation for it.
THINK = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SHOUTING = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
SILENT = "{% for m in messages %}{{ m['role'] }}{% endfor %}"


def labels(encoded, tokenizer):
    return tokenizer.decode(encoded.input_ids[encoded.n_prompt :])


def test_plain_row_as_a_chat(chat_tokenizer, make_row):
    row = make_row("Who wrote it?", " Nobody")
    trained = encode_row(row, chat_tokenizer, CHAT, eos=True)
    assert chat_tokenizer.decode(trained.input_ids) == (
        "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\nNobody<|im_end|>"
    )
    assert labels(trained, chat_tokenizer) == "Nobody<|im_end|>"
    scored = encode_row(row, chat_tokenizer, CHAT, eos=False)
    assert labels(scored, chat_tokenizer) == "Nobody"
    assert encode_prompt(row, chat_tokenizer, CHAT) == scored.input_ids[: scored.n_prompt]


def test_generation_is_given_what_the_template_gives(chat_tokenizer, make_row):
    turns = (("system", "be brief"), ("user", "hi"), ("assistant", "hello"))
    row = make_row("who?", "me", turns=turns, conversational=True)
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", "who?"))]
    theirs = chat_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(encode_prompt(row, chat_tokenizer, TextFormat())) == theirs


def test_chat_rows_use_the_template_whatever_the_format(chat_tokenizer, make_row):
    row = make_row("who?", "me", conversational=True)
    assert encode_row(row, chat_tokenizer, TextFormat(), eos=True) == encode_row(row, chat_tokenizer, CHAT, eos=True)


def test_plain_text_stays_plain(chat_tokenizer, make_row):
    row = make_row("", "just text")
    assert encode_row(row, chat_tokenizer, CHAT, eos=True) == encode_row(row, chat_tokenizer, TextFormat(), eos=True)


def test_space_between_prompt_and_answer_goes_with_the_answer(chat_tokenizer, make_row):
    chat_tokenizer.chat_template = INST
    row = make_row("Who wrote it?", "  Nobody ", conversational=True)
    encoded = encode_row(row, chat_tokenizer, CHAT, eos=True)
    assert prompt_text(row, CHAT, chat_tokenizer) == "<s>[INST] Who wrote it? [/INST]"
    assert labels(encoded, chat_tokenizer) == " Nobody </s>"
    assert encoded.input_ids.count(chat_tokenizer.bos_token_id) == 1
    assert encoded.input_ids.count(chat_tokenizer.eos_token_id) == 1
    assert labels(encode_row(row, chat_tokenizer, CHAT, eos=False), chat_tokenizer) == " Nobody"


@pytest.mark.parametrize("answer", ["Nobody", "t", "<think>", "im_end"])
def test_a_thinking_block_is_part_of_the_prompt(answer, chat_tokenizer, make_row):
    chat_tokenizer.chat_template = THINK
    row = make_row("who?", answer, conversational=True)
    assert prompt_text(row, CHAT, chat_tokenizer).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert labels(encode_row(row, chat_tokenizer, CHAT, eos=True), chat_tokenizer) == f"{answer}<|im_end|>"


def test_a_template_without_an_end_gets_the_end_token(chat_tokenizer, make_row):
    chat_tokenizer.chat_template = ENDLESS
    encoded = encode_row(make_row("who?", "me"), chat_tokenizer, CHAT, eos=True)
    assert labels(encoded, chat_tokenizer) == "me</s>"


def test_cut_and_refuse_work_on_chats(chat_tokenizer, make_row):
    row = make_row("who?", "me and you", conversational=True, origin="chat.jsonl:1")
    with pytest.raises(RequestError, match=r"1 of 1 rows.*chat\.jsonl:1"):
        encode_rows([row], chat_tokenizer, CHAT, eos=True, max_length=20, truncation="refuse")


@pytest.mark.parametrize(
    ("template", "said"), [(SHOUTING, "changes the answer"), (SILENT, "changes the answer"), (INST, "only user and")]
)
def test_templates_that_cannot_serve(template, said, chat_tokenizer, make_row):
    chat_tokenizer.chat_template = template
    row = make_row("who?", "me", turns=(("system", "be brief"),), conversational=True, origin="chat.jsonl:9")
    with pytest.raises(RequestError, match=rf"chat\.jsonl:9.*{said}"):
        render_chat(row, chat_tokenizer, TemplateArguments({}))
