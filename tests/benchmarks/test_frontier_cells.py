"""A cell of the study goes through the package's own stages, and takes methods more in the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.frontier.cells import NEVER, Cell
from benchmarks.frontier.kinds import Kind

TINY = Kind(
    "tiny",
    "birth years",
    {
        "max_length": 64,
        "planted": {
            **{"forget": 40, "retain": 40, "holdout": 4, "practice": 16, "generic": 24},
            **{"option_draws": 2, "first_year": 1950},
        },
    },
    {
        "min_known": 0.5,
        "scratch": {
            **{"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "kv_heads": 1},
            **{"vocab_size": 600, "epochs": 40, "batch_size": 32, "learning_rate": 4.0e-3},
        },
    },
    rates=(1e-3,),
    epochs=1,
)


def entry(name: str) -> dict[str, object]:
    return {"name": name, "loss_type": "ga", "retain_loss_type": "nll", "max_steps": 2, "save_strategy": "no"}


def files(folder: Path) -> dict[Path, int]:
    kept = ("train", "attack", "evaluate", "references")
    return {path: path.stat().st_mtime_ns for name in kept for path in (folder / name).rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_cell_ends_with_a_report_and_repeats_nothing(tmp_path: Path) -> None:
    """One fold of five has too few groups for a verdict, which the study does not want of it either."""

    def cell(*names: str) -> Cell:
        return Cell(TINY, 0, [entry(name) for name in names], tmp_path, run_folds=1, workers=0, formats=False)

    report = cell("one", "two").run()
    assert {row["model"] for row in report["recovered"]} == {"one", "two", NEVER}
    assert cell("one", "two").training_of("two")["steps"] == 2
    run = tmp_path / "run"
    written = {path.name for path in run.iterdir() if path.is_dir() and path.name != ".locks"}
    assert written == {"train", "evaluate", "attack", "references", "verify"}
    before = files(run)

    assert {row["model"] for row in cell("one", "two", "three").run()["recovered"]} == {"one", "two", "three", NEVER}
    after = files(run)
    assert all(after[path] == time for path, time in before.items())
    with cell("one", "two", "three").through("train") as found:
        assert [one.name for one in found.subjects] == ["target", "never_knew", "one", "two", "three", NEVER]
