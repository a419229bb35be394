"""The Slurm scripts, with stand-ins for Slurm's commands that write down what they are given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

LIST = """\
hf-unlearn jobs r.yaml --output-dir {run} --only models  # step 1
hf-unlearn jobs r.yaml --output-dir {run} --only train/a  # step 2, after models
hf-unlearn jobs r.yaml --output-dir {run} --only train/b  # step 2, after models
hf-unlearn jobs r.yaml --output-dir {run} --only 'attack/x y'  # step 12, after train/a
"""
STAND_INS = {
    "hf-unlearn": 'echo "hf-unlearn|$*" >> "$TOLD"; case "$*" in *--list) cat "$LIST" ;; *) echo /a/file ;; esac',
    "sbatch": 'echo "sbatch|$*" >> "$TOLD"; wc -l < "$TOLD"',
    "scontrol": "printf 'node1\\nnode2\\n'",
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "accelerate": 'echo "accelerate|$*" >> "$TOLD"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the stand-ins write."""
    for name, script in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "list").write_text(LIST.format(run=tmp_path / "run"))
    given = {"TOLD": tmp_path / "told", "LIST": tmp_path / "list", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path / "told"


def test_a_run_becomes_an_array_for_each_step(slurm: Path, root: Path) -> None:
    here, run = root / "examples" / "slurm", slurm.parent / "run"
    subprocess.run([here / "submit.sh", "r.yaml", run], check=True, capture_output=True)
    lists = f"{run}.slurm/step-"
    assert slurm.read_text().splitlines() == [
        f"hf-unlearn|jobs r.yaml --output-dir {run} --list",
        f"sbatch|--parsable --array=1-1 {here}/unit.sbatch {lists}1",
        f"sbatch|--parsable --dependency=afterok:2 --array=1-2 {here}/unit.sbatch {lists}2",
        f"sbatch|--parsable --dependency=afterok:3 --array=1-1 {here}/unit.sbatch {lists}12",
        f"sbatch|--dependency=afterok:4 {here}/finish.sbatch r.yaml {run}",
    ]


def test_a_task_of_an_array_makes_its_unit(slurm: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    subprocess.run(["bash", root / "examples/slurm/unit.sbatch", slurm.parent / "list"], check=True)
    assert slurm.read_text().endswith("--only attack/x y\n")
    subprocess.run(["bash", root / "examples/slurm/finish.sbatch", "r.yaml", "run"], check=True)
    assert slurm.read_text().endswith("hf-unlearn|run r.yaml --output-dir run\n")


def test_every_machine_starts_its_part_of_one_run(slurm: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NNODES": "2", "GPUS_ON_NODE": "8", "JOB_NODELIST": "node[1-2]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    subprocess.run(["bash", root / "examples/slurm/run.sbatch", "r.yaml", "a run"], check=True)
    lines = [line for line in slurm.read_text().splitlines() if line.startswith("accelerate")]
    for rank, line in enumerate(lines):
        assert f"--num_machines 2 --num_processes 16 --machine_rank {rank} --main_process_ip node1 " in line
        assert line.endswith("-m hf_unlearn run r.yaml --output-dir a run")
    assert len(lines) == 2
