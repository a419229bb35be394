"""From the records of a data set, in any of the shapes people publish, to :class:`Example` rows.

The shapes are those of TRL (plain text, messages, prompt-completion as strings or messages, paired and unpaired
preference) and of question answering and multiple choice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from ..errors import RequestError
from ..registry import suggest
from .example import Example
from .strict_json import FaultyJson, kind_of, read_only_value

PROMPT_NAMES = ("prompt", "question")
ANSWER_NAMES = ("completion", "answer")
ALIASES_NAME = "aliases"
HOPS_NAME = "hops"
FURTHER_PAIRS = (("input", "output"), ("instruction", "response"), ("instruction", "output"))
"""Prompt and answer under other names, where both are texts and nothing says that they are something else."""
LABELLED_TEXT = ("text", "labels")
"""Likewise, for data whose ``labels`` are texts. Elsewhere these are class numbers or token ids beside plain text."""
CHOICE_NAMES = ("perturbed_answer", "wrong_answers", "choices", "options")
INDEX_NAMES = ("answer_index", "answer_idx")
PARAPHRASED_NAMES = ("paraphrased_answer",)
PERTURBED_NAMES = ("perturbed_answer",)
PARAPHRASED_PROMPT_NAMES = ("paraphrased_question", "paraphrased_prompt")
_OTHER_NAMES = (
    "messages",
    "text",
    "label",
    "chosen",
    "rejected",
    *dict.fromkeys(name for pair in FURTHER_PAIRS for name in pair),
    *PARAPHRASED_NAMES,
    *PARAPHRASED_PROMPT_NAMES,
    ALIASES_NAME,
    HOPS_NAME,
)
_KNOWN = frozenset((*PROMPT_NAMES, *ANSWER_NAMES, *CHOICE_NAMES, *INDEX_NAMES, *_OTHER_NAMES))
_ASKED = (*PROMPT_NAMES, *ANSWER_NAMES, "messages", "text", "chosen", "rejected", "instruction", "response", "input")
LETTERS = "ABCDEFGHIJ"
_LIKE_A_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}")
_ALL_OPTIONS = ("choices", "options")
_WRONG_ONLY = ("perturbed_answer", "wrong_answers")
# How a position is written as text: "1", "1.0" (a table that has empty cells elsewhere), "B", "(b)", "B.".
_NUMBER = re.compile(r"([0-9]{1,4})(\.0)?")
_LETTER = re.compile(rf"\(?([{LETTERS}{LETTERS.lower()}])[).:]?")
_LABELS = {"true": True, "1": True, "false": False, "0": False}  # numbers and text: what CSV files hold
PAIR_NAMES = ("chosen", "rejected")
SHAPES = (
    "question and answer, prompt and completion, input and output, instruction and response, chosen and rejected, "
    "messages, or text"
)


@dataclass(frozen=True)
class Columns:
    """Which column of a data set holds what; ``None`` if the data set has no such column.

    Attributes:
        prompt: Question or prompt: a string, or a list of messages.
        answer: Answer or completion: a string, or a list of messages. May be missing where ``answer_index`` is set.
        choices: A list of wrong answers, or of all options.
        answer_index: Position of the right answer in ``choices``: from 0, or a letter from A.
        messages: A whole conversation that ends with the answer.
        text: Plain text.
        label: Unpaired preference: false marks what must be forgotten, true what must be kept.
        chosen: Paired preference: the answer that is to be given, a string or a list of messages. A forget row has
            it as a variant of the kind ``chosen``, and in other sets it is the answer.
        rejected: Paired preference: the answer that is not to be given, which is the answer of a forget row.
        fact: What the row is about.
        group: Which facts may reveal something about each other.
        paraphrased: The right answer in other words: a string or a list.
        perturbed: Wrong answers in the right one's form: a string or a list.
        paraphrased_prompt: The question in other words: a string or a list.
        aliases: Names of what the question asks about: a list with the one that stands in it, and others.
        hops: Questions with the same answer that reach it by way of another fact: a string or a list.
    """

    prompt: str | None = None
    answer: str | None = None
    choices: str | None = None
    answer_index: str | None = None
    messages: str | None = None
    text: str | None = None
    label: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    fact: str | None = None
    group: str | None = None
    paraphrased: str | None = None
    perturbed: str | None = None
    paraphrased_prompt: str | None = None
    aliases: str | None = None
    hops: str | None = None


def find_columns(record: Mapping[str, Any], wished: Columns, where: str) -> Columns:
    """Decide from the first record what each column is for.

    Args:
        record: First row of the data set.
        wished: Columns that the user named; they take precedence over detected ones.
        where: ``file:line`` of the record.

    Returns:
        The columns to read from every row.

    Raises:
        RequestError: A named column does not exist, or the record has none of the known shapes.
    """
    for wanted in _names(wished):
        if wanted not in record:
            raise RequestError(f"{where} has no column {wanted!r}: {_nearest(wanted, record, wished)}")
    if not _names(wished) and not _KNOWN & record.keys() and (written := _written_otherwise(record)):
        found = find_columns({name: record[column] for name, column in written.items()}, wished, where)
        return Columns(**{use: written.get(name or "", name) for use, name in vars(found).items()})
    if wished.text:
        return wished
    if not (wished.prompt or wished.answer) and not _has_question(record):
        if _are_texts(LABELLED_TEXT, record) and "messages" not in record:
            prompt, answer = LABELLED_TEXT
            return replace(wished, prompt=prompt, answer=answer)
        for name in ("messages", "text"):
            if name in record:
                return replace(wished, **{name: name})
        if not _is_pair(record) and _first((*PROMPT_NAMES, *ANSWER_NAMES), record) is None:
            wished = _with_further_pair(record, wished, where)
    if not wished.answer and _is_pair(record):
        chosen, rejected = PAIR_NAMES
        return replace(wished, prompt=wished.prompt or _first(PROMPT_NAMES, record), chosen=chosen, rejected=rejected)
    found = replace(
        wished,
        prompt=wished.prompt or _first(PROMPT_NAMES, record),
        answer=wished.answer or _first(ANSWER_NAMES, record),
        choices=wished.choices or _first_list(CHOICE_NAMES, record),
        label=wished.label or _preference_label(record),
        paraphrased=wished.paraphrased or _first(PARAPHRASED_NAMES, record),
        perturbed=wished.perturbed or _first(PERTURBED_NAMES, record),
        paraphrased_prompt=wished.paraphrased_prompt or _first(PARAPHRASED_PROMPT_NAMES, record),
        aliases=wished.aliases or _first_list([ALIASES_NAME], record),
        hops=wished.hops or _first_list([HOPS_NAME], record),
    )
    if found.choices and not found.answer_index:
        found = replace(found, answer_index=_first(INDEX_NAMES, record))
        if found.answer and _is_index(record[found.answer]):
            found = replace(found, answer_index=found.answer, answer=None)
    if found.answer_index and not found.choices:
        raise RequestError(
            f"{where}: answer_index={found.answer_index} needs a list of options: name its column as choices"
        )
    if not found.prompt or not (found.answer or found.answer_index):
        missing = "a question or prompt" if not found.prompt else "an answer or completion"
        raise RequestError(
            f"{where} has no column for {missing} ({_told(record, wished)}): rows need "
            f"{SHAPES}: rename the columns, or name them in a recipe (prompt:, answer: or text: of the set)"
        )
    return found


def _with_further_pair(record: Mapping[str, Any], wished: Columns, where: str) -> Columns:
    """The columns of a pair under other names, if there is one.

    Raises:
        RequestError: A task is in two columns: reading one of them would lose the other.
    """
    found = next((pair for pair in FURTHER_PAIRS if _are_texts(pair, record)), None)
    if found is None:
        return wished
    if {"instruction", "input"} <= record.keys():
        raise RequestError(
            f"{where} has both 'instruction' and 'input': write the two into one column, or name in a recipe which "
            "one is the prompt and which the answer (prompt:, answer: of the set)"
        )
    return replace(wished, prompt=found[0], answer=found[1])


def _are_texts(names: Iterable[str], record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(name), str) for name in names)


def _written_otherwise(record: Mapping[str, Any]) -> dict[str, str]:
    """Columns by known names that they have in other letters, such as ``Question``; those that two have left out."""
    found: dict[str, list[str]] = {}
    for column in record:
        if isinstance(column, str):
            found.setdefault(column.strip().casefold(), []).append(column)
    return {name: columns[0] for name, columns in found.items() if name in _KNOWN and len(columns) == 1}


def _told(record: Mapping[str, Any], wished: Columns) -> str:
    """The columns that there are. Of a table without a header they would be its first row, which is not printed.

    Only what is nearly a known name can be no content.
    """
    known = {*_KNOWN, *_names(wished)}
    near = {column: found[0] for column in record if (found := get_close_matches(column.casefold(), _ASKED, 1, 0.7))}
    if near and not known & record.keys():
        meant = ", ".join(f"{name!r} for {column!r}" for column, name in near.items())
        return f"did you mean {meant}?"
    if known & record.keys():
        names = [repr(name) for name in sorted(record) if _LIKE_A_NAME.fullmatch(name)][:20]
        others = len(record) - len(names)
        return f"it has {', '.join(names)}{f' and {others} more' if others else ''}"
    return f"it has {len(record)} under names that are not known; a CSV file needs a first line with names"


def _nearest(wanted: str, record: Mapping[str, Any], wished: Columns) -> str:
    hint = suggest(wanted, sorted(record))
    return hint if hint.startswith("did you mean") else _told(record, wished)


def _names(columns: Columns) -> list[str]:
    return [name for name in vars(columns).values() if name is not None]


def _has_question(record: Mapping[str, Any]) -> bool:
    return _first(PROMPT_NAMES, record) is not None and _first((*ANSWER_NAMES, *INDEX_NAMES), record) is not None


def _is_pair(record: Mapping[str, Any]) -> bool:
    return set(PAIR_NAMES) <= record.keys() and _first((*ANSWER_NAMES, *INDEX_NAMES), record) is None


def _preference_label(record: Mapping[str, Any]) -> str | None:
    # Elsewhere "label" means all sorts of things; with these two it is TRL's unpaired preference.
    return "label" if {"prompt", "completion", "label"} <= record.keys() else None


def _first(names: Iterable[str], record: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in record), None)


def _first_list(names: Iterable[str], record: Mapping[str, Any]) -> str | None:
    # Only a list is certain to be a list of answers: "options" can be anything in other people's data.
    return next((name for name in names if isinstance(record.get(name), list)), None)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def keep_for(record: Mapping[str, Any], columns: Columns, set_name: str, where: str) -> bool:
    """Whether a row of an unpaired-preference data set belongs to this set: forget takes false, retain true.

    Raises:
        RequestError: The label is neither true nor false.
    """
    if columns.label is None or set_name not in ("forget", "retain"):
        return True
    label = _value(record, columns.label, where)
    keep = _LABELS.get(str(label).lower())
    if keep is None:
        raise RequestError(
            f"{where}: column {columns.label!r} is neither true (to keep) nor false (to forget): correct the label"
        )
    return keep == (set_name == "retain")


def to_example(record: Mapping[str, Any], columns: Columns, row_id: str, where: str, forget: bool = False) -> Example:
    """One row.

    Args:
        record: The row as it was read.
        columns: From :func:`find_columns`.
        row_id: Its id; also its fact and group if no columns are named for them.
        where: ``file:line`` for messages.
        forget: Whether it is to be forgotten; of a pair that is the rejected answer.

    Returns:
        The row. Chat-style rows keep their earlier messages in ``turns`` and are marked ``conversational``.

    Raises:
        RequestError: A column is missing, empty or of the wrong type, or a conversation has the wrong roles.
    """
    fact = str(_value(record, columns.fact, where)) if columns.fact else row_id
    group = str(_value(record, columns.group, where)) if columns.group else fact
    row = Example(row_id, "", "", fact, group, origin=where)
    if columns.text:
        return replace(row, answer=_string(record, columns.text, where))
    if columns.messages:
        return _conversation(row, _messages(record, columns.messages, where), where)
    if columns.chosen and columns.rejected:
        return _pair(row, record, columns, where, forget)
    assert columns.prompt is not None
    if isinstance(record.get(columns.prompt), list):
        if columns.answer is None:
            raise RequestError(f"{where}: a list of messages cannot be answered by options: give a completion column")
        turns = _messages(record, columns.prompt, where) + _messages(record, columns.answer, where)
        return _conversation(row, turns, where)
    prompt = _string(record, columns.prompt, where)
    row = replace(
        row,
        variants=_variants(record, columns, where),
        other_prompts=_other_prompts(record, columns, where),
        aliases=_aliases(record, columns, prompt, where),
        hops=_hops(record, columns, where),
    )
    if columns.choices is None:
        assert columns.answer is not None
        return replace(row, prompt=prompt, answer=_string(record, columns.answer, where))
    answer, choices = _options(record, columns, prompt, where)
    return replace(row, prompt=prompt, answer=answer, choices=choices)


def _value(record: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise RequestError(f"{where} has no column {column!r}, which the first row has: add it, or take the row out")
    if record[column] is None:
        raise RequestError(f"{where}: column {column!r} is empty: fill it or remove the row")
    return record[column]


def _string(record: Mapping[str, Any], column: str, where: str) -> str:
    value = _value(record, column, where)
    if not isinstance(value, str):
        raise RequestError(f"{where}: column {column!r} is {kind_of(value)}: it must be a string")
    if not value.strip():
        raise RequestError(f"{where}: column {column!r} is empty: fill it or remove the row")
    return value


def _messages(record: Mapping[str, Any], column: str, where: str) -> list[tuple[str, str]]:
    value = _value(record, column, where)
    if not isinstance(value, list):
        raise RequestError(f"{where}: column {column!r} is {kind_of(value)}: it must be a list of messages")
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise RequestError(f"{where}: every message of {column!r} needs a role and a content, both strings")
        turns.append((message["role"], message["content"]))
    return turns


def _conversation(row: Example, turns: list[tuple[str, str]], where: str) -> Example:
    roles = [role for role, _ in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise RequestError(
            f"{where}: the conversation has the roles {', '.join(roles) or 'of no message'}: it must end with one "
            "user message and the assistant message that answers it"
        )
    if not turns[-1][1].strip():
        raise RequestError(f"{where}: the assistant's answer is empty: fill it or remove the row")
    return replace(row, prompt=turns[-2][1], answer=turns[-1][1], turns=tuple(turns[:-2]), conversational=True)


def _pair(row: Example, record: Mapping[str, Any], columns: Columns, where: str, forget: bool) -> Example:
    """A row of paired preference: the rejected answer is forgotten, with the chosen one as another answer."""
    assert columns.chosen and columns.rejected
    chosen = _answered(row, record, columns.prompt, columns.chosen, where)
    rejected = _answered(row, record, columns.prompt, columns.rejected, where)
    if (chosen.prompt, chosen.turns) != (rejected.prompt, rejected.turns):
        raise RequestError(
            f"{where}: chosen and rejected answer different prompts: they must differ in the answer alone"
        )
    if not forget:
        return chosen
    return replace(rejected, variants=((columns.chosen, (chosen.answer,)),))


def _answered(row: Example, record: Mapping[str, Any], prompt: str | None, answer: str, where: str) -> Example:
    """A prompt with one of two answers, as strings or messages; the prompt may be in the answer's messages."""
    if isinstance(record.get(answer), list):
        turns = _messages(record, answer, where)
        return _conversation(row, _with_prompt(record, prompt, turns, where), where)
    if prompt is None:
        raise RequestError(f"{where} has no column for the prompt: chosen and rejected as texts need one")
    return replace(row, prompt=_string(record, prompt, where), answer=_string(record, answer, where))


