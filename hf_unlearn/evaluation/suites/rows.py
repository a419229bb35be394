"""The rows of a suite, as the model will be asked: templates, options by letter, solved examples, chat or plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from ...data.checks import content_key
from ...data.columns import LETTERS
from ...data.example import Example
from ...data.planted import make_planted
from ...data.repeats import repeats, share_facts
from ...data.sources import Source, load_source
from ...errors import RequestError
from ..metrics import METRICS
from .spec import GENERIC, OPTIONS_SLOT, PROMPT_SLOT, Shots, Suite, SuiteSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Between a solved example and the next question, in plain text.
SHOT_BREAK = "\n\n"
#: Sets that contradict each other if they share a row.
_APART = (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout"))
_COLUMNS = ("prompt", "answer", "choices", "answer_index", "text", "paraphrased", "perturbed")


@dataclass(frozen=True)
class SuiteRows:
    """Rows to score.

    Attributes:
        sets: Rows by set, as they are asked.
        raw: The same rows as their files have them.
        kinds: ``chat`` or ``plain`` for each set.
        repeated: Number of rows of each set that say what an earlier row says; these share its fact.
    """

    sets: Mapping[str, tuple[Example, ...]]
    raw: Mapping[str, tuple[Example, ...]]
    kinds: Mapping[str, str]
    repeated: Mapping[str, int]


def load_rows(suite: Suite, tokenizer: PreTrainedTokenizerBase, limit: int | None = None) -> SuiteRows:
    """Read every set of a suite and put its rows into the words that the model is asked.

    Args:
        suite: The suite.
        tokenizer: The model's; asked whether it has a chat template, and where to cut answers.
        limit: Score only the first so many rows of each set.

    Raises:
        RequestError: A file or row that cannot be used, a row that lacks what a metric of its set needs (both with
            file and line), a set that asks for a chat template which the model has not, or a row in two sets that
            must be apart.
        EnvironmentFailure: The Hub cannot be reached.
    """
    sets, kinds, repeated = {}, {}, {}
    raw = {}
    for name, spec in suite.set.items():
        kinds[name] = _kind(name, spec, bool(tokenizer.chat_template))
        rows, shots = _read(name, spec, suite)
        _check_needs(name, spec, rows)
        raw[name] = shared = share_facts(rows[:limit])
        repeated[name] = repeats(shared)
        if spec.answer_tokens:
            shared = tuple(_cut(row, spec.answer_tokens, tokenizer) for row in shared)
        sets[name] = tuple(_ask(row, spec, shots, kinds[name]) for row in shared)
    _check_apart(raw)
    return SuiteRows(sets, raw, kinds, repeated)


def _kind(name: str, spec: SuiteSet, has_chat_template: bool) -> str:
    if spec.format == "chat" and not has_chat_template:
        raise RequestError(
            f"set.{name}.format is chat and the model's tokenizer has no chat template: set set.{name}.format=plain, "
            "or set tokenizer.chat_template and save the tokenizer again"
        )
    return "chat" if has_chat_template and spec.format != "plain" else "plain"


def _read(name: str, spec: SuiteSet, suite: Suite) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Rows of a set and its solved examples."""
    if spec.planted:
        assert suite.planted is not None  # the suite refuses such a set without it
        rows = getattr(make_planted(suite.planted), spec.planted).score[: spec.limit]
        if not rows:
            raise RequestError(
                f"set.{name}: the planted facts have no {spec.planted} set: raise planted.{spec.planted}"
            )
        return rows, ()
    count = spec.shots.count if spec.shots else 0
    if not count:
        return load_source(_source(spec), name).score, ()
    assert spec.shots is not None
    other = _shots_source(name, spec, spec.shots)
    if other is not None:
        shots = load_source(other, "shot").score
        _check_count(name, count, shots, other.label)
        return load_source(_source(spec), name).score, shots[:count]
    # The first rows of the set itself, which come on top of its limit and are not scored.
    rows = load_source(replace(_source(spec), limit=spec.limit + count if spec.limit else None), name).score
    _check_count(name, count + 1, rows, spec.label)
    return rows[count:], rows[:count]


def _check_count(name: str, needed: int, rows: Sequence[Example], label: str) -> None:
    if len(rows) < needed:
        raise RequestError(f"set.{name}.shots: {label} holds {len(rows)} rows, and {needed} are needed: lower count")


def _source(spec: SuiteSet | Shots) -> Source:
    return Source(**{item.name: getattr(spec, item.name) for item in fields(Source)})


