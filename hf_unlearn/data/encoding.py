"""From rows to token ids. Training, scoring and generation all use this module, so they see the same tokens.

A row is tokenized once, as one text. Which tokens are the answer is read from character offsets: a token that
spans the boundary of prompt and answer counts as an answer token, because it cannot be known without the
answer. Tokenizing prompt and answer separately would give tokens that the text does not have.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from ..errors import EnvironmentFailure, RequestError
from .chat import TemplateArguments, render_chat
from .example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = "{prompt}"
# A text that begins or ends with what may be a special token: <s>, <|endoftext|>, <end_of_turn>, [BOS].
_RENDERED = re.compile(r"^\s*(?:<[^<>\s]{1,40}>|\[/?[A-Z]{2,8}\])|(?:<[^<>\s]{1,40}>|\[/?[A-Z]{2,8}\])\s*$")

End = Literal["auto", "always", "chat", "never"]
ENDS: tuple[End, ...] = ("auto", "always", "chat", "never")


@dataclass(frozen=True)
class TextFormat:
    """How prompt and answer become one text.

    Attributes:
        kind: ``plain`` puts the prompt into ``template``; ``chat`` makes it a user message in the tokenizer's chat
            template. Rows that came as chat messages are always rendered with the chat template, and rows without a
            prompt (plain text) never are.
        template: The text that the model continues, with ``{prompt}`` where the row's prompt goes, for example
            ``"Question: {prompt}\\nAnswer:"``.
        separator: Put before the answer; usually a space, if the answers have none of their own. A space before the
            answer belongs to it: most tokenizers merge it with the word after it. Anything else in it is not part of
            the answer.
        end: Where the end of an answer is trained on too: ``always``; ``never``; ``chat``, only in chat rows, as the
            template writes it; ``auto``, in chat rows, and in others if the target ends its answers there. The target
            is asked once before training.
        chat_template_kwargs: What the chat template is given besides the messages, such as
            ``{enable_thinking: false}``. ``date_string`` is the date that templates take for today's, ``26 Jul 2024``
            if it is not named: the same rows must have the same tokens on every day.
    """

    kind: Literal["plain", "chat"] = "plain"
    template: str = _SLOT
    separator: str = ""
    # Newer than some finished runs: a format with the default is written the way they wrote it.
    end: End = field(default="auto", repr=False, metadata={"left_out_at_default": True})

    chat_template_kwargs: Mapping[str, Any] | None = field(
        default=None, repr=False, metadata={"left_out_at_default": True}
    )

    def __post_init__(self) -> None:
        _ = self.template_arguments
        if self.end not in ENDS:
            raise RequestError(f"text format end is {self.end!r}: it must be one of {', '.join(map(repr, ENDS))}")
        if self.kind not in ("plain", "chat"):
            raise RequestError(f"text format kind is {self.kind!r}: it must be 'plain' or 'chat'")
        if self.template.count(_SLOT) != 1:
            raise RequestError(f"text format template {self.template!r} must hold {_SLOT} exactly once")

    @property
    def ends_plain_rows(self) -> bool:
        """Whether plain rows end with a label; also while ``auto`` has not been resolved."""
        return self.end in ("auto", "always")

    @property
    def template_arguments(self) -> TemplateArguments:
        """What the chat template is given besides the messages.

        Raises:
            RequestError: It is not what a template can be given.
        """
        return TemplateArguments({} if self.chat_template_kwargs is None else self.chat_template_kwargs)

    def described(self) -> dict[str, Any]:
        """What decides how rows become tokens, as plain data for fingerprints.

        Ends are named only where plain rows have none: with ends it is what it was before there was a choice. What a
        chat template is given is named where every row has one, or where it was set.
        """
        fields = asdict(self)
        if self.kind == "chat" or self.chat_template_kwargs is not None:
            fields["chat_template_kwargs"] = self.template_arguments.values()
        else:
            del fields["chat_template_kwargs"]
        if self.ends_plain_rows:
            del fields["end"]
        return fields


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one row.

    Attributes:
        id: The row's id.
        input_ids: All tokens, special tokens included.
        n_prompt: Number of tokens before the labels; the labels are ``input_ids[n_prompt:]``. Always at least 1,
            since nothing predicts the first token, and less than ``len(input_ids)``.
        group: The group of the row's fact.
        labels: What is predicted in place of ``input_ids[n_prompt:]``, as many tokens; ``None`` for exactly those.
        n_end: How many of the last labels belong to the answer's end and not to the answer.
    """

    id: str
    input_ids: tuple[int, ...]
    n_prompt: int
    group: str = ""
    labels: tuple[int, ...] | None = None
    n_end: int = 0


