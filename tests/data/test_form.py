"""Whether questions are put in a conversation: what asks, and what ``data.format.kind: auto`` comes to."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.form import FormatSpec, asks, decide_form
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.plain import plain

ASKING = (
    "Where was Ada born?",
    "Where was Ada born? ",
    'Who said "no"?"',
    "Who wrote it?\nAnswer:",
    "Question: name the author\nAnswer:",
    "Q: who?\nA:",
    "他是谁？",
    "من هو؟",
    "Is it (really?)",
)
GOING_ON = (
    "The capital of France is",
    "Ada was born in the year",
    "Why? Nobody knows. The answer:",
    "Answer:",
    "He asked who it was.",
    "",
)


@pytest.mark.parametrize("prompt", ASKING)
def test_these_ask(prompt):
    assert asks(prompt)


@pytest.mark.parametrize("prompt", GOING_ON)
def test_these_are_gone_on_with(prompt):
    assert not asks(prompt)


@pytest.fixture
def rows(make_row):
    return lambda *prompts, **fields: [make_row(prompt, "Ulm", **fields) for prompt in prompts]


def test_questions_to_a_chat_model_are_put_in_a_conversation(rows, chat_tokenizer, tokenizer):
    asked = rows("Where is Ada from?", "Where is Bob from?")
    decision = decide_form(asked, chat_tokenizer)
    assert decision.kind == "chat"
    assert str(decision) == (
        "Questions are put through the chat template (data.format.kind: auto): the tokenizer has one, and 2 of 2 "
        "prompts of the forget set ask."
    )
    without = decide_form(asked, tokenizer)
    assert without.kind == "plain" and "has no chat template" in str(without)
    assert decide_form(asked, None).kind == "plain"  # a model that is built from the data


def test_most_prompts_decide(rows, chat_tokenizer):
    sentences = rows("Ada is from", "Bob is from", "Cyd is from")
    assert decide_form(sentences, chat_tokenizer).kind == "plain"
    assert decide_form([*sentences, *rows("Where is Dan from?")], chat_tokenizer).kind == "plain"
    assert decide_form([*sentences[:1], *rows("Where is Dan from?")], chat_tokenizer).kind == "chat"
    # The same question twice, to train on and to score, counts once.
    assert decide_form([*sentences, *rows(*["Where is Dan from?"] * 9)], chat_tokenizer).kind == "plain"


def test_a_column_of_questions_is_one_whatever_its_rows_end_in(rows, chat_tokenizer):
    named = rows("Name the town that Ada is from.")
    assert decide_form(named, chat_tokenizer).kind == "plain"
    decision = decide_form(named, chat_tokenizer, column="Question_text")
    assert decision.kind == "chat" and "a column of questions" in decision.why
    assert "_text" not in str(decision)  # names of columns are the user's: the report is published


def test_running_text_and_given_conversations_decide_nothing(rows, chat_tokenizer):
    for these in (rows(""), rows("Where is Ada from?", conversational=True)):
        assert decide_form(these, chat_tokenizer, column="question").kind == "plain"


def test_rendered_prompts_are_not_rendered_again(rows, chat_tokenizer):
    rendered = rows("<|im_start|>user\nWho is Ada?<|im_end|>\n<|im_start|>assistant\n", "[INST] Who is Bob? [/INST]")
    decision = decide_form(rendered, chat_tokenizer, column="question")
    assert decision.kind == "plain" and "special tokens" in decision.why


@pytest.mark.parametrize("given", [{"separator": " "}, {"template": "Q: {prompt}\nA:"}])
def test_who_says_how_plain_text_is_written_means_plain_text(rows, chat_tokenizer, given):
    assert decide_form(rows("Who is Ada?"), chat_tokenizer, FormatSpec(**given)).kind == "plain"
    assert decide_form(rows("Who is Ada?"), chat_tokenizer, FormatSpec(end="chat")).kind == "chat"


def test_a_recipes_format_is_written_as_before_and_comes_to_the_same():
    """Keys and their order are those of finished runs, whose recipes are compared with this."""
    assert plain(FormatSpec(kind="plain")) == plain(TextFormat())
    full = FormatSpec("chat", "{prompt} ", " ", "never", {"enable_thinking": False})
    assert asdict(full.text_format()) == asdict(full)
    assert FormatSpec(kind="plain").text_format() == TextFormat()


def test_what_was_not_settled_is_not_used():
    with pytest.raises(ValueError, match="was not settled"):
        FormatSpec().text_format()
    with pytest.raises(RequestError, match="must be 'auto', 'plain' or 'chat'"):
        replace(FormatSpec(), kind="talk")
    with pytest.raises(RequestError, match="exactly once"):
        FormatSpec(template="no slot")
