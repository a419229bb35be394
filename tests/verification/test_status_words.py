"""No code asks for a status, kind or cause that no row of a report can have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import hf_unlearn
from hf_unlearn.verification.outcomes import Cause
from hf_unlearn.verification.recovered import RecoveredRow
from hf_unlearn.verification.utility import UtilityRow

PACKAGE = Path(hf_unlearn.__file__).parent
# Where rows of the report are read; elsewhere a status may be that of something else.
FOLDERS = ("verification", "stages", "reporting", "hub", "controls")


def words_of(row: type, attribute: str) -> set[str]:
    """The words that an attribute of a row may be."""

    def words(hint: Any) -> Iterator[str]:
        for part in get_args(hint):
            yield from [part] if isinstance(part, str) else words(part)

    return set(words(get_type_hints(row)[attribute]))


def asked(tree: ast.AST, name: str) -> Iterator[tuple[int, str]]:
    """Line and word of every comparison of something called ``name`` with words."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if any(called(side) == name for side in sides):
            for side in sides:
                for part in ast.walk(side) if isinstance(side, ast.Tuple | ast.Set | ast.List) else [side]:
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield node.lineno, part.value


def called(node: ast.AST) -> str | None:
    """``status`` of ``row.status``, ``status``, ``row["status"]`` and ``row.get("status")``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    key = None
    if isinstance(node, ast.Subscript):
        key = node.slice
    elif isinstance(node, ast.Call) and called(node.func) == "get" and node.args:
        key = node.args[0]
    return str(key.value) if isinstance(key, ast.Constant) else None


def strangers(source: str, name: str, known: set[str]) -> list[str]:
    return [f"line {line}: {word}" for line, word in asked(ast.parse(source), name) if word not in known]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("status", words_of(RecoveredRow, "status")),
        ("causes", set(get_args(Cause))),
    ],
)
def test_no_row_is_asked_for_a_word_that_it_cannot_have(name: str, known: set[str]) -> None:
    found = {
        str(path.relative_to(PACKAGE)): wrong
        for folder in FOLDERS
        for path in sorted((PACKAGE / folder).glob("*.py"))
        if (wrong := strangers(path.read_text(encoding="utf-8"), name, known))
    }
    assert found == {}


def test_the_words_are_those_of_the_types() -> None:
    assert words_of(RecoveredRow, "status") == {"passed", "failed", "inconclusive", "reported"}
    assert words_of(UtilityRow, "status") == {"passed", "failed", "inconclusive"}
    assert strangers('row.status in ("failed", "over_forgotten")', "status", {"failed"}) == ["line 1: over_forgotten"]
    assert strangers('row["status"] == "lost" or row.get("status") == "failed"', "status", {"failed"}) == [
        "line 1: lost"
    ]
