"""What an evaluated folder holds besides its records: ``suite.json``, and the request in ``request.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ...data.example import Example
from ...data.sources import Source
from ...errors import RequestError
from ...runtime.files import write_atomically
from ...verification.digests import hash_files
from ...verification.intervals import Bootstrap
from ...verification.scores import FactScores
from ..aggregates import AGGREGATES
from ..metrics import METRICS, SCORE_VERSION
from ..records import ScoredRow, read_records
from ..run import RECORDS_FILE
from .harness import read_harness
from .spec import HarnessSpec, Suite

SUITE_FILE = "suite.json"
REQUEST_FILE = "request.json"
SCHEMA_VERSION = 1
#: Where rows come from does not matter: the rows themselves are compared.
_LOCATIONS = ("path", "dataset", "config", "split", "revision", "limit", "score_limit")
_NOT_MEASURED = ("summary", "paper", "reference", "target", "batch_tokens")
_MANY_GROUPS = 2000


def suite_digest(suite: Suite) -> str:
    """SHA-256 of everything in a suite that decides a score: not where its rows are and how many are used."""
    kept = {key: value for key, value in asdict(suite).items() if key not in _NOT_MEASURED}
    kept["set"] = {name: _without_locations(members) for name, members in kept["set"].items()}
    if kept["harness"]:
        kept["harness"] = {key: value for key, value in kept["harness"].items() if key not in ("batch_size", "limit")}
    return _digest(kept)


def _without_locations(members: Mapping[str, Any]) -> dict[str, Any]:
    left = {key: value for key, value in members.items() if key not in _LOCATIONS}
    if left.get("shots"):
        left["shots"] = {key: value for key, value in left["shots"].items() if key not in _LOCATIONS}
    return left


def rows_digest(rows: Sequence[Example]) -> str:
    """SHA-256 of the rows as they are asked: prompts, answers, options."""
    kept = [
        [row.id, row.turns, row.prompt, row.answer, row.choices, row.variants, row.prior_prompt, row.conversational]
        for row in rows
    ]
    return _digest(kept)


def model_digest(folder: Path) -> str:
    """SHA-256 over names and digests of the files of a model's folder; those of sub-folders are not counted.

    Raises:
        EnvironmentFailure: A file cannot be read.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return _digest(hash_files(folder, names))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def score_versions(suite: Suite) -> dict[str, int]:
    """Version of the records, and of every metric and aggregate of the suite: two versions are not compared."""
    metrics = sorted({metric for spec in suite.set.values() for metric in spec.metrics})
    found = {"records": SCORE_VERSION, **{name: METRICS.get(name).version or 1 for name in metrics}}
    for label in suite.aggregates:
        name = suite.aggregate(label)[0]
        found[name] = AGGREGATES.get(name).version or 1
    return found


def versions() -> dict[str, str]:
    """Versions of the libraries that scores may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("hf_unlearn", "torch", "transformers", "tokenizers", "datasets", "lm_eval"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def bootstrap_for(scores: FactScores) -> Bootstrap:
    """Fewer resamples if there are very many groups, whose table would otherwise fill the memory."""
    groups = len(set(scores.groups.values()))
    return Bootstrap() if groups <= _MANY_GROUPS else Bootstrap(draws=2000)


def open_folder(out_dir: Path, request: Mapping[str, Any]) -> None:
    """Prepare an output folder for a request, or for resuming the same one.

    Args:
        out_dir: The folder; made if it is not there.
        request: What is asked: digests of suite, rows and model, type of the weights.

    Raises:
        RequestError: The folder holds something else; the message says what differs.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    file = out_dir / REQUEST_FILE
    if not file.exists():
        if any((out_dir / name).exists() for name in (RECORDS_FILE, "run.json")):
            raise RequestError(f"{out_dir} already holds something else: choose another --output-dir")
        _write_json(file, request)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    differing = sorted(key for key in {*there, *request} if there.get(key) != _as_json(request.get(key)))
    if differing:
        raise RequestError(
            f"{out_dir} holds an evaluation with another {' and '.join(differing)}: choose another --output-dir, or "
            "remove that folder"
        )


def write_result(out_dir: Path, result: Mapping[str, Any]) -> None:
    """Write ``suite.json``; it being there says that the evaluation is finished."""
    _write_json(out_dir / SUITE_FILE, result)


def read_result(folder: Path) -> dict[str, Any]:
    """Read ``suite.json``.

    Raises:
        RequestError: There is none, or it cannot be read.
    """
    file = folder / SUITE_FILE
    if not file.is_file():
        raise RequestError(
            f"{folder} holds no {SUITE_FILE}: name the output folder of a finished `hf-unlearn evaluate MODEL --suite`"
        )
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read: {error}") from None
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
        raise RequestError(f"{file} was written by another version of hf_unlearn: evaluate again")
    return result


def all_records(folder: Path, result: Mapping[str, Any]) -> list[ScoredRow]:
    """Records of all sets and harness tasks of an evaluated folder.

    Raises:
        RequestError: A file with records is missing.
    """
    records = []
    try:
        if result["sets"]:
            records += read_records(folder / RECORDS_FILE)
        tasks = tuple(result.get("harness") or ())
        if tasks:
            records += read_harness(folder, HarnessSpec(tasks))[0]
    except FileNotFoundError as error:
        raise RequestError(f"{folder} lacks {Path(error.filename).name}: evaluate again") from None
    return records


def describe_sets(
    sets: Mapping[str, Sequence[Example]], repeated: Mapping[str, int], kinds: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Sizes of the sets, how they were asked, and digests of their rows."""
    return {
        name: {
            "rows": len(rows),
            "facts": len({row.fact for row in rows}),
            "groups": len({row.group for row in rows}),
            "repeated": repeated[name],
            "format": kinds[name],
            "digest": rows_digest(rows),
        }
        for name, rows in sets.items()
    }


def suite_settings(suite: Suite) -> dict[str, Any]:
    """The suite as it was used, without keys that have their default."""
    settings: dict[str, Any] = {"name": suite.name, "aggregates": suite.aggregates}
    settings["set"] = {name: _changed(spec) for name, spec in suite.set.items()}
    for key in ("planted", "harness"):
        if getattr(suite, key) is not None:
            settings[key] = asdict(getattr(suite, key))
    return settings


def _changed(spec: Source) -> dict[str, Any]:
    whole = asdict(spec)
    return {item.name: whole[item.name] for item in fields(spec) if getattr(spec, item.name) != item.default}


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def by_set(records: Iterable[ScoredRow]) -> dict[str, list[ScoredRow]]:
    """Records by their set."""
    found: dict[str, list[ScoredRow]] = {}
    for record in records:
        found.setdefault(record.set, []).append(record)
    return found
