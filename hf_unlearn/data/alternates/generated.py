"""Wrong answers that the target itself writes, as in AltPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...errors import RequestError
from ..example import Example
from . import ALTERNATES
from .base import AlternateSource, Given, SampledAnswers, same_answer, shaped_like

SLOT_PROMPT, SLOT_ANSWER = "{prompt}", "{answer}"


@ALTERNATES.register(
    "generated",
    summary="Answers sampled from the target model before training, without those that are right.",
    paper="arXiv 2409.13474",
    defaults={"count": 5, "temperature": 1.0, "max_new_tokens": 200, "ask": SLOT_PROMPT, "stop": [], "seed": 0},
    needs=("generation",),
)
@dataclass(frozen=True)
class GeneratedAlternates(AlternateSource):
    """Samples from the target, kept in the run's folder, so a resumed run trains on the same ones.

    Samples that repeat the row's answer or another sample, and empty ones, are dropped. A target that
    is certain of an answer writes nothing else; then use a higher temperature or another ``ask``. AltPO asks
    an instruct model for a wrong but plausible answer; ``ask`` can do that here too, for example
    ``"{prompt}\\nA wrong but plausible answer to this, in the style of '{answer}', is:"``.

    Args:
        count: Samples of each row; five in the paper.
        temperature: Of the samples; 1 in the paper.
        max_new_tokens: Maximum length of an answer; 200 in the paper's code.
        ask: What the target is asked, with ``{prompt}`` and, optionally, ``{answer}`` in place of the row's own.
        stop: Strings at which an answer ends.
        seed: Of the samples.

    Raises:
        RequestError: A value is out of range, or ``ask`` has no ``{prompt}``.
    """

    count: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 200
    ask: str = SLOT_PROMPT
    stop: tuple[str, ...] | list[str] = ()
    seed: int = 0

    needs_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("count", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise RequestError(f"alternates: generated.{key} is {getattr(self, key)}; it must be at least 1")
        if not self.temperature > 0:
            raise RequestError(f"alternates: generated.temperature is {self.temperature}; it must be above 0")
        if not isinstance(self.ask, str) or SLOT_PROMPT not in self.ask:
            raise RequestError(f"alternates: generated.ask is {self.ask!r}; it must hold {SLOT_PROMPT}")
        if not isinstance(self.stop, list | tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise RequestError(f"alternates: generated.stop is {self.stop!r}; it must be a list of texts")

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """Distinct samples that are not the row's own answer."""
        if given.write is None:
            raise ValueError("generated alternates need the target model")
        wish = SampledAnswers(self.count, self.temperature, self.max_new_tokens, tuple(self.stop), self.seed)
        written = given.write([self._asked(row) for row in given.forget], wish)
        return [self._usable(row, texts) for row, texts in zip(given.forget, written, strict=True)]

    def _asked(self, row: Example) -> Example:
        asked = self.ask.replace(SLOT_PROMPT, row.prompt).replace(SLOT_ANSWER, row.answer.strip())
        return replace(row, prompt=asked)

    def _usable(self, row: Example, texts: list[str]) -> tuple[str, ...]:
        wrong = [text for text in texts if text.strip() and not same_answer(text, row.answer)]
        found = tuple(dict.fromkeys(shaped_like(row, text) for text in wrong))
        if not found:
            raise RequestError(
                f"alternates: the target wrote only the true answer to {row.origin or row.id} in "
                f"{self.count} samples: raise alternates.temperature or alternates.count, ask for a wrong answer with "
                "alternates.ask, or use other-answers or refusals"
            )
        return found
