"""A data set given to the trainer, as token ids."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from ..data.checks import check_rows_apart
from ..data.encoding import EncodedRow, End, TextFormat, check_chat_template, encode_rows
from ..data.example import Example
from ..data.given import given_rows, has_splits, is_streamed, split_for
from ..data.pairing import PairedRows
from ..data.readers import READERS, load_hub, load_saved
from ..data.sources import Source, load_source, rows_from_records
from ..errors import RequestError
from ..models.ends import ask_ends, rows_to_ask, settled
from ..models.limits import refuse_unfit
from ..models.sharding import placed
from ..robust.base import TrainingPart
from .config import UnlearnConfig
from .parts import epochs_of_run

if TYPE_CHECKING:
    import datasets

    RowsGiven: TypeAlias = (
        "datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | str | Sequence[Example]"
    )

logger = logging.getLogger(__name__)


def read_rows(dataset: Any, set_name: str, most: int | None = None) -> list[Example]:
    """The rows of a data set.

    Args:
        dataset: Rows, or records of one of the data set types of TRL; a ``DatasetDict``, of which one split is read
            (:func:`~hf_unlearn.data.given.split_for`); the path of a file or folder, or the id of a data set on the
            Hub.
        set_name: ``forget`` or ``retain``, or the name of a set to score.
        most: Of a streamed data set, this many rows are read; ``None`` refuses it. Others are read whole.

    Raises:
        RequestError: If there are no rows, they are streamed or of another type, or one cannot be used.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if isinstance(dataset, str | Path):
        if names_file(dataset):
            return list(load_source(Source(path=str(dataset)), set_name).train)
        dataset = load_named(dataset)
    if has_splits(dataset):
        dataset = split_for(dataset, set_name)
    name = f"{set_name}_dataset"
    if most is not None and is_streamed(dataset):
        rows = list(rows_from_records(dataset, set_name, name, limit=most))
    else:
        rows = _rows_of(given_rows(dataset, name), set_name, name)
    if not rows:
        raise RequestError(f"the {set_name} set has no rows: {name} needs at least one")
    return rows


def _rows_of(given: list[Any], set_name: str, name: str) -> list[Example]:
    rows = [row for row in given if isinstance(row, Example)]
    if rows and len(rows) < len(given):
        raise RequestError(f"{name} has rows and records in one list: give only one of the two")
    return rows or list(rows_from_records(given, set_name, name))


def names_file(dataset: str | Path) -> bool:
    """Whether a text names a file: one that is there, or one with the ending of a data file."""
    return Path(dataset).is_file() or Path(dataset).suffix.lower() in READERS


def load_named(dataset: str | Path) -> Any:
    """A data set by the name of a folder or its id on the Hub: with all of its splits."""
    return load_saved(Path(dataset)) if Path(dataset).is_dir() else load_hub(str(dataset))


def read_retain(
    dataset: Any, args: UnlearnConfig, n_forget: int, parts: Sequence[TrainingPart]
) -> list[Example] | None:
    """The retain rows; of a streamed data set as many as the run deals, each once.

    Args:
        dataset: As the trainer was given it; ``None`` for none.
        args: The run's settings.
        n_forget: Forget rows.
        parts: Of the run; some look at the whole retain set.

    Raises:
        RequestError: See :func:`read_rows`; a part of the method needs all rows of a data set that is streamed.
    """
    if dataset is None:
        return None
    if is_streamed(dataset) and any(part.uses_retain_rows for part in parts):
        raise RequestError(
            "retain_dataset is streamed, and a part of the method (robust) looks at the whole retain set: load it "
            "(streaming=False), or give list(SET.take(N))"
        )
    dealt = math.ceil(epochs_of_run(args, n_forget)) * n_forget * args.retain_per_forget
    return read_rows(dataset, "retain", most=dealt)


def check_apart(forget: Sequence[Example], retain: Sequence[Example] | None) -> None:
    """Refuse to forget and to keep the same row.

    Raises:
        RequestError: Names the first row that is in both sets.
    """
    check_rows_apart("forget", forget, "retain", retain or ())


