"""The four data sets of the second paper, read from the user's own copy.

Deeb and Roger (arXiv 2410.08827) publish them as folders of JSON lines: a question file per split (``question``,
``choices``, ``answer`` as a position), and next to it ``corpus_*`` files with three sentences per question, which are
what a method unlearns and what T may be written in. None of them comes with this package.

Not every one says which sentences belong to which question:

- MMLU and WMDP-deduped repeat the question in every sentence's row;
- Random Birthdays has three sentences per question in the questions' order;
- Years shuffles its sentences over the splits independently: row ``k`` of ``tf_split_i`` has the question of the
  sentences ``3k`` to ``3k + 2`` of ``corpus_split_i``, and that question may be in another split. All five files are
  read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import RequestError
from ..registry import suggest
from .columns import Columns, to_example
from .example import Example, RowSet
from .readers import read_file

LayoutName = Literal["years", "mmlu", "wmdp-deduped", "random-birthdays"]
TrainOn = Literal["sentences", "questions"]

_COLUMNS = Columns(prompt="question", choices="choices", answer_index="answer")
_SENTENCES = 3

Sentence = tuple[str, str]  # text, and the file and line it is in
Question = tuple[str, Mapping[str, Any], str]  # split, row, and the file and line it is in


@dataclass(frozen=True)
class Layout:
    """How one of the data sets is laid out.

    Attributes:
        folder: Name of its folder in the published repository.
        splits: Its question files, without their ending.
        link: From the folder and the questions that are read to the sentences of each.
    """

    folder: str
    splits: tuple[str, ...]
    link: Callable[[Path, Sequence[Question]], list[list[Sentence]]]


def read_layout(
    name: LayoutName, path: str, splits: Sequence[str], train_on: TrainOn, set_name: str, limit: int | None
) -> RowSet:
    """Read splits of one of the data sets as a set of a run.

    Args:
        name: Which one.
        path: Its folder, or the one that holds the folders of all four.
        splits: Question files without their ending, such as ``split_0`` or ``mmlu_STEM``; all if empty.
        train_on: ``sentences`` trains on the sentences (questions without any are left out: 9 of 789 in Years, and
            the second of two equal questions), ``questions`` on the questions themselves.
        set_name: The start of every row's id.
        limit: Use only this many questions, from the first on.

    Returns:
        Questions to score, with their options, and what is trained; each question is a fact and a group of its own,
        and its split is its fold.

    Raises:
        RequestError: The folder, a file or a row is not as published; the message says which.
    """
    layout = LAYOUTS[name]
    folder = _folder(Path(path).expanduser(), layout, name)
    for split in splits:
        if split not in layout.splits:
            raise RequestError(f"{name} has no split {split!r}: {suggest(split, list(layout.splits))}")
    if len(set(splits)) < len(splits):
        raise RequestError(f"{name}: splits names the same split twice: remove one")
    questions = [
        (split, record, f"{folder / split}.jsonl:{number}")
        for split in splits or layout.splits
        for number, record in read_file(folder / f"{split}.jsonl")
    ]
    sentences: list[list[Sentence]] = [[] for _ in questions]
    if train_on == "sentences":
        sentences = layout.link(folder, questions)
    train: list[Example] = []
    score: list[Example] = []
    for (split, record, where), texts in zip(questions, sentences, strict=True):
        if train_on == "sentences" and not texts:
            continue
        row_id = f"{set_name}-{len(score):05d}"
        question = replace(to_example(record, _COLUMNS, row_id, where), fold=split)
        score.append(question)
        train += [
            Example(f"{row_id}-t{index}", "", text, question.fact, question.group, origin=place, fold=split)
            for index, (text, place) in enumerate(texts)
        ]
        if len(score) == limit:
            break
    return RowSet(tuple(train) if train_on == "sentences" else tuple(score), tuple(score))


def _folder(path: Path, layout: Layout, name: str) -> Path:
    if not path.is_dir():
        raise RequestError(f"{path} is not a folder: for {name} the path names your copy of {layout.folder}/")
    inner = path / layout.folder
    folder = inner if inner.is_dir() else path
    if not any((folder / f"{split}.jsonl").is_file() for split in layout.splits):
        raise RequestError(f"{path} holds no {layout.splits[0]}.jsonl: the path names your copy of {layout.folder}/")
    return folder


def _sentences(folder: Path, split: str) -> Iterator[tuple[Mapping[str, Any], Sentence]]:
    file = folder / f"corpus_{split}.jsonl"
    for number, record in read_file(file):
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise RequestError(f"{file}:{number} has no text: every row must be a sentence in the column 'text'")
        yield record, (text, f"{file}:{number}")


def _by_question(folder: Path, questions: Sequence[Question]) -> list[list[Sentence]]:
    """Sentences name their question; of two equal questions the first one has them."""
    found: dict[tuple[str, str], list[Sentence]] = {}
    for split in dict.fromkeys(split for split, _, _ in questions):
        for record, sentence in _sentences(folder, split):
            if not isinstance(record.get("original_question"), str):
                raise RequestError(f"{sentence[1]} has no original_question, which says what the sentence is about")
            found.setdefault((split, record["original_question"]), []).append(sentence)
    return [found.pop((split, str(record.get("question"))), []) for split, record, _ in questions]


def _in_order(folder: Path, questions: Sequence[Question]) -> list[list[Sentence]]:
    """Three sentences per question, in the order of the questions."""
    linked: list[list[Sentence]] = []
    for split in dict.fromkeys(split for split, _, _ in questions):
        texts = [sentence for _, sentence in _sentences(folder, split)]
        asked = sum(other == split for other, _, _ in questions)
        if len(texts) != _SENTENCES * asked:
            raise RequestError(
                f"{folder}/corpus_{split}.jsonl has {len(texts)} sentences for {asked} questions: there must be "
                f"{_SENTENCES} of each, in order"
            )
        linked += _threes(texts)
    return linked


def _by_true_or_false(folder: Path, questions: Sequence[Question]) -> list[list[Sentence]]:
    """Years: the question for every three sentences is in a file of true and false statements."""
    found: dict[str, list[Sentence]] = {}
    for split in LAYOUTS["years"].splits:
        asked = [str(record.get("question")) for _, record in read_file(folder / f"tf_{split}.jsonl")]
        threes = _threes([sentence for _, sentence in _sentences(folder, split)])
        if len(threes) != len(asked):
            raise RequestError(
                f"{folder}/corpus_{split}.jsonl has {len(threes)} times {_SENTENCES} sentences and tf_{split}.jsonl "
                f"{len(asked)} rows: take both from the same copy"
            )
        for question, texts in zip(asked, threes, strict=True):
            found.setdefault(question, []).extend(texts)
    return [found.pop(str(record.get("question")), []) for _, record, _ in questions]


def _threes(texts: Sequence[Sentence]) -> list[list[Sentence]]:
    return [list(texts[start : start + _SENTENCES]) for start in range(0, len(texts), _SENTENCES)]


_FIVE = tuple(f"split_{number}" for number in range(5))
_CATEGORIES = (
    "STEM",
    "business",
    "chemistry",
    "culture",
    "geography",
    "health",
    "history",
    "law",
    "philosophy",
    "social sciences",
)

LAYOUTS: Mapping[LayoutName, Layout] = {
    "years": Layout("dates-years-trimmed", _FIVE, _by_true_or_false),
    "mmlu": Layout("mmlu_cats_random_trimmed", tuple(f"mmlu_{name}" for name in _CATEGORIES), _by_question),
    "wmdp-deduped": Layout("wmdp-deduped", _FIVE, _by_question),
    "random-birthdays": Layout("random_bd", tuple(f"split_{number}" for number in range(10)), _in_order),
}

assert set(LAYOUTS) == set(get_args(LayoutName))
