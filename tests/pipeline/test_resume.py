"""``kill -9`` in any stage: the same command goes on, and the report is that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from forked import Forks, alive

from hf_unlearn.cli.main import main

# What has to be on disk when the run is killed: the stage is at work, and what it writes is not finished.
MOMENTS = {
    "references": "references/evaluate/target/identity",
    "train": "train.partial/checkpoints/checkpoint-4",
    "export": "references/export/target/bnb-nf4",
    "evaluate": "references/evaluate/target/bnb-nf4",
    "attack": "references/attack/target/rtt/fold0-lr0.001",
    "verify": "attack/rtt/fold0-lr0.001",
    "publish": "verify",
}


def comparable(output_dir: Path) -> dict:
    """A report without what differs between any two runs: when it was made, and the seal over that."""
    report = json.loads((output_dir / "verify" / "unlearning_report.json").read_text())
    return {key: value for key, value in report.items() if key not in ("created", "digest")}


def kill_at(moment: Path, process: int) -> None:
    """``kill -9`` a run as soon as this is on disk."""
    deadline = time.monotonic() + 120
    while not moment.exists() and alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive(process), f"the run ended before it could be killed at {moment}"
    os.killpg(process, signal.SIGKILL)
    while alive(process):
        time.sleep(0.01)


def test_a_run_that_is_killed_in_every_stage_ends_like_an_uninterrupted_one(finished, tiny_recipe, tmp_path, capsys):
    """Each start goes on where the last one was killed: an error at any of them would change or stop what follows."""
    output_dir = tmp_path / "run"
    words = ["run", str(tiny_recipe), "--output-dir", str(output_dir), "--workers", "0"]
    with Forks() as forks:
        for stage, path in MOMENTS.items():
            kill_at(output_dir / path, forks.start(words))
            assert (output_dir / "run.json").is_file(), stage
            assert not (output_dir / "publish").exists(), stage

    assert main(words) in (0, 1)
    capsys.readouterr()
    assert comparable(output_dir) == comparable(finished)
    assert not list(output_dir.rglob("*.partial"))
