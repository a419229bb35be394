"""Two processes: training is shared, everything after it runs in the first one alone, and the run ends."""

from __future__ import annotations

import json
import subprocess
import sys

from hf_unlearn.verification.report_file import load_report


def test_two_processes_finish_one_run(tiny_recipe, tmp_path):
    output_dir = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517"]
    command = ["-m", "hf_unlearn", "run", str(tiny_recipe), "--output-dir", str(output_dir)]
    overrides = ["methods.0.per_device_train_batch_size=4"]
    done = subprocess.run([*launcher, *command, *overrides], capture_output=True, text=True, timeout=300)
    assert load_report(output_dir / "verify" / "unlearning_report.json")["verdict"]["candidate"] == "npo-kl", (
        done.stderr
    )
    assert (output_dir / "publish" / "README.md").is_file()
    training = json.loads((output_dir / "train" / "training.json").read_text())
    assert training["steps"] == 12
    assert not list(output_dir.rglob("*.partial"))