def read_evaluated(given: Any) -> list[Example] | dict[str, list[Example]]:
    """The rows of one set to score, or of several by name.

    Args:
        given: A set as in :func:`read_rows`; a mapping of names to sets, such as a ``DatasetDict``; or a set with a
            boolean ``label`` (unpaired preference), whose false rows are ``forget`` and whose true rows ``retain``.

    Raises:
        RequestError: A set is empty, streamed or of another type, or a row cannot be used.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if isinstance(given, str | Path) and not names_file(given):
        given = load_named(given)
    if isinstance(given, Mapping):
        if not given:
            raise RequestError("eval_dataset is an empty dictionary: give at least one set, or leave it out")
        return {str(name): read_rows(rows, str(name)) for name, rows in given.items()}
    if _is_labelled(given):
        records = given_rows(given, "eval_dataset")
        sets = {name: list(rows_from_records(records, name, "eval_dataset")) for name in ("forget", "retain")}
        return {name: rows for name, rows in sets.items() if rows}
    return read_rows(given, "eval")


def _is_labelled(dataset: Any) -> bool:
    """Whether the first record is one of unpaired preference."""
    first = next(itertools.islice(dataset, 1), None) if isinstance(dataset, Sequence) or _is_dataset(dataset) else None
    return isinstance(first, Mapping) and {"prompt", "completion", "label"} <= first.keys()


def _is_dataset(dataset: Any) -> bool:
    return hasattr(dataset, "column_names") and hasattr(dataset, "__len__")


def encode_dataset(
    dataset: datasets.Dataset | Sequence[Example],
    set_name: str,
    tokenizer: PreTrainedTokenizerBase,
    text_format: TextFormat,
    args: UnlearnConfig,
) -> list[EncodedRow]:
    """Encode a data set, with the ends of answers as labels if the text format says so.

    Args:
        dataset: Rows, or records of one of the data set types of TRL.
        set_name: ``forget``, ``retain`` or ``alternate``.
        tokenizer: The model's tokenizer.
        text_format: How prompt and answer become one text.
        args: ``max_length``, ``truncation`` and ``completion_only_loss`` are used.

    Raises:
        RequestError: If there are no rows, or one cannot be used.
    """
    rows = read_rows(dataset, set_name)
    check_chat_template(tokenizer, text_format, rows)
    truncation = cast(Literal["refuse", "cut"], args.truncation)
    encoded = encode_rows(rows, tokenizer, text_format, eos=True, max_length=args.max_length, truncation=truncation)
    return [replace(row, n_prompt=1) for row in encoded] if _looks_at_prompts(set_name, args) else encoded


def _looks_at_prompts(set_name: str, args: UnlearnConfig) -> bool:
    """Prompts are not labels of a forget loss: template and question are not to be forgotten. Losses on hidden states
    predict nothing, and may use prompts."""
    if args.completion_only_loss:
        return False
    return set_name == "retain" or not args.build_forget_loss().uses_logits


def settle_end(
    text_format: TextFormat,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Example],
    retain: datasets.Dataset | Sequence[Example] | None,
    args: UnlearnConfig,
) -> TextFormat:
    """The text format with :attr:`UnlearnConfig.end`, and the model asked if neither of them decides.

    Args:
        text_format: How prompt and answer become one text.
        model: The model before training.
        tokenizer: Its tokenizer.
        forget: The forget rows.
        retain: The retain set as the trainer was given it; read only if a retain loss reads it.
        args: ``end``, ``max_length``, ``device`` and ``retain_loss_type`` are used.

    Raises:
        RequestError: The two contradict each other, or a row cannot be used.
    """
    if text_format.end != "auto":
        if args.end not in ("auto", text_format.end):
            raise RequestError(f"end is {args.end!r}, but text_format has {text_format.end!r}: set only one of them")
        return text_format
    text_format = replace(text_format, end=cast(End, args.end))
    if text_format.end != "auto":
        return text_format
    kept = [] if retain is None or args.retain_loss_type == "none" else read_rows(retain, "retain")
    rows = rows_to_ask(text_format, forget, kept)
    with placed(model, args.device):
        ends = ask_ends(model, tokenizer, rows, text_format, args.max_length)
    if rows:
        logger.info("%s", ends)
    return settled(text_format, ends)


def check_balance(forget: int, retain: int, args: UnlearnConfig) -> None:
    """Refuse a retain set so small that one forget row would get the same retain row twice; warn if a batch would.

    Args:
        forget: Number of forget rows.
        retain: Number of retain rows.
        args: ``retain_per_forget`` and ``per_device_train_batch_size`` are used.

    Raises:
        RequestError: There are fewer retain rows than each forget row gets.
    """
    if retain < args.retain_per_forget:
        raise RequestError(
            f"the retain set has {retain} rows, fewer than retain_per_forget={args.retain_per_forget}: a forget row "
            "would get the same retain row twice: lower it or give more retain rows"
        )
    wanted = min(forget, args.per_device_train_batch_size) * args.retain_per_forget
    if retain < wanted:
        logger.warning("a batch needs %d retain rows and there are %d: batches contain rows twice", wanted, retain)


def refuse_unreadable(model: nn.Module, rows: PairedRows, forget: Sequence[Example]) -> None:
    """Refuse rows that the model cannot read, before any of them is looked at.

    Args:
        model: The model.
        rows: Everything that is trained on.
        forget: The forget rows, which know where they came from.

    Raises:
        RequestError: Names the first row that is too long or has tokens beyond the vocabulary.
    """
    origins = {row.id: row.origin for row in forget}
    for members in (rows.forget, rows.retain, rows.alternates):
        refuse_unfit(model, members, origins)


def pair_rows(
    forget_dataset: datasets.Dataset | Sequence[Example],
    retain_dataset: datasets.Dataset | Sequence[Example] | None,
    alternates: Sequence[Sequence[EncodedRow]],
    tokenizer: PreTrainedTokenizerBase,
    text_format: TextFormat,
    args: UnlearnConfig,
    parts: Sequence[TrainingPart],
) -> PairedRows:
    """What a run is trained on: forget rows, each with other answers and retain rows if they are used.

    Args:
        forget_dataset: What is to be forgotten.
        retain_dataset: What is to be kept.
        alternates: Other answers to each forget row's prompt; empty for none.
        tokenizer: The model's tokenizer.
        text_format: How prompt and answer become one text.
        args: The run's settings.
        parts: Some use retain rows even without a retain loss.

    Raises:
        RequestError: A set is missing or cannot be used.
    """
    forget = encode_dataset(forget_dataset, "forget", tokenizer, text_format, args)
    retains = args.retain_loss_type != "none"
    retain = []
    if retains or any(part.uses_retain_rows for part in parts):
        if retain_dataset is None:
            what = f"retain_loss_type {args.retain_loss_type!r}" if retains else "robust: one of the parts"
            raise RequestError(f"{what} needs a retain_dataset")
        retain = encode_dataset(retain_dataset, "retain", tokenizer, text_format, args)
    if retains:
        check_balance(len(forget), len(retain), args)
    seed = args.seed if args.data_seed is None else args.data_seed
    return PairedRows(forget, retain, args.retain_per_forget if retains else 0, seed, alternates)
