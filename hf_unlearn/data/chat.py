"""What a chat template writes around an answer."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE_STRING = "26 Jul 2024"
"""Today, for every chat template: what Llama's own templates fall back on."""
_DATE = "%d %b %Y"
_CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>[^"']*)(?P=quote)\s*\)""")
_ANY_CLOCK = re.compile(r"\bstrftime_now\s*\(")
_OWN_ARGUMENTS = frozenset(
    {"messages", "conversation", "tokenize", "add_generation_prompt", "continue_final_message", "chat_template"}
    | {"strftime_now", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"}
)
# Stands for the answer while the template is rendered: private-use characters, which no template looks for.
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


@dataclass(frozen=True)
class TemplateArguments:
    """What a chat template is given besides the messages: the same on every day.

    Attributes:
        given: By name. ``date_string`` is the date that the template takes for today's; templates that ask for the
            time themselves are given it too.
    """

    given: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.given, Mapping) or not all(isinstance(key, str) for key in self.given):
            raise RequestError("chat_template_kwargs must be a mapping of names to values")
        taken = sorted(self.given.keys() & _OWN_ARGUMENTS)
        if taken:
            raise RequestError(
                f"chat_template_kwargs cannot set {taken[0]!r}, which every row has of its own: remove it"
            )
        try:
            datetime.datetime.strptime(self.date, _DATE)
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"chat_template_kwargs: date_string must be a date of the form {DATE_STRING!r}: correct it"
            ) from error

    @property
    def date(self) -> str:
        """The date that stands for today's."""
        return self.given.get("date_string", DATE_STRING)

    def values(self) -> dict[str, Any]:
        """All arguments, as plain data."""
        return {"date_string": DATE_STRING, **self.given}

    def dated(self, template: str) -> str:
        """A template in which the date stands where it would ask the clock.

        Raises:
            RequestError: It asks the clock in a form that only it knows.
        """
        day = datetime.datetime.strptime(self.date, _DATE)
        found = _CLOCK.sub(lambda call: json.dumps(day.strftime(call["format"])), template)
        if _ANY_CLOCK.search(found):
            raise RequestError(
                "the chat template asks the clock for the time, so that the same rows would have other tokens on "
                "another day: write the date into tokenizer.chat_template and save the tokenizer again"
            )
        return found


def render_chat(row: Example, tokenizer: PreTrainedTokenizerBase, arguments: TemplateArguments) -> RenderedChat:
    """Render a row with the tokenizer's chat template, once with and once without an answer.

    Some templates write more before a given answer than in their generation prompt (an empty thinking block, for
    instance). Then the answer is taken as it is in the full conversation and generation is given all that comes
    before it: what is scored is the answer, and only the answer.

    Args:
        row: Its ``turns`` and ``prompt`` become the conversation. The answer of a row that did not come as chat
            messages loses its surrounding space, which only plain text needs.
        tokenizer: A tokenizer with a chat template.
        arguments: What the template is given besides the messages.

    Returns:
        The parts of the rendered conversation.

    Raises:
        RequestError: The template refuses the conversation or changes the answer.
    """
    answer = row.answer if row.conversational else row.answer.strip()
    asked = _render(row, None, tokenizer, arguments)
    head, mark, tail = _render(row, _MARK, tokenizer, arguments).partition(_MARK)
    full = _render(row, answer, tokenizer, arguments)
    written = next((text for text in (answer, answer.strip()) if head + text + tail == full), None)
    if not mark or not written:
        raise RequestError(
            f"{row.origin or row.id}: the chat template changes the answer, so its tokens cannot be "
            "found: use another template, or give the row as plain prompt and completion"
        )
    only_space_between = head.startswith(asked) and not head[len(asked) :].strip()
    return RenderedChat(asked if only_space_between else head, head, written, tail.rstrip())


def _render(row: Example, answer: str | None, tokenizer: PreTrainedTokenizerBase, arguments: TemplateArguments) -> str:
    from jinja2.exceptions import TemplateError

    turns = [*row.turns, ("user", row.prompt)]
    if answer is not None:
        turns.append(("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=arguments.dated(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=answer is None,
            **arguments.values(),
        )
    except TemplateError as error:
        raise RequestError(f"{row.origin or row.id}: the chat template refuses the conversation: {error}") from error
    return str(text)
