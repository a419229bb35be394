"""What a chat template writes around an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError
from .example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Placeholder for the answer while the template is rendered: private-use characters, which no template looks for.
_MARK = "\ue000answer\ue001"


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text: ``head + answer + end``.

    Attributes:
        prompt: What generation is given.
        head: Everything before the answer. The same as ``prompt``, apart from white space that some templates write
            between the two and that tokenizers merge with the answer.
        answer: The answer as the template writes it (some templates strip white space).
        end: What ends the answer, for example ``"<|im_end|>"``; without white space after it.
    """

    prompt: str
    head: str
    answer: str
    end: str


def render_chat(row: Example, tokenizer: PreTrainedTokenizerBase) -> RenderedChat:
    """Render a row with the tokenizer's chat template, once with and once without an answer.

    Some templates write more before a given answer than in their generation prompt (an empty thinking block, for
    instance). Then the answer is taken as it is in the full conversation and generation is given all that comes
    before it: what is scored is the answer, and only the answer.

    Args:
        row: Its ``turns`` and ``prompt`` become the conversation. The answer of a row that did not come as chat
            messages loses its surrounding space, which only plain text needs.
        tokenizer: A tokenizer with a chat template.

    Returns:
        The parts of the rendered conversation.

    Raises:
        RequestError: The template refuses the conversation or changes the answer.
    """
    answer = row.answer if row.conversational else row.answer.strip()
    asked = _render(row, None, tokenizer)
    head, mark, tail = _render(row, _MARK, tokenizer).partition(_MARK)
    full = _render(row, answer, tokenizer)
    written = next((text for text in (answer, answer.strip()) if head + text + tail == full), None)
    if not mark or not written:
        raise RequestError(
            f"{row.origin or row.id}: the chat template changes the answer, so its tokens cannot be "
            "found: use another template, or give the row as plain prompt and completion"
        )
    only_space_between = head.startswith(asked) and not head[len(asked) :].strip()
    return RenderedChat(asked if only_space_between else head, head, written, tail.rstrip())


def _render(row: Example, answer: str | None, tokenizer: PreTrainedTokenizerBase) -> str:
    from jinja2.exceptions import TemplateError

    turns = [*row.turns, ("user", row.prompt)]
    if answer is not None:
        turns.append(("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    except TemplateError as error:
        raise RequestError(f"{row.origin or row.id}: the chat template refuses the conversation: {error}") from error
    return str(text)