def _with_prompt(
    record: Mapping[str, Any], prompt: str | None, turns: list[tuple[str, str]], where: str
) -> list[tuple[str, str]]:
    """The whole conversation. Some data sets repeat in a column what the messages begin with."""
    if prompt is None or len(turns) > 1:
        return turns
    given = record.get(prompt)
    before = (
        _messages(record, prompt, where) if isinstance(given, list) else [("user", _string(record, prompt, where))]
    )
    return [*before, *turns]


def _options(record: Mapping[str, Any], columns: Columns, prompt: str, where: str) -> tuple[str, tuple[str, ...]]:
    assert columns.choices is not None
    options = _string_list(record, columns.choices, where)
    if columns.answer_index:
        answer = options[_index(record, columns, options, where)]
    else:
        assert columns.answer is not None
        answer = _right_option(_string(record, columns.answer, where), options, columns.choices, where)
        if answer not in options:
            options.insert(option_position(prompt, answer, len(options) + 1), answer)
    distinct = tuple(dict.fromkeys(options))
    if len(distinct) < 2:
        raise RequestError(f"{where}: column {columns.choices!r} holds no answer other than the right one")
    return answer, distinct


def _index(record: Mapping[str, Any], columns: Columns, options: list[str], where: str) -> int:
    """The position that ``answer_index`` gives: a number from 0, also as a text, or a letter."""
    assert columns.answer_index is not None
    value = _value(record, columns.answer_index, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    index = value if _is_index(value) else _position(value) if isinstance(value, str) else None
    if index is None or not 0 <= index < len(options):
        raise RequestError(
            f"{where}: column {columns.answer_index!r} is no position of an option: it must be a whole number from 0 "
            f"to {len(options) - 1}, or a letter from A to {LETTERS[: len(options)][-1]}"
        )
    said = record.get(columns.answer) if columns.answer and columns.answer != columns.answer_index else None
    if said in options and said != options[index]:
        raise RequestError(
            f"{where}: columns {columns.answer!r} and {columns.answer_index!r} name different options: positions "
            "count from 0; correct one of the two"
        )
    return index


def _right_option(answer: str, options: list[str], column: str, where: str) -> str:
    """The option that an answer names, by its text or by its position; the answer itself where no option is meant.

    Raises:
        RequestError: The column lists all options and the right answer is not among them.
    """
    if answer in options or column in _WRONG_ONLY:
        return answer
    spaced = next((option for option in options if option.strip() == answer.strip()), None)
    if spaced is not None:
        return spaced
    index = _position(answer)
    # Where options are numbers or letters themselves, as blood groups are, an answer of that form is no position.
    if index is not None and index < len(options) and all(_position(option) is None for option in options):
        return options[index]
    if column in _ALL_OPTIONS:
        raise RequestError(
            f"{where}: the right answer is not among the options in column {column!r}: add it, or call the column "
            f"{_WRONG_ONLY[1]!r} if it lists only wrong answers"
        )
    return answer


def _position(text: str) -> int | None:
    """The position that a text is, as a number from 0 or as a letter."""
    bare = text.strip()
    if number := _NUMBER.fullmatch(bare):
        return int(number[1])
    letter = _LETTER.fullmatch(bare)
    return LETTERS.index(letter[1].upper()) if letter else None


def _variants(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Further answers. A row in which the column is empty has none, and is refused if a metric needs them."""
    named = (("paraphrased", columns.paraphrased), ("perturbed", columns.perturbed))
    return tuple(
        (kind, tuple(_string_list(record, column, where)))
        for kind, column in named
        if column and record.get(column) is not None
    )


def _other_prompts(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...]:
    column = columns.paraphrased_prompt
    return tuple(_string_list(record, column, where)) if column and record.get(column) is not None else ()


def _aliases(record: Mapping[str, Any], columns: Columns, prompt: str, where: str) -> tuple[str, ...]:
    """Names of what the prompt asks about; a row whose column is empty has none.

    Raises:
        RequestError: None of them stands in the prompt, or there is no other one.
    """
    column = columns.aliases
    if not column or not record.get(column):
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in _string_list(record, column, where)))
    if named_in(prompt, names) is None:
        raise RequestError(
            f"{where}: none of the names in column {column!r} stands in the prompt: list the name that the prompt "
            "has, and the others"
        )
    if len(names) < 2:
        raise RequestError(f"{where}: column {column!r} has one name, the prompt's own: add another one, or empty it")
    return names


def named_in(prompt: str, names: Iterable[str]) -> str | None:
    """The longest of these names that stands in a prompt as words of their own; ``None`` if there is none."""
    found = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt)]
    return max(found, key=len, default=None)


def _hops(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...]:
    column = columns.hops
    return tuple(_string_list(record, column, where)) if column and record.get(column) else ()


def _string_list(record: Mapping[str, Any], column: str, where: str) -> list[str]:
    value = _value(record, column, where)
    if isinstance(value, str):
        # A CSV cell can hold a list only as text, and some data sets write a single wrong answer without a list.
        try:
            value = read_only_value(value) if value.lstrip().startswith("[") else [value]
        except FaultyJson as error:
            raise RequestError(
                f"{where}: column {column!r} starts like a JSON list but is none: {error.reason}"
            ) from error
    if isinstance(value, list):  # years are often written as numbers
        value = [str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item for item in value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise RequestError(f"{where}: column {column!r} must be a list of strings that are not empty")
    return list(value)


def option_position(prompt: str, answer: str, n_options: int) -> int:
    """Where the right answer goes among the options: fixed by the row's own text, spread evenly over rows.

    It does not depend on the row's place in its file, so a shortened or re-ordered file gives the same options.
    """
    digest = hashlib.sha256(f"{prompt}\x1f{answer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % n_options
