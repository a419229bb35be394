"""The other form: what was unlearned as plain text is asked in a conversation, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, uses_chat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .prompting import PromptAttack, check_questions, question_budget
from .scoring import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = "{prompt}"
_DIALOGUE = "User: {prompt}\nAssistant:"
_BREAK = "\n\n"


@ATTACKS.register(
    "other-form",
    summary="ask plain questions through the chat template, and chat rows as plain text",
    paper="this project (see docs/prompt-attacks.md)",
    defaults={"template": "Question: {prompt}\nAnswer:"},
    needs=("never-knew control",),
    tier="quick",
)
@dataclass(frozen=True)
class OtherForm(PromptAttack):
    """Settings of the other form. There are two ways of asking.

    The first puts plain questions through the tokenizer's chat template (where it has none, into a dialogue in plain
    text), and asks chat rows as bare text. The second puts all of them into a template of plain text.

    Attributes:
        template: Plain text around the question, with ``{prompt}`` where the question goes.
    """

    template: str = "Question: {prompt}\nAnswer:"

    name: ClassVar[str] = "other-form"
    numbered: ClassVar[str] = "form"
    too_long: ClassVar[str] = "shorten the questions"

    def __post_init__(self) -> None:
        if self.template.count(_SLOT) != 1:
            raise RequestError(f"other-form.template {self.template!r} must hold {_SLOT} exactly once")

    def ways(self, bundle: DataBundle) -> int:
        """The other form, and the template."""
        check_questions(self.name, bundle.forget.score)
        return 2

    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Every question in one of the two forms."""
        template = self.template if way == 2 else _SLOT
        if way == 1 and not tokenizer.chat_template:
            template = _DIALOGUE
        to_chat = way == 1 and bool(tokenizer.chat_template)
        # The rows say by themselves which of them are conversations.
        fmt = replace(text_format, kind="plain", template=template, separator=" ")
        rows, holdout = (
            tuple(_as_chat(row) if to_chat and not uses_chat(row, text_format) else _as_text(row) for row in asked)
            for asked in (bundle.forget.score, self.floor_rows(bundle))
        )
        return Asked(rows, fmt, holdout=holdout)

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """Those with a prompt."""
        return tuple(row for row in bundle.floor if row.prompt)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """The forms."""
        return {**question_budget(bundle, "prompts of the forget set"), "template": self.template}


def _as_chat(row: Example) -> Example:
    """The question as a user's message, and the answer as a message has it: without the space before it."""
    return replace(_without_spaces(row), prompt=row.prompt.strip(), conversational=True)


def _as_text(row: Example) -> Example:
    """All that was said before the answer as plain text."""
    said = [content for _, content in row.turns]
    prompt = _BREAK.join([*said, row.prompt]).strip()
    return replace(_without_spaces(row), prompt=prompt, turns=(), conversational=False)


def _without_spaces(row: Example) -> Example:
    variants = tuple((kind, tuple(text.strip() for text in texts)) for kind, texts in row.variants)
    choices = tuple(choice.strip() for choice in row.choices)
    return replace(row, answer=row.answer.strip(), choices=choices, variants=variants)
