"""The one row type that every stage reads: a prompt, its answer, and what the answer is a fact about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its answer.

    Attributes:
        id: Unique within a run; the key under which scores are kept.
        prompt: Text before the answer. Empty for plain text, which is then scored and trained as a whole.
        answer: Text that follows the prompt, including its leading space, if any.
        fact: What the row is about. Rows with the same fact are averaged before anything is compared.
        group: Facts of one group may reveal something about each other. Attacks never split a group between
            training and scoring, and intervals resample whole groups.
        choices: Answer texts to choose from, the right one among them; empty where there are no options.
        origin: ``file:line`` for messages to the user, or the name of the generator.
        turns: Earlier messages of a conversation as (role, content); ``prompt`` is then the last user message.
        conversational: Whether the row came as chat messages and so needs the tokenizer's chat template.
        variants: Further answers by kind, such as ``paraphrased`` (right in other words) and ``perturbed`` (wrong):
            each kind with its answer texts, as they would follow the prompt.
        prior_prompt: A prompt that does not contain the question (``"Answer:"``). If it is given, options are
            scored after it too, for calibrated multiple choice.
        other_prompts: The same question in other words; attacks ask by them.
        aliases: Names of what the prompt asks about: the one that stands in it, and others.
        hops: Questions with the same answer that reach it by way of another fact.
        fold: The fold of a split that came with the data, if any; attacks that split use it.
    """

    id: str
    prompt: str
    answer: str
    fact: str
    group: str
    choices: tuple[str, ...] = ()
    origin: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    conversational: bool = False
    variants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    prior_prompt: str = ""
    other_prompts: tuple[str, ...] = ()
    fold: str = ""
    aliases: tuple[str, ...] = ()
    hops: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Prompt and answer as one string."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class RowSet:
    """The rows of one set: those to train on and those to score on (often the same)."""

    train: tuple[Example, ...]
    score: tuple[Example, ...]

    def __iter__(self) -> Iterator[Example]:
        yield from self.train
        trained = set(self.train)
        yield from (row for row in self.score if row not in trained)


EMPTY_SET = RowSet((), ())


@dataclass(frozen=True)
class DataBundle:
    """Everything a run knows about its data.

    Attributes:
        forget: What is to be forgotten.
        retain: What is to be kept, of the same kind.
        holdout: Same kind as forget but never trained on; stands in for a never-knew model.
        generic: Ordinary text for KL and fluency.
        extra: Further sets that are only scored, by name.
        practice: Rows only used to build a small model from scratch (a language for the facts to stand in).
        floor: Holdout rows that attacks ask beside the forget set, so that what an attack teaches of facts that nobody
            knew can be told from what it brings back. Empty where a never-knew model is attacked.
        earlier: Forget sets of earlier deletion requests, by the request's id. Nothing is trained on them.
        notes: How the rows were chosen, one sentence each, for the report.
    """

    forget: RowSet
    retain: RowSet
    holdout: RowSet = EMPTY_SET
    generic: RowSet = EMPTY_SET
    extra: Mapping[str, RowSet] = field(default_factory=dict)
    practice: RowSet = EMPTY_SET
    floor: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    earlier: Mapping[str, RowSet] = field(default_factory=dict)

    def with_floor(self) -> DataBundle:
        """The same data for a run without a never-knew model: attacks ask the holdout rows too."""
        return replace(self, floor=self.holdout.score)

    def scored_sets(self) -> dict[str, tuple[Example, ...]]:
        """Rows to score, by set name, in a fixed order; empty sets left out."""
        named = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout, **self.extra}
        return {name: rows.score for name, rows in named.items() if rows.score}

    @property
    def never_said(self) -> tuple[Example, ...]:
        """Rows whose text may stand in nothing that is kept or published: all that is or was to be forgotten."""
        return (*self.forget, *(row for rows in self.earlier.values() for row in rows))
