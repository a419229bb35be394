"""Whether questions are put in a conversation or as plain text: what a recipe says, and what ``auto`` comes to.

The same question scores otherwise in the two forms. A chat model that is asked in plain text looks as if it knew
little, and what is then unlearned in plain text may still be there in a conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RequestError
from .encoding import End, TextFormat, is_rendered
from .example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["plain", "chat"]

LEAST_ASKING = 0.5
"""Share of the prompts that must ask for all of them to be put as a user's messages."""
# Also full-width, Arabic, Greek, Armenian and Ethiopic.
_QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u037e", "\u055e", "\u1367")
_CLOSING = "\"'\u201d\u2019\u00bb)]}*_ \t\r\n"
# How people lead over to the answer after a question.
_CUES = ("answer:", "a:", "response:", "assistant:")
_NAMES = ("question:", "q:")


@dataclass(frozen=True)
class FormatSpec:
    """How a recipe says that rows become text; :meth:`text_format` is what it comes to.

    Attributes:
        kind: ``plain`` puts the prompt into ``template``; ``chat`` makes it a user message in the tokenizer's chat
            template. ``auto`` is ``chat`` if the target's tokenizer has a chat template and most prompts of the forget
            set ask (they end in a question mark, or come from a column called ``question``), unless ``template`` or
            ``separator`` says how plain text is written; otherwise ``plain``. Rows that came as chat messages are
            always rendered with the chat template, and rows without a prompt (plain text) never are.
    """

    kind: Literal["auto", "plain", "chat"] = "auto"
    template: str = TextFormat.template
    separator: str = ""
    end: End = field(default="auto", metadata={"left_out_at_default": True})
    chat_template_kwargs: Mapping[str, Any] | None = field(default=None, metadata={"left_out_at_default": True})

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "plain", "chat"):
            raise RequestError(f"text format kind is {self.kind!r}: it must be 'auto', 'plain' or 'chat'")
        self._as("plain")  # the other values are checked there

    @property
    def says_plain(self) -> bool:
        """Whether it says how plain text is written, which only matters in plain text."""
        return (self.template, self.separator) != (FormatSpec.template, FormatSpec.separator)

    def text_format(self) -> TextFormat:
        """How rows become text.

        Raises:
            ValueError: ``auto`` has not been settled: see :func:`hf_unlearn.stages.data.load_data`.
        """
        if self.kind == "auto":
            raise ValueError("data.format.kind is auto and was not settled before it was used")
        return self._as(self.kind)

    def _as(self, kind: Kind) -> TextFormat:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return TextFormat(**{**given, "kind": kind})


@dataclass(frozen=True)
class FormDecision:
    """What ``auto`` comes to.

    Attributes:
        kind: Plain text or conversation.
        why: A clause that says why.
    """

    kind: Kind
    why: str

    def __str__(self) -> str:
        form = "through the chat template" if self.kind == "chat" else "as plain text"
        return f"Questions are put {form} (data.format.kind: auto): {self.why}."


def decide_form(
    rows: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase | None,
    spec: FormatSpec | None = None,
    *,
    column: str | None = None,
) -> FormDecision:
    """Decide whether the questions of a run are put in a conversation.

    Args:
        rows: Rows of the forget set.
        tokenizer: The target's; ``None`` where it is built from the data, without a chat template.
        spec: What the recipe says besides ``auto``.
        column: The column that the prompts come from, if it is known.
    """
    if tokenizer is None or not tokenizer.chat_template:
        return FormDecision("plain", "the tokenizer has no chat template")
    if spec is not None and spec.says_plain:
        return FormDecision("plain", "data.format says how plain text is written")
    prompts = {row.prompt for row in rows if row.prompt and not row.conversational}
    if not prompts:
        return FormDecision(
            "plain", "no row is a bare question; rows that came as chat messages use the chat template"
        )
    if sum(map(is_rendered, prompts)) >= LEAST_ASKING * len(prompts):
        return FormDecision("plain", "the prompts hold special tokens and were rendered before")
    if column is not None and "question" in column.lower():
        return FormDecision("chat", "the tokenizer has one, and the rows come from a column of questions")
    asking = sum(map(asks, prompts))
    counted = f"{asking} of {len(prompts)} prompts of the forget set ask"
    if asking >= LEAST_ASKING * len(prompts):
        return FormDecision("chat", f"the tokenizer has one, and {counted}")
    return FormDecision("plain", f"{counted}, the others are texts to go on with")


def asks(prompt: str) -> bool:
    """Whether a prompt ends as a question does, perhaps with words that lead over to the answer (``Answer:``), or is
    called a question."""
    text = prompt.strip().lower().rstrip(_CLOSING)
    if text.startswith(_NAMES):
        return True
    for cue in _CUES:
        if text.endswith(cue) and text[: -len(cue)] != (before := text[: -len(cue)].rstrip()):
            return before.rstrip(_CLOSING).endswith(_QUESTION_MARKS)
    return text.endswith(_QUESTION_MARKS)
