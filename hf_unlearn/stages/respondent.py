"""The target as somebody who is asked: what it writes after prompts, loaded when it is first asked something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..data.encoding import TextFormat, encode_prompt, load_tokenizer
from ..data.example import Example
from ..models.gguf_source import fetch_model
from ..models.own_dtype import own_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROMPTS_PER_BATCH = 64


@dataclass(frozen=True)
class Task:
    """Something to write.

    Attributes:
        prompt: What is asked, or a text to go on with.
        max_new_tokens: Longest answer in tokens.
        chat: Whether the prompt is a user's message in the tokenizer's chat template.
        sample: Number of the sample; ``None`` for the most likely answer.
        temperature: Divides the logits of samples.
        stop: Strings at which the answer ends.
    """

    prompt: str
    max_new_tokens: int
    chat: bool
    sample: int | None = None
    temperature: float = 0.7
    stop: tuple[str, ...] = ()


class Respondent(Protocol):
    """Whoever is asked: the target, or in tests somebody who knows what it is to say."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, perhaps with a chat template."""
        ...

    def write(self, tasks: Sequence[Task]) -> list[str]:
        """What it writes, in the order of the tasks."""
        ...


def is_chat(respondent: Respondent) -> bool:
    """Whether it has a chat template."""
    return bool(respondent.tokenizer.chat_template)


@dataclass
class TargetRespondent:
    """The target of a recipe.

    Attributes:
        name: Hub id or folder.
        seed: Of all samples.
    """

    name: str
    seed: int = 0

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The target's own.

        Raises:
            RequestError: There is no such model.
            EnvironmentFailure: The Hub could not be reached.
        """
        return load_tokenizer(str(self._folder))

    def write(self, tasks: Sequence[Task]) -> list[str]:
        """See :meth:`Respondent.write`.

        Raises:
            RequestError: A prompt cannot be tokenized, or fills the model's context.
        """
        from ..evaluation.batch_runner import Passes
        from ..evaluation.generation import Prompt, generate
        from ..evaluation.spec import Sampling

        forms = {chat: TextFormat(kind="chat" if chat else "plain") for chat in (True, False)}
        prompts = []
        for task in tasks:
            # A template is rendered with an answer too; what it is makes no difference to the prompt.
            row = Example(id="", prompt=task.prompt, answer=" answer", fact="", group="")
            sampling = None if task.sample is None else Sampling(1, task.temperature, seed=self.seed)
            prompts.append(
                Prompt(
                    tuple(encode_prompt(row, self.tokenizer, forms[task.chat])),
                    f"the prompt {task.prompt[:60]!r}",
                    task.max_new_tokens,
                    task.stop,
                    sampling,
                    task.prompt,
                    task.sample or 0,
                )
            )
        return generate(
            self._model, self.tokenizer, prompts, Passes(2**31), name="asking the target", most=_PROMPTS_PER_BATCH
        )

    @cached_property
    def _folder(self) -> Path:
        return fetch_model(self.name, None, "the model")

    @cached_property
    def _model(self) -> PreTrainedModel:
        from ..models.loading import load_model

        return load_model(self._folder, own_dtype(self._folder))
