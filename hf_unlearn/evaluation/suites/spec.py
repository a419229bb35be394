"""What a suite file can hold: sets with their metrics, numbers over sets, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...data.planted import PlantedSpec
from ...data.sources import Source
from ...errors import RequestError
from ..spec import Sampling

PROMPT_SLOT = "{prompt}"
OPTIONS_SLOT = "{options}"
#: A set of this name is ordinary text: its fluency is measured, and its KL to ``target`` if one is given.
GENERIC = "generic"


@dataclass(frozen=True)
class Shots(Source):
    """Solved examples before every question.

    Where neither ``path`` nor ``dataset`` is given they come from the set's own data: from another ``split`` or
    ``config`` of a Hub data set, or else its first rows, which are then not scored. Columns are those of the set
    where they are not named here.

    Attributes:
        count: How many.
        split: Split of the Hub dataset.
    """

    count: int = 0
    split: str = ""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise RequestError(f"count is {self.count}: use 0 for no examples")
        if self.limit is not None or self.score_limit is not None:
            raise RequestError("limit cannot be given for examples: count says how many there are")


@dataclass(frozen=True)
class SuiteSet(Source):
    """One set of a suite: its rows (keys of a recipe's data source), how they are asked, and what is measured.

    Attributes:
        planted: Take this set of the planted facts instead of a file or Hub dataset.
        metrics: Metrics of every row. None are needed if only ``aggregates`` use the set.
        format: ``chat`` uses the model's chat template, ``plain`` does not, ``auto`` does if the model has one.
        template: The question as plain text, with ``{prompt}`` where the row's prompt goes and ``{options}`` where
            its lettered options go. Default: the prompt alone; with letters, also the options and ``Answer:``.
        message: The same for the user message of a chat template.
        separator: Put before every answer in plain text.
        system: System message; only with a chat template.
        options: ``text`` scores the options as answers, ``letters`` scores the letters A, B ... after a prompt
            that lists the options.
        answer_tokens: Cut answers after this many tokens of the model's tokenizer.
        prior: A prompt without the question, for calibrated multiple choice.
        shots: Solved examples before every question.
        max_new_tokens: Length of continuations.
        generate_limit: Continue only the prompts of this many facts, from the first on.
        stop: Continuations end before the first of these strings.
        sampling: Draw continuations too, for metrics of samples.
    """

    planted: Literal["forget", "retain", "holdout", "generic"] | None = None
    metrics: tuple[str, ...] = ()
    format: Literal["auto", "chat", "plain"] = "auto"
    template: str | None = None
    message: str | None = None
    separator: str = " "
    system: str = ""
    options: Literal["text", "letters"] = "text"
    answer_tokens: int | None = None
    prior: str = ""
    shots: Shots | None = None
    max_new_tokens: int = 64
    generate_limit: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.planted is None:
            super().__post_init__()
        elif self.path or self.dataset:
            raise RequestError("planted takes its rows from the generator: remove path and dataset, or planted")
        for key in ("max_new_tokens", "answer_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} is {value}: it must be at least 1")
        if self.generate_limit is not None and self.generate_limit < 0:
            raise RequestError(f"generate_limit is {self.generate_limit}: use 0 for no generation")
        if not all(self.stop):
            raise RequestError("stop holds an empty string, which matches everywhere: remove it")
        if self.system and self.format == "plain":
            raise RequestError("system is a message of a chat template: set format to chat, or remove it")
        for key in ("template", "message"):
            self._check_slots(key, self.question(key))

    def _check_slots(self, key: str, text: str) -> None:
        if text.count(PROMPT_SLOT) != 1:
            raise RequestError(f"{key} {text!r} must hold {PROMPT_SLOT} exactly once")
        if self.options == "letters" and text.count(OPTIONS_SLOT) != 1:
            raise RequestError(
                f"{key} {text!r} must hold {OPTIONS_SLOT} exactly once, since options are asked by letter"
            )

    def question(self, key: str) -> str:
        """The ``template`` or the ``message``, or its default."""
        given: str | None = getattr(self, key)
        if given is not None:
            return given
        return f"{PROMPT_SLOT}\n{OPTIONS_SLOT}\nAnswer:" if self.options == "letters" else PROMPT_SLOT


@dataclass(frozen=True)
class HarnessSpec:
    """Tasks of lm-evaluation-harness, run in this process (extra ``lm-eval``).

    Attributes:
        tasks: Names of its tasks or groups.
        shots: Solved examples per question; each task's own default if left out.
        limit: Use only this many questions of each task, from the first on.
        include_path: Folder with further task files, for example of tasks on local data.
        batch_size: Questions per forward pass.
        format: ``chat`` uses the model's chat template, ``plain`` does not, ``auto`` does if the model has one.
        metrics: Keep only these of the tasks' metrics; all if left out.
    """

    tasks: tuple[str, ...]
    shots: int | None = None
    limit: int | None = None
    include_path: str | None = None
    batch_size: int = 8
    format: Literal["auto", "chat", "plain"] = "plain"
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RequestError("tasks is empty: name at least one task")
        for key, least in (("shots", 0), ("limit", 1), ("batch_size", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise RequestError(f"{key} is {value}: it must be at least {least}")


@dataclass(frozen=True)
class Suite:
    """What one evaluation measures.

    Attributes:
        name: Name of the suite.
        summary: What it is, in one line.
        paper: Where it comes from.
        planted: Sizes and seed of the planted facts, if sets use them.
        set: The scored sets by name. ``off`` removes one that the file has.
        aggregates: Numbers over whole sets or against a reference, with their settings. ``off`` leaves one out. The
            setting ``aggregate`` names the aggregate if the key is a name of your own.
        harness: Tasks of lm-evaluation-harness.
        reference: Records folder, model (folder or Hub id) or published evaluation log of a model that never saw
            the forget set, for the aggregates that compare with one.
        target: Model before unlearning (folder or Hub id), for the KL on a set called ``generic``.
        fluency_tokens: Length of the continuations of the set called ``generic``.
        batch_tokens: Tokens per forward pass, padding included; ``auto`` chooses by the device.
    """

    name: str
    summary: str = ""
    paper: str = ""
    planted: PlantedSpec | None = None
    set: dict[str, SuiteSet] = field(default_factory=dict)
    aggregates: dict[str, dict[str, Any]] = field(default_factory=dict)
    harness: HarnessSpec | None = None
    reference: str | None = None
    target: str | None = None
    fluency_tokens: int = 64
    batch_tokens: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        _check_word(self.name, "name")
        for name in self.set:
            _check_word(name, "set")
        if not self.set and self.harness is None:
            raise RequestError("the suite has neither set nor harness: there is nothing to measure")
        unnamed = [name for name, spec in self.set.items() if spec.planted and self.planted is None]
        if unnamed:
            raise RequestError(f"set.{unnamed[0]} takes planted facts: add the key planted with their sizes and seed")
        for key in ("fluency_tokens", "batch_tokens"):
            value = getattr(self, key)
            if value != "auto" and value < 1:
                raise RequestError(f"{key} is {value}: it must be at least 1")

    def aggregate(self, label: str) -> tuple[str, dict[str, Any]]:
        """Registered name and settings of the aggregate that the suite calls ``label``."""
        settings = dict(self.aggregates[label])
        return str(settings.pop("aggregate", label)), settings

    @property
    def scored(self) -> Mapping[str, SuiteSet]:
        """Sets with metrics of their own: all but ordinary text."""
        return {name: spec for name, spec in self.set.items() if name != GENERIC}


def _check_word(word: str, key: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", word):
        raise RequestError(f"{key}: {word!r} must begin with a letter or digit and hold only those, '_', '-' and '.'")
