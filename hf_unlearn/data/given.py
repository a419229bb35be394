"""What is given as a data set in Python: rows, records, or something that has to be made into them first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError

_PLAIN = (str, bytes, Path)


def given_rows(dataset: Any, name: str) -> list[Any]:
    """The rows of a data set in their order, each a mapping of columns or an object that holds a row.

    Args:
        dataset: A ``datasets.Dataset``, or a sequence of mappings or rows.
        name: What messages call it.

    Raises:
        RequestError: It is of another type, for instance a ``DatasetDict``, a pandas ``DataFrame`` or a list of
            texts; the message says how to make a data set of it.
    """
    if (mend := _how_to_give(dataset)) is not None:
        raise RequestError(f"{name} {mend}")
    rows = list(dataset)
    for number, row in enumerate(rows, start=1):
        if isinstance(row, _PLAIN):
            raise RequestError(
                f"{name}:{number} is a text, and a row must have named columns: give "
                "[{'text': text} for text in TEXTS], or a prompt and a completion each"
            )
        if isinstance(row, list | tuple | int | float) or row is None:
            raise RequestError(f"{name}:{number} is of type {type(row).__name__}: a row must have named columns")
    return rows


def _how_to_give(dataset: Any) -> str | None:
    """What is wrong with a whole data set, and what to give instead; ``None`` for one whose rows can be read."""
    kind = type(dataset).__name__
    if dataset is None:
        return "is None: give a data set"
    if isinstance(dataset, _PLAIN):
        return "is a text and not a data set: give rows, or the path or Hub id of a data set"
    if isinstance(dataset, Mapping):
        return f"is of type {kind} and not a data set: give datasets.Dataset.from_dict(COLUMNS), or a list of rows"
    if hasattr(dataset, "iloc") or (hasattr(dataset, "to_pandas") and not hasattr(dataset, "features")):
        library = "pandas" if hasattr(dataset, "iloc") else type(dataset).__module__.partition(".")[0]
        maker = {"pandas": "from_pandas(FRAME, preserve_index=False)", "polars": "from_polars(FRAME)"}
        return f"is of type {library}.{kind}: give datasets.Dataset.{maker.get(library, 'from_list(ROWS)')}"
    if is_streamed(dataset):
        return "is streamed, but all of it is gone through: load it whole (streaming=False), or give list(SET.take(N))"
    if not isinstance(dataset, Sequence) and not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return f"is of type {kind} and not a data set: give a datasets.Dataset or a list of rows"
    return None


def is_streamed(dataset: Any) -> bool:
    """Whether rows come one after another and nobody knows how many: an ``IterableDataset`` or an iterator."""
    return (hasattr(dataset, "features") and not hasattr(dataset, "__len__")) or hasattr(dataset, "__next__")


def has_splits(dataset: Any) -> bool:
    """Whether this is a ``DatasetDict``, or a mapping like one."""
    return isinstance(dataset, Mapping) and any(hasattr(part, "column_names") for part in dataset.values())


def split_for(dataset: Mapping[Any, Any], set_name: str) -> Any:
    """The split of a ``DatasetDict`` that a set is read from: the one with the set's name, the only one, or ``train``.

    Args:
        dataset: Split name to rows.
        set_name: ``forget`` or ``retain``.

    Raises:
        RequestError: It has several splits, and none of these.
    """
    only = next(iter(dataset)) if len(dataset) == 1 else None
    for name in (set_name, only, "train"):
        if name in dataset:
            return dataset[name]
    raise RequestError(
        f"{set_name}_dataset has the splits {', '.join(map(str, dataset))}, of which none is called {set_name} or "
        f"train: give one of them, such as DATASETS[{next(iter(dataset))!r}]"
    )
