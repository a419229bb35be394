"""What a suite compares with: a model that never saw the forget set, in one of three forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...data.example import Example
from ...errors import RequestError
from ...models.gguf_source import fetch_model
from ..records import ScoredRow, read_records
from ..run import RECORDS_FILE
from .rows import SuiteRows
from .tofu_log import is_tofu_log, read_tofu_log


@dataclass(frozen=True)
class Reference:
    """Where the records of a reference come from.

    Attributes:
        kind: ``records`` of an earlier evaluation, a ``model`` to be scored, or a published ``log``.
        path: Folder or file.
        name: As the user named it.
    """

    kind: Literal["records", "model", "log"]
    path: Path
    name: str


def find_reference(name: str) -> Reference:
    """Tell the three forms apart.

    Args:
        name: Folder with records, folder or Hub id of a model, or file of a log.

    Raises:
        RequestError: It is none of them.
        EnvironmentFailure: It is taken for a Hub id and the Hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        if not is_tofu_log(path):
            raise RequestError(
                f"the reference {name} is a file but no TOFU evaluation log (eval_log_aggregated.json): name such a "
                "log, the folder of an earlier evaluation, or a model"
            )
        return Reference("log", path, name)
    if (path / RECORDS_FILE).is_file():
        return Reference("records", path, name)
    if path.is_dir() and not (path / "config.json").is_file():
        raise RequestError(
            f"the reference {name} is a folder with neither {RECORDS_FILE} nor config.json: name the output folder of "
            "a finished evaluation, or a saved model"
        )
    if path.suffix == ".json":
        raise RequestError(f"the reference {name} does not exist: check the path")
    return Reference("model", fetch_model(name, None, "reference"), name)


def read_reference(reference: Reference, rows: SuiteRows) -> dict[str, list[ScoredRow]]:
    """Records of a reference that need no model, by set; only sets of the suite, each line by line the same rows.

    Raises:
        RequestError: The reference is about other rows; the first one that differs is named.
    """
    if reference.kind == "log":
        return read_tofu_log(reference.path, rows.raw)
    sets = rows.sets
    found: dict[str, list[ScoredRow]] = {}
    for record in read_records(reference.path / RECORDS_FILE):
        if record.set in sets:
            found.setdefault(record.set, []).append(record)
    for name, records in found.items():
        check_same_rows(records, sets[name], f"{reference.name} ({name})")
    if not found:
        raise RequestError(f"the reference {reference.name} has no records of any set of this suite")
    return found


def check_same_rows(records: Sequence[ScoredRow], rows: Sequence[Example | ScoredRow], where: str) -> None:
    """Refuse records that are not, one by one, about the given rows.

    Raises:
        RequestError: Naming the first row that differs.
    """
    for record, row in zip(records, rows, strict=False):
        # Records of ordinary text do not hold it.
        if record.id != row.id or record.answer not in ("", row.answer):
            what = f"{record.id!r} is in the place of {row.id!r}" if record.id != row.id else f"answer of {row.id!r}"
            raise RequestError(f"{where}: the rows do not line up, first at {what}: evaluate both on the same rows")
    if len(records) != len(rows):
        longer: Sequence[Example | ScoredRow] = records if len(records) > len(rows) else rows
        raise RequestError(
            f"{where}: there are {len(records)} rows instead of {len(rows)}, the first without a counterpart is "
            f"{longer[min(len(records), len(rows))].id!r}: evaluate both with the same limit"
        )
