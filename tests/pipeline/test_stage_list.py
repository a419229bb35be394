"""The stages of a run are a list: a new one is one file and one entry, for whole runs and as a command."""

from __future__ import annotations

import inspect
import json
import pkgutil
import shutil
from pathlib import Path

import pytest

from hf_unlearn import stages
from hf_unlearn.cli.main import main
from hf_unlearn.stages import STAGES, Stage, stages_of, stages_through

COUNT = """\
import json

def count_stage(run):
    rows = {name: len(rows) for name, rows in run.bundle.scored_sets().items()}
    found = {"rows": rows, "models": [subject.name for subject in run.subjects]}
    (run.context.output_dir / "count.json").write_text(json.dumps(found))
"""


@pytest.fixture
def with_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage more, at the end."""
    (tmp_path / "count_rows.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(stages, "STAGES", (*STAGES, Stage("count", "count_rows:count_stage", "count the rows")))


def test_a_new_stage_is_one_file_and_one_entry(with_count, finished, tiny_recipe, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    words = (str(tiny_recipe), "--output-dir", str(folder), "--workers", "0")
    before = json.loads((folder / "verify" / "unlearning_report.json").read_text())

    assert main(["count", *words]) == 0
    found = json.loads((folder / "count.json").read_text())
    assert found["rows"]["forget"] > 0
    assert found["models"] == ["target", "never_knew", "npo-kl", "other-never-knew"]

    (folder / "count.json").unlink()
    assert main(["run", *words]) in (0, 1)
    assert json.loads((folder / "count.json").read_text()) == found
    assert json.loads((folder / "verify" / "unlearning_report.json").read_text()) == before

    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "one stage: count the rows" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_is_given_the_run_and_nothing_else(stage):
    signature = inspect.signature(pkgutil.resolve_name(stage.function))
    assert list(signature.parameters) == ["run"]
    assert signature.return_annotation == "None"


def test_commands_for_single_stages_run_what_belongs_to_them():
    names = {command: [stage.name for stage in stages_of(command)] for command in ("train", "evaluate", "publish")}
    assert names == {
        "train": ["baselines", "self-generated", "train"],
        "evaluate": ["evaluate", "benchmarks", "earlier-scores"],
        "publish": ["verify", "page", "publish"],
    }
    assert stages_of(None) == STAGES
    assert [stage.name for stage in stages_through("train")] == names["train"]


def test_processes_go_together_before_they_part():
    """A stage that all processes run together could not come after they have parted."""
    together = [stage.processes == "together" for stage in STAGES]
    assert together == sorted(together, reverse=True)
    assert [stage.name for stage in STAGES if stage.processes == "again"] == ["evaluate"]
