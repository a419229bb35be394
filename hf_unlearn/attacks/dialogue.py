"""Questions at the end of a conversation that the attacker wrote, in whatever form a row is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..data.encoding import TextFormat, prompt_text, uses_chat
from ..data.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAK = "\n\n"


class Turn(NamedTuple):
    """Attributes:
    asked: What the user said.
    answered: What the model is made to have said.
    """

    asked: str
    answered: str


def after_turns(
    row: Example, turns: Sequence[Turn], question: str, fmt: TextFormat, tokenizer: PreTrainedTokenizerBase
) -> Example:
    """A row whose prompt comes last in a conversation.

    Rows that go through the chat template get earlier messages. Others get a text in which each turn stands as the
    recipe writes questions and answers; they are asked with the template ``{prompt}``.

    Args:
        row: The row.
        turns: What was said before, after the row's own earlier messages.
        question: What is asked at last.
        fmt: How prompt and answer become one text.
        tokenizer: The model's.
    """
    if uses_chat(row, fmt):
        said = [message for turn in turns for message in (("user", turn.asked), ("assistant", turn.answered.strip()))]
        return replace(row, turns=(*row.turns, *said), prompt=question)

    def written(text: str) -> str:
        return prompt_text(replace(row, prompt=text), fmt, tokenizer)

    before = "".join(f"{written(turn.asked)}{_joined(turn.answered, fmt)}{_BREAK}" for turn in turns)
    prior = row.prior_prompt and before + written(row.prior_prompt)
    return replace(row, prompt=before + written(question), prior_prompt=prior)


def _joined(answer: str, fmt: TextFormat) -> str:
    """An answer as it follows a prompt; one without a space of its own gets one."""
    start = fmt.separator or ("" if answer[:1].isspace() else " ")
    return start + answer
