"""Files and Hub data sets as numbered records.

Each reader gives (number, record) pairs, where the number lets the user find the row again: the line in
text formats, the row in Parquet files and Hub data sets (both counted from 1).
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError, first_line
from .strict_json import FaultyJson, kind_of, read_only_value, read_value

Numbered = Iterator[tuple[int, Mapping[str, Any]]]
_SPACE = " \t\r\n"
_SAVED_TO_DISK = ("dataset_dict.json", "dataset_info.json")


def read_file(path: str | Path) -> Numbered:
    """Records of a local .jsonl, .json, .csv, .txt or .parquet file.

    A .json file holds a list of objects (or JSON lines, as many Hub files do); every line of a .txt file that is not
    blank is one record with the key ``text``.

    Args:
        path: The file; ``~`` is expanded.

    Returns:
        An iterator of (line or row number, record).

    Raises:
        RequestError: The file is missing, is not a file, has an unknown extension, is not UTF-8, or a line does
            not fit its extension (the message names the line).
    """
    try:
        file = Path(path).expanduser()
        there = file.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a user that is not there, a name too long, a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{str(path)[:200]!r} cannot be a path ({reason}): correct it") from error
    if not there:
        raise RequestError(f"{path} does not exist: check the path (relative ones start at the current folder)")
    if not file.is_file():
        saved = any((file / name).is_file() for name in _SAVED_TO_DISK)
        how = ": write the data set with to_parquet(FILE) in place of save_to_disk" if saved else ""
        raise RequestError(f"{path} is a folder{how or ': the path must name one file'}")
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise RequestError(f"{path} ends in {file.suffix!r}: only files ending in {', '.join(READERS)} can be read")
    return reader(file)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}): check its permissions") from error


def _read_jsonl(file: Path) -> Numbered:
    return _json_lines(_read_text(file), file)


def _json_lines(text: str, file: Path) -> Numbered:
    # Not str.splitlines: that also splits at U+2028 and other characters which JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = read_only_value(line)
        except FaultyJson as error:
            raise RequestError(
                f"{file}:{number} is not valid JSON ({error.reason} at column {error.position + 1}): every line must "
                "be one object"
            ) from error
        yield number, _as_object(record, file, number)


def _read_json(file: Path) -> Numbered:
    text = _read_text(file)
    if not text.lstrip().startswith("["):
        _refuse_columns(text, file)
        yield from _json_lines(text, file)
        return
    position, line, counted = text.index("[") + 1, 1, 0
    try:
        while (position := _next_item(text, position, first=not counted)) >= 0:
            line += text.count("\n", counted, position)
            counted = position
            record, position = read_value(text, position)
            yield line, _as_object(record, file, line)
    except FaultyJson as error:
        at = text.count("\n", 0, error.position) + 1
        raise RequestError(
            f"{file}:{at} is not valid JSON ({error.reason}): the file must hold one list of objects"
        ) from error


def _refuse_columns(text: str, file: Path) -> None:
    """One object of lists or objects is no row: a table column by column, as pandas writes it, or splits by name."""
    try:
        value, end = read_value(text, _skip(text, 0, _SPACE))
    except FaultyJson:  # lines say better which of them is at fault
        return
    whole = isinstance(value, dict) and bool(value) and _skip(text, end, _SPACE) == len(text)
    if whole and all(isinstance(each, dict | list) and not _is_conversation(each) for each in value.values()):
        raise RequestError(
            f"{file} holds one object of columns or splits: a .json file is a list of rows, as "
            "FRAME.to_json(FILE, orient='records') writes it"
        )


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _next_item(text: str, position: int, *, first: bool) -> int:
    """Where the next item of a list begins; -1 at its end, after which there must be nothing."""
    position = _skip(text, position, _SPACE)
    if text.startswith("]", position):
        end = _skip(text, position + 1, _SPACE)
        if end < len(text):
            raise FaultyJson("Something follows the list", end)
        return -1
    if first:
        return position
    if not text.startswith(",", position):
        raise FaultyJson("A comma or the end of the list is missing", position)
    return _skip(text, position + 1, _SPACE)


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _as_object(record: Any, file: Path, number: int) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise RequestError(f"{file}:{number} holds {kind_of(record)}: a row must be an object with named columns")
    return record


def _read_csv(file: Path) -> Numbered:
    # A quoted cell may span lines, and the row is named by the line it starts on.
    text = _read_text(file)
    reader = csv.reader(io.StringIO(text), strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            with _cells_up_to(len(text)):
                cells = next(reader, None)
        except csv.Error as error:
            raise RequestError(f"{file}:{start} is not valid CSV ({error}): check its quotes") from error
        if cells is None:
            return
        if header is None and cells:
            _refuse_other_separator(cells, f"{file}:{start}")
            _refuse_repeated(cells, f"{file}:{start}")
            header = cells
        elif cells:
            if header is None or len(cells) != len(header):
                expected = len(header or [])
                raise RequestError(f"{file}:{start} has {len(cells)} cells where the header names {expected} columns")
            yield start, dict(zip(header, cells, strict=True))
        start = reader.line_num + 1


@contextlib.contextmanager
def _cells_up_to(length: int) -> Iterator[None]:
    """Python refuses cells of more than 128 KB, by a limit that the whole process shares."""
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, length))
    try:
        yield
    finally:
        csv.field_size_limit(usual)


def _refuse_other_separator(header: Sequence[str], where: str) -> None:
    """A table of one column whose name holds several: as spreadsheets write it where a comma stands in numbers."""
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise RequestError(
                f"{where}: the columns are parted by {name}: a .csv file has commas between them, as "
                "FRAME.to_csv(FILE, index=False) writes it"
            )


def _refuse_repeated(columns: Sequence[str], where: str) -> None:
    """By number: of a file without a header the names would be its first row, which is not printed."""
    first: dict[str, int] = {}
    for number, column in enumerate(columns, start=1):
        # Spreadsheets end every line in commas: a column without a name is read as nothing.
        if column and first.setdefault(column, number) != number:
            raise RequestError(
                f"{where}: columns {first[column]} and {number} have one name, so only one of them could be read: "
                "rename or remove one"
            )


def _read_txt(file: Path) -> Numbered:
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        if line.strip():
            yield number, {"text": line.rstrip("\r")}


def _read_parquet(file: Path) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    try:
        # Not read_table(file), which says of repeated columns only that they are ambiguous.
        table = pyarrow.parquet.ParquetFile(file).read()
        _refuse_repeated(table.column_names, str(file))
        records = table.to_pylist()
    except pyarrow.ArrowException as error:
        raise RequestError(f"{file} cannot be read as Parquet: {first_line(error)}") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    yield from enumerate(records, start=1)


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


def read_hub(dataset: str, config: str | None, split: str, revision: str | None) -> Numbered:
    """Records of one split of a Hub data set.

    Args:
        dataset: Hub id, for example ``"locuslab/TOFU"``.
        config: Name of the configuration, if the data set has several.
        split: Name of the split.
        revision: Branch, tag or commit.

    Returns:
        An iterator of (row number from 1, record).

    Raises:
        RequestError: The data set, configuration or split does not exist or may not be read.
        EnvironmentFailure: The Hub cannot be reached and the data set is not in the local cache.
    """
    return enumerate(load_hub(dataset, config, split, revision), start=1)


def load_saved(folder: Path) -> Any:
    """A folder that ``save_to_disk`` wrote, or a folder of data files, as ``datasets`` reads it.

    Raises:
        RequestError: It holds neither.
    """
    import datasets

    if not any((folder / name).is_file() for name in _SAVED_TO_DISK):
        return load_hub(str(folder))
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise RequestError(f"{folder} cannot be read as a saved data set: {first_line(error)}") from error


def load_hub(
    dataset: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    *,
    streaming: bool = False,
) -> Any:
    """A Hub data set: the rows of one split, or, without ``split``, a ``DatasetDict`` of all.

    Args:
        dataset: See :func:`read_hub`, as for the others; also a folder of data files.
        config: Name of the configuration.
        split: Name of the split.
        revision: Branch, tag or commit.
        streaming: Whether rows are read one after another as they are asked for.

    Raises:
        RequestError: See :func:`read_hub`.
        EnvironmentFailure: See :func:`read_hub`.
    """
    import datasets
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if not Path(dataset).exists():
            validate_repo_id(dataset)
        return datasets.load_dataset(dataset, config, split=split, revision=revision, streaming=streaming)
    except HFValidationError as error:
        raise RequestError(f"data set {dataset!r} cannot be an id on the Hub: write it as owner/name") from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise RequestError(
            f"data set {dataset!r} is not on the Hub, or is private: check dataset and revision, or log "
            f"in with `hf auth login` ({first_line(error)})"
        ) from error
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        asked = f"config={config!r} and split={split!r}" if split else "any split without naming a configuration"
        raise RequestError(f"data set {dataset!r} has no rows for {asked}: {first_line(error)}") from error
    except OSError as error:
        raise EnvironmentFailure(
            f"data set {dataset!r} could not be loaded from the Hub ({first_line(error)}): check its name and the "
            "connection, or use a local file instead"
        ) from error
