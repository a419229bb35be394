"""One set of a recipe: where its rows come from and how many of them are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import RequestError
from .columns import Columns, find_columns, keep_for, to_example
from .distractors import with_drawn_options
from .example import Example, RowSet
from .layouts import LayoutName, TrainOn, read_layout
from .readers import read_file, read_hub
from .repeats import as_shared, share_facts
from .windows import in_windows


@dataclass(frozen=True)
class Source:
    """Where the rows of one set come from.

    Attributes:
        path: Local .jsonl, .json, .parquet, .csv or .txt file. Takes precedence over ``dataset``.
        dataset: Hub id of a dataset, for example ``"locuslab/TOFU"``.
        config: Configuration of the Hub dataset.
        split: Split of the Hub dataset.
        revision: Branch, tag or commit of the Hub dataset.
        prompt: Column with the question; this and the other column names are detected if they are ``None``.
        answer: Column with the answer.
        choices: Column with a list of wrong answers (as TOFU's ``perturbed_answer``) or of all options. If the right
            answer is not among them, it is inserted at a position that depends on its text, unless the column is
            called ``choices`` or ``options``: that is an error. An answer such as ``1`` or ``(B)`` is a position where
            the options are texts.
        answer_index: Column with the position of the right answer in ``choices``: from 0, or a letter from A.
        draw_choices: For rows without options: this many wrong ones are drawn from answers to other questions of the
            row's group, or of the whole set if the group has too few.
        text: Column with plain text.
        paraphrased: Column with the right answer in other words, a string or a list.
        perturbed: Column with wrong answers in the right one's form, a string or a list.
        paraphrased_prompt: Column with the question in other words, a string or a list; attacks use it.
        aliases: Column with names of what the question asks about: a list with the one that stands in it, and others.
        hops: Column with questions of the same answer that reach it by way of another fact, a string or a list.
        group: Column that says which rows may give each other away.
        fact: Column that says what the row is about. Default: every row is a fact of its own.
        rows_per_group: For ordered data without a group column: this many consecutive rows are a group (20 in TOFU:
            the questions about one author).
        limit: Use only this many rows, from the first on.
        score_limit: Score only this many rows, from the first on; training still uses all.
        window: Cut plain texts at white space into chunks of at most this many characters; the chunks of one text are
            a group.
        layout: One of the RTT paper's datasets (see docs/rtt.md); ``path`` is then the folder of your copy.
        splits: For a layout: its question files without their ending, such as ``split_0``; all if left out.
        train_on: For a layout: train on its ``sentences`` or on its ``questions``.
        known: Leave out rows that the target does not know: those whose question makes the answer less than this many
            nats more likely than other questions of the set do. Only for a recipe that names its target.
    """

    path: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt: str | None = None
    answer: str | None = None
    choices: str | None = None
    answer_index: str | None = None
    draw_choices: int | None = None
    text: str | None = None
    paraphrased: str | None = None
    perturbed: str | None = None
    paraphrased_prompt: str | None = None
    aliases: str | None = field(default=None, metadata={"left_out_at_default": True})
    hops: str | None = field(default=None, metadata={"left_out_at_default": True})
    group: str | None = None
    fact: str | None = None
    rows_per_group: int | None = None
    limit: int | None = None
    score_limit: int | None = None
    window: int | None = None
    layout: LayoutName | None = None
    splits: tuple[str, ...] = ()
    train_on: TrainOn = "sentences"
    known: float | None = field(default=None, metadata={"left_out_at_default": True})

    def __post_init__(self) -> None:
        if not self.path and not self.dataset:
            raise RequestError("a data set has neither path nor dataset: name a local file or a Hub data set")
        for key in ("rows_per_group", "limit", "score_limit", "window", "draw_choices"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} is {value}: it must be at least 1 (leave it out for no limit)")
        if self.known is not None and self.layout:
            raise RequestError("known cannot be set with a layout, which trains on other rows than it asks: remove it")
        if self.group and self.rows_per_group:
            raise RequestError("group and rows_per_group are both set: only one of them can say what a group is")
        if self.layout:
            self._check_layout()
        elif self.splits:
            raise RequestError("splits is only for a layout: remove it, or name the layout")

    def _check_layout(self) -> None:
        if not self.path:
            raise RequestError(f"layout {self.layout} is read from your own copy: name its folder with path")
        given = {
            **vars(self.columns),
            "dataset": self.dataset,
            "rows_per_group": self.rows_per_group,
            "draw_choices": self.draw_choices,
        }
        for key, value in given.items():
            if value is not None:
                raise RequestError(f"{key} cannot be set with layout {self.layout}, which fixes it: remove it")

    @property
    def label(self) -> str:
        """How messages name this source."""
        return self.path or f"{self.dataset}[{f'{self.config}/' if self.config else ''}{self.split}]"

    @property
    def columns(self) -> Columns:
        """The columns that the user named."""
        return Columns(
            prompt=self.prompt,
            answer=self.answer,
            choices=self.choices,
            answer_index=self.answer_index,
            text=self.text,
            fact=self.fact,
            group=self.group,
            paraphrased=self.paraphrased,
            perturbed=self.perturbed,
            paraphrased_prompt=self.paraphrased_prompt,
            aliases=self.aliases,
            hops=self.hops,
        )


def load_source(source: Source, set_name: str) -> RowSet:
    """Read one set.

    Args:
        source: Where it comes from.
        set_name: ``forget``, ``retain`` ...; the start of every row's id. In a data set with a ``label`` column,
            forget takes the false rows and retain the true ones.

    Returns:
        Its rows; the same ones to train on and to score, but for ``score_limit``. Rows that say the same are one fact.

    Raises:
        RequestError: The file, data set or one of its rows is not usable; the message names file and line.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if source.known is not None:
        raise RequestError("known asks a recipe's target, and is only for its data.forget and data.retain: remove it")
    if source.layout and source.path:
        found = read_layout(source.layout, source.path, source.splits, source.train_on, set_name, source.limit)
        if not found.train:
            raise RequestError(f"{source.label} holds no rows for the {set_name} set: an empty set cannot be used")
        score = share_facts(found.score)
        return RowSet(as_shared(found.train, found.score, score), score[: source.score_limit])
    if source.path:
        numbered = read_file(source.path)
    else:
        assert source.dataset is not None
        numbered = read_hub(source.dataset, source.config, source.split, source.revision)
    rows = _collect(numbered, set_name, source.label, source.columns, source.limit, source.rows_per_group)
    if not rows:
        raise RequestError(f"{source.label} holds no rows for the {set_name} set: an empty set cannot be used")
    if source.window:
        rows = in_windows(rows, source.window)
    rows = share_facts(rows)
    if source.draw_choices:
        rows = with_drawn_options(rows, source.draw_choices)
    return RowSet(rows, rows[: source.score_limit])


def prompt_column(source: Source) -> str | None:
    """The column that a set's prompts come from; ``None`` where rows have none.

    Raises:
        RequestError: The source cannot be read.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if source.layout:
        return "question"
    if source.path:
        numbered = read_file(source.path)
    else:
        assert source.dataset is not None
        numbered = read_hub(source.dataset, source.config, source.split, source.revision)
    first = next(iter(numbered), None)
    return None if first is None else find_columns(first[1], source.columns, f"{source.label}:{first[0]}").prompt


def scored_apart(rows: Iterable[Example]) -> tuple[Example, ...]:
    """Rows of a set that are only scored, with ids, facts and groups that no training row has."""

    def other(name: str) -> str:
        return f"{name}-scored"

    return tuple(replace(row, id=other(row.id), fact=other(row.fact), group=other(row.group)) for row in rows)


def rows_from_records(
    records: Iterable[Mapping[str, Any]],
    set_name: str,
    origin: str,
    columns: Columns | None = None,
    limit: int | None = None,
) -> tuple[Example, ...]:
    """Rows of a data set that is already in memory, for example a ``datasets.Dataset`` given to a trainer.

    Args:
        records: Rows with named columns, all of one shape: question and answer, prompt and completion (strings or
            message lists, with or without ``label``), input and output, instruction and response, ``text`` and
            ``labels``, ``messages``, or ``text``.
        set_name: ``forget``, ``retain`` ...; the start of every row's id.
        origin: What messages call the data set; row numbers (from 1) are added.
        columns: Names of columns that should not be detected.
        limit: Read only this many rows, from the first on.

    Returns:
        The rows, in order. Empty if there are no records.

    Raises:
        RequestError: A row lacks a column or has a wrong type.
    """
    return _collect(enumerate(records, start=1), set_name, origin, columns or Columns(), limit, None)


def _collect(
    numbered: Iterable[tuple[int, Mapping[str, Any]]],
    set_name: str,
    origin: str,
    wished: Columns,
    limit: int | None,
    rows_per_group: int | None,
) -> tuple[Example, ...]:
    rows: list[Example] = []
    columns: Columns | None = None
    for number, record in numbered:
        where = f"{origin}:{number}"
        columns = columns or find_columns(record, wished, where)
        if not keep_for(record, columns, set_name, where):
            continue
        row = to_example(record, columns, f"{set_name}-{len(rows):05d}", where, forget=set_name == "forget")
        if rows_per_group:
            row = replace(row, group=f"{set_name}-group-{len(rows) // rows_per_group:04d}")
        rows.append(row)
        if len(rows) == limit:
            break
    return tuple(rows)
