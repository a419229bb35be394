"""The Space's settings: its variables, and the prompts beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.verified import Requirement

VERDICTS: tuple[Requirement, ...] = ("passed", "inconclusive", "any")
DTYPES = ("auto", "float32", "bfloat16", "float16")
PROMPTS_FILE = Path(__file__).with_name("prompts.json")


@dataclass(frozen=True)
class Settings:
    """What the Space shows and loads.

    Attributes:
        model_id: The published model: an id on the Hub, or a folder.
        revision: Its branch, tag or commit.
        compare_with: The other model; ``None`` for the target that the report names.
        compare_revision: Its branch, tag or commit.
        require: The verdict without which a published model is not loaded.
        trusted_key: Public key (a PEM file in the Space) that must have signed the report.
        dtype: Type of the weights that are not quantized.
        max_new_tokens: Maximum number of tokens of an answer.
    """

    model_id: str
    revision: str | None = None
    compare_with: str | None = None
    compare_revision: str | None = None
    require: Requirement = "passed"
    trusted_key: str | None = None
    dtype: str = "auto"
    max_new_tokens: int = 64


def settings_from(variables: Mapping[str, str]) -> Settings:
    """Settings of a Space.

    Args:
        variables: The environment. An empty variable is one that is not set.

    Raises:
        RequestError: ``MODEL_ID`` is missing, or a variable has a value it cannot have.
    """
    model_id = variables.get("MODEL_ID", "").strip()
    if not model_id:
        raise RequestError("MODEL_ID is not set: name the published model under Settings, Variables of the Space")
    return Settings(
        model_id=model_id,
        revision=_text(variables, "MODEL_REVISION"),
        compare_with=_text(variables, "COMPARE_WITH"),
        compare_revision=_text(variables, "COMPARE_REVISION"),
        require=cast(Requirement, _one_of(variables, "REQUIRE", VERDICTS)),
        trusted_key=_text(variables, "TRUSTED_KEY"),
        dtype=_one_of(variables, "DTYPE", DTYPES),
        max_new_tokens=_count(variables, "MAX_NEW_TOKENS", 64),
    )


def _text(variables: Mapping[str, str], name: str) -> str | None:
    return variables.get(name, "").strip() or None


def _one_of(variables: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = _text(variables, name) or allowed[0]
    if value not in allowed:
        raise RequestError(f"{name} is {value!r}: it must be one of {', '.join(allowed)}")
    return value


def _count(variables: Mapping[str, str], name: str, default: int) -> int:
    value = _text(variables, name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise RequestError(f"{name} is {value!r}: it must be a whole number of at least 1")
    return int(value)


@dataclass(frozen=True)
class Question:
    """A prompt to try.

    Attributes:
        prompt: The prompt.
        answer: The expected answer; empty if none is expected.
    """

    prompt: str
    answer: str = ""


def read_questions(path: Path) -> list[Question]:
    """Prompts to try, from a JSON array of objects with ``prompt`` and, where there is one, ``answer``.

    Args:
        path: The file; no prompts if it does not exist.

    Raises:
        RequestError: The file is something else. The message names the entry.
    """
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise RequestError(f"{path.name} must be a JSON array of objects with prompt and answer")
    return [_question(entry, f"{path.name}: entry {number}") for number, entry in enumerate(entries, start=1)]


def _question(entry: Any, where: str) -> Question:
    if not isinstance(entry, dict) or not str(entry.get("prompt") or "").strip():
        raise RequestError(f"{where} has no prompt: it must be an object with prompt and, if expected, answer")
    if further := sorted(entry.keys() - {"prompt", "answer"}):
        raise RequestError(f"{where} has the key {further[0]!r}: only prompt and answer are known")
    return Question(str(entry["prompt"]), str(entry.get("answer") or ""))