def _shots_source(name: str, spec: SuiteSet, shots: Shots) -> Source | None:
    """Where the solved examples come from; ``None`` for the set's own first rows."""
    columns = {key: getattr(shots, key) or getattr(spec, key) for key in _COLUMNS}
    if shots.path or shots.dataset:
        split = shots.split or "train"
        return Source(shots.path, shots.dataset, shots.config, split, shots.revision, limit=shots.count, **columns)
    if not (shots.split or shots.config):
        return None
    if spec.path:
        raise RequestError(
            f"set.{name}.shots names a split of a Hub data set, and the set comes from the file {spec.path}: set "
            f"set.{name}.shots.path to a file with examples, or set.{name}.shots.count=0"
        )
    config, split = shots.config or spec.config, shots.split or spec.split
    return Source(None, spec.dataset, config, split, spec.revision, limit=shots.count, **columns)


def _cut(row: Example, tokens: int, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The row with an answer of at most so many tokens: its beginning as it is written, not as it is decoded."""
    if row.answer in row.choices:
        return row
    if not tokenizer.is_fast:
        ids = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        return replace(row, answer=str(tokenizer.decode(ids[:tokens]))) if len(ids) > tokens else row
    ends = tokenizer(row.answer, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return replace(row, answer=row.answer[: ends[tokens - 1][1]]) if len(ends) > tokens else row


def _check_apart(sets: Mapping[str, Sequence[Example]]) -> None:
    for one, other in _APART:
        seen = {content_key(row): row for row in sets.get(one, ())}
        both = next((row for row in sets.get(other, ()) if content_key(row) in seen), None)
        if both is not None:
            raise RequestError(
                f"{seen[content_key(both)].origin} of the {one} set and {both.origin} of the {other} set are the same "
                "row: remove it from one of the two"
            )


def _check_needs(name: str, spec: SuiteSet, rows: Sequence[Example]) -> None:
    """What the metrics of a set need is in every row, or can be made."""
    if name == GENERIC:
        return
    for metric in spec.metrics:
        for need in METRICS.get(metric).needs:
            for row in rows:
                if lacking := missing(need, row, spec):
                    raise RequestError(
                        f"{row.origin or row.id}: set.{name} asks for the metric {metric}, and {lacking}, or remove "
                        f"{metric} from set.{name}.metrics"
                    )
    if spec.options == "letters":
        for row in rows:
            if not 2 <= len(row.choices) <= len(LETTERS):
                raise RequestError(
                    f"{row.origin or row.id}: set.{name} asks by letter and this row has {len(row.choices)} options: "
                    f"there must be 2 to {len(LETTERS)} (name their column with choices)"
                )


def missing(need: str, row: Example, spec: SuiteSet) -> str:
    """How to fix a row that lacks something; empty if it has it."""
    if need == "options" and not row.choices:
        return "this row has no options: name their column with choices"
    if need.startswith("variants:"):
        kind = need.removeprefix("variants:")
        if not dict(row.variants).get(kind):
            return f"this row has no {kind} answers: name their column with {kind}"
    if need == "prior" and not spec.prior:
        return "there is no prompt without the question: set prior, for example to 'Answer:'"
    if need == "samples" and spec.sampling is None:
        return "there are no samples: set sampling, for example to {count: 1, temperature: 0.9}"
    if need in ("generation", "samples") and not row.prompt and not row.turns:
        return "this row is plain text without a prompt to continue: name a prompt and an answer column"
    return ""


def _ask(row: Example, spec: SuiteSet, shots: Sequence[Example], kind: str) -> Example:
    """The row as it is scored: its prompt rendered, its answers with their prefix."""
    if not row.prompt:
        return row
    if row.conversational:
        return replace(row, prior_prompt=spec.prior)
    before = spec.separator if kind == "plain" else ""
    form = spec.question("message" if kind == "chat" else "template")
    question, answer, choices = _question(row, spec, form)
    asked = replace(
        row,
        answer=before + answer,
        choices=tuple(before + choice for choice in choices),
        variants=tuple((kind_, tuple(before + text for text in texts)) for kind_, texts in row.variants),
        prior_prompt=spec.prior,
    )
    solved = [(text, given) for text, given, _ in (_question(shot, spec, form) for shot in shots)]
    if kind == "chat":
        turns = [("system", spec.system)] if spec.system else []
        for text, given in solved:
            turns += [("user", text), ("assistant", given)]
        return replace(asked, prompt=question, turns=tuple(turns), conversational=True)
    head = "".join(f"{text}{before}{given}{SHOT_BREAK}" for text, given in solved)
    return replace(asked, prompt=head + question)


def _question(row: Example, spec: SuiteSet, form: str) -> tuple[str, str, tuple[str, ...]]:
    """The question, the answer and the options of a row in the words of its set."""
    lettered = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False))
    # One pass, so that a question which contains a slot's name is not filled in again.
    head, _, tail = form.partition(PROMPT_SLOT)
    question = head.replace(OPTIONS_SLOT, lettered) + row.prompt + tail.replace(OPTIONS_SLOT, lettered)
    if spec.options == "text":
        return question, row.answer, row.choices
    letters = tuple(LETTERS[: len(row.choices)])
    return question, letters[row.choices.index(row.answer)], letters
