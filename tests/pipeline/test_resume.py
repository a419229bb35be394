"""``kill -9`` in any stage: the same command goes on, and the report is that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("stage", MOMENTS)
def test_killed_run_ends_like_an_uninterrupted_one(stage, finished, tiny_recipe, tmp_path, capsys):
    output_dir = tmp_path / "run"
    command = [sys.executable, "-m", "hf_unlearn", "run", str(tiny_recipe), "--output-dir", str(output_dir)]
    process = subprocess.Popen(
        [*command, "--workers", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    moment = output_dir / MOMENTS[stage]
    deadline = time.monotonic() + 120
    while not moment.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output_dir / "publish").exists()

    assert main([*command[3:], "--workers", "0"]) in (0, 1)
    capsys.readouterr()
    assert comparable(output_dir) == comparable(finished)
    assert not list(output_dir.rglob("*.partial"))