@dataclass(frozen=True)
class _Text:
    """A text to tokenize: labels are the tokens that end after character ``border``."""

    text: str
    border: int
    special: bool  # whether the tokenizer adds its special tokens (a chat template writes its own)
    end: str = ""  # the last characters, where they end an answer


def is_rendered(text: str) -> bool:
    """Whether a text begins or ends with what may be a special token: it was rendered before."""
    return _RENDERED.search(text) is not None


def uses_chat(row: Example, fmt: TextFormat) -> bool:
    """Whether this row is rendered with the tokenizer's chat template."""
    return row.conversational or (fmt.kind == "chat" and bool(row.prompt))


def prompt_text(row: Example, fmt: TextFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """What generation is given: everything before the answer, without the separator; empty for plain text.

    Tokenize it with :func:`encode_prompt`, which knows whether special tokens have to be added.
    """
    if uses_chat(row, fmt):
        return render_chat(row, tokenizer, fmt.template_arguments).prompt
    return fmt.template.replace(_SLOT, row.prompt) if row.prompt else ""


def encode_prompt(row: Example, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat) -> tuple[int, ...]:
    """Token ids of :func:`prompt_text`. For plain text only what the tokenizer puts in front (may be empty).

    White space at the end of a prompt is left to the answer where most tokenizers merge it with the word after it:
    generation starts from what is scored, and not from a space that is followed by a space.
    """
    text, special = prompt_text(row, fmt, tokenizer), not uses_chat(row, fmt)
    if not text:
        return _added_in_front(tokenizer)
    whole = _tokenize(_Text(text, 0, special=special), tokenizer)[0]
    bare = text.rstrip(" ")
    if bare in ("", text) or not row.answer:
        return whole
    ids, n_prompt, _ = _tokenize(_whole_text(row, fmt, tokenizer, False), tokenizer)
    for length in range(len(text) - 1, len(bare) - 1, -1):
        shorter = _tokenize(_Text(text[:length], 0, special=special), tokenizer)[0]
        if shorter == ids[:n_prompt]:
            return shorter
    return whole


def encode_row(row: Example, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat, *, eos: bool) -> EncodedRow:
    """Tokenize one row.

    Args:
        row: The row.
        tokenizer: The model's tokenizer. Tokenizers without character offsets are served by comparing the tokens of
            the whole text with those of the prompt alone.
        fmt: How prompt and answer become one text.
        eos: Whether this is for training, where the end of the answer is a label too if ``fmt.end`` says so: the
            tokenizer's end-of-text token, or what the chat template writes after an answer. An ``auto`` that is
            not resolved yet means ``always``.

    Returns:
        Ids with the tokenizer's own beginning (BOS if it adds one). In a row without a prompt all tokens but the
        first are labels.

    Raises:
        RequestError: The row has no token to predict, the chat template fails on it or changes its answer, or an
            end-of-text token is asked for and the tokenizer has none.
    """
    whole = _whole_text(row, fmt, tokenizer, eos and fmt.end != "never")
    ids, n_prompt, n_end = _tokenize(whole, tokenizer)
    if whole.special and ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # the text was rendered before, and a row has one end
    if eos and not whole.end and fmt.ends_plain_rows:
        if tokenizer.eos_token_id is None:
            raise RequestError(
                "the tokenizer has no end-of-text token: set tokenizer.eos_token and save it again, or set "
                "end to never"
            )
        ids, n_end = (*ids, tokenizer.eos_token_id), 1
    n_prompt = max(n_prompt, 1)
    if n_prompt >= len(ids):
        raise RequestError(f"{row.origin or row.id} has no answer token to predict: give it a longer answer")
    return EncodedRow(row.id, ids, n_prompt, row.group, n_end=min(n_end, len(ids) - n_prompt))


def encode_answer(row: Example, answer: str, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat) -> EncodedRow:
    """The row's prompt followed by another answer (an option), without an end token. See :func:`encode_row`."""
    return encode_row(replace(row, answer=answer), tokenizer, fmt, eos=False)


def encode_rows(
    rows: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    fmt: TextFormat,
    *,
    eos: bool,
    max_length: int | None,
    truncation: Literal["refuse", "cut"],
) -> list[EncodedRow]:
    """Tokenize many rows with a limit on their length.

    Args:
        rows: The rows.
        tokenizer: The model's tokenizer.
        fmt: How prompt and answer become one text.
        eos: See :func:`encode_row`.
        max_length: Maximum number of tokens; ``None`` for no limit.
        truncation: What happens to longer rows: ``refuse`` them all, or ``cut`` each after its first ``max_length``
            tokens.

    Returns:
        One encoded row per row, in order.

    Raises:
        RequestError: Rows are too long and truncation is ``refuse`` (the message has their number and the longest),
            or cutting would leave a row without an answer token; or see :func:`encode_row`.
    """
    if truncation not in ("refuse", "cut"):
        raise RequestError(f"truncation is {truncation!r}: it must be 'refuse' or 'cut'")
    sources = list(rows)
    encoded = [encode_row(row, tokenizer, fmt, eos=eos) for row in sources]
    if max_length is None:
        return encoded
    long = [index for index, row in enumerate(encoded) if len(row.input_ids) > max_length]
    if long and truncation == "refuse":
        worst = max(long, key=lambda index: len(encoded[index].input_ids))
        raise RequestError(
            f"{len(long)} of {len(encoded)} rows are longer than max_length={max_length} tokens, the longest has "
            f"{len(encoded[worst].input_ids)} ({_name(sources[worst])}): raise max_length or set truncation=cut"
        )
    for index in long:
        if encoded[index].n_prompt >= max_length:
            raise RequestError(
                f"{_name(sources[index])}: its prompt alone has {encoded[index].n_prompt} tokens, so cutting at "
                f"max_length={max_length} leaves no answer: raise max_length or shorten the prompt"
            )
        whole = encoded[index]
        left = max(0, whole.n_end - (len(whole.input_ids) - max_length))
        encoded[index] = replace(whole, input_ids=whole.input_ids[:max_length], n_end=left)
    return encoded


def lacks_space(rows: Iterable[Example]) -> bool:
    """Whether a question and its answer would be written without a space between them in plain text."""
    return any(
        not row.answer[:1].isspace() and not row.prompt[-1:].isspace()
        for row in rows
        if row.prompt and not row.conversational
    )


def check_chat_template(tokenizer: PreTrainedTokenizerBase, fmt: TextFormat, rows: Iterable[Example]) -> None:
    """Refuse rows that need a chat template if the tokenizer has none.

    Raises:
        RequestError: Naming the first such row.
    """
    if tokenizer.chat_template:
        return
    row = next((row for row in rows if uses_chat(row, fmt)), None)
    if row is not None:
        raise RequestError(
            f"{_name(row)} needs a chat template and the tokenizer {tokenizer.name_or_path!r} has none: use an "
            "instruct model's tokenizer, set tokenizer.chat_template, or give the data as plain prompt and completion"
        )


def read_otherwise(rows: Iterable[Example], fmt: TextFormat) -> list[str]:
    """What of some rows is read otherwise than by 0.4.0 and earlier, which gave other weights and scores for them.

    Fingerprints of data hold it, so that nothing of that version is taken for something of this; rows without any of
    it keep the fingerprints that they had.

    Args:
        rows: Rows of any sets.
        fmt: How prompt and answer become one text.

    Returns:
        Some of ``rendered`` (texts that hold their beginning and end get no second ones) and ``separator`` (only a
        space of it is a label).
    """
    plain = [row for row in rows if not uses_chat(row, fmt)]
    found = {
        "rendered": any(is_rendered(text) for row in plain for text in (row.prompt, row.answer)),
        "separator": fmt.separator not in ("", " ") and any(row.prompt for row in plain),
    }
    return [kind for kind, there in found.items() if there]


def generated_otherwise(rows: Iterable[Example], fmt: TextFormat) -> bool:
    """Whether 0.4.0 and earlier let a model generate from other tokens than those that are scored: from the space at
    the end of a prompt."""
    return any(fmt.template.replace(_SLOT, row.prompt).endswith(" ") for row in rows if row.prompt)


def load_tokenizer(
    folder_or_id: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the Hub.

    Args:
        folder_or_id: Where it is.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        RequestError: The folder holds no tokenizer that can be loaded, or the Hub has no such repository.
        EnvironmentFailure: The Hub cannot be reached.
    """
    import os

    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_id, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        unreachable = isinstance(error.__cause__ or error.__context__, LocalEntryNotFoundError | ConnectionError)
        if unreachable and not os.path.isdir(folder_or_id):
            raise EnvironmentFailure(f"the tokenizer of {folder_or_id!r} could not be fetched: {reason}") from error
        raise RequestError(f"{folder_or_id!r} holds no tokenizer that can be loaded: {reason}") from error
    # The loading options are not part of the tokenizer, but would be saved with it.
    for key in ("local_files_only", "is_local"):
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def _name(row: Example) -> str:
    return row.origin or row.id


def _whole_text(row: Example, fmt: TextFormat, tokenizer: PreTrainedTokenizerBase, ended: bool) -> _Text:
    if uses_chat(row, fmt):
        chat = render_chat(row, tokenizer, fmt.template_arguments)
        end = chat.end if ended else ""
        between = _says_nothing(chat.head[len(chat.prompt) :])
        return _Text(chat.head + chat.answer + end, len(chat.prompt) + between, special=False, end=end)
    if not row.prompt:
        return _Text(row.answer, 0, special=True)
    prompt = prompt_text(row, fmt, tokenizer)
    border = len(prompt) + _says_nothing(fmt.separator)
    return _Text(prompt + fmt.separator + row.answer, border, special=True)


def _says_nothing(between: str) -> int:
    """How many characters of what stands between prompt and answer are no label: all but a space before the answer,
    which most tokenizers merge with the word after it."""
    return len(between) - between.endswith(" ")


def _tokenize(whole: _Text, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], int, int]:
    """Ids with what the tokenizer puts in front, the number of tokens before the labels, and that of the end."""
    added = _added_in_front(tokenizer) if whole.special else ()
    if tokenizer.is_fast:
        ids, n_prompt, n_end = _split_by_offsets(whole, tokenizer)
    else:
        ids, n_prompt, n_end = _split_by_comparing(whole, tokenizer)
    if added and tuple(ids[: len(added)]) == added:
        added = ()  # the text was rendered before, and has its beginning
    return (*added, *ids), len(added) + n_prompt, n_end


def _split_by_offsets(whole: _Text, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int, int]:
    ids, offsets = _ids_and_offsets(whole.text, tokenizer)
    border = whole.border
    # A tokenizer that composes characters reports only the base of a composed one, which here is in the prompt.
    while 0 < border < len(whole.text) and unicodedata.combining(whole.text[border]):
        if any(start <= border < end for start, end in offsets):
            break  # this one composes nothing: the mark has a token of its own, or is part of one
        border -= 1
    n_prompt = next((index for index, (_, end) in enumerate(offsets) if end > border), len(offsets))
    answered = len(whole.text) - len(whole.end)
    n_end = sum(start >= answered for start, _ in offsets) if whole.end else 0
    return ids, n_prompt, n_end


def _ids_and_offsets(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokenizers library is asked directly: thousands of rows are encoded one by one for every scored model."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is None and backend.padding is None:
        direct = backend.encode(text, add_special_tokens=False)
        return direct.ids, direct.offsets
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoding["input_ids"], encoding["offset_mapping"]


def _split_by_comparing(whole: _Text, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int, int]:
    ids = _bare_ids(whole.text, tokenizer)
    n_prompt = _same_as(ids, whole.text[: whole.border], tokenizer)
    answered = len(whole.text) - len(whole.end)
    n_end = len(ids) - _same_as(ids, whole.text[:answered], tokenizer) if whole.end else 0
    return ids, n_prompt, n_end


def _same_as(ids: list[int], beginning: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of these tokens the beginning of their text has by itself."""
    own = _bare_ids(beginning, tokenizer)
    different = (index for index, (one, other) in enumerate(zip(ids, own, strict=False)) if one != other)
    return next(different, min(len(ids), len(own)))


def _bare_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []


@lru_cache(maxsize=8)
def _added_in_front(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer itself puts before a text (usually BOS or nothing), seen on a short text."""
    bare, full = _bare_ids("a", tokenizer), tokenizer("a", verbose=False)["input_ids"]
    start = next((at for at in range(len(full)) if bare and full[at : at + len(bare)] == bare), None)
    if start is None:  # a vocabulary without this letter
        start = int(bool(full) and full[0] == tokenizer.bos_token_id)
    return tuple(full[:start])
