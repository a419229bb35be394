"""``examples/quickstart.ipynb`` runs from top to bottom, here on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def cells(root: Path, kind: str) -> list[str]:
    """The notebook's cells of one kind."""
    notebook = json.loads((root / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_no_outputs_are_kept(root: Path) -> None:
    notebook = json.loads((root / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])


@pytest.mark.slow
def test_the_notebook_runs(root: Path, tiny_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL", str(tiny_folder))
    monkeypatch.setenv("STEPS", "3")
    names: dict[str, Any] = {}
    for number, text in enumerate(cells(root, "code")):
        exec(compile(text, f"quickstart.ipynb, cell {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert [line.split("  ")[0] for line in shown.splitlines()[-3:]] == ["before", "after", "after, in 4 bits"]
    assert names["after"]["forget"] != names["before"]["forget"]
    assert (tmp_path / "unlearned-int4" / "config.json").is_file()
