"""Two processes with half the batch each make the steps of one process with all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import logged, tiny_trainer, weights

SETTINGS = {
    "loss_type": "npo",
    "retain_loss_type": "kl",
    "optim": "sgd",
    "learning_rate": 0.1,
    "max_steps": 2,
    "logging_steps": 2,
    "train_sampling_strategy": "sequential",
}

SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from tiny_run import logged, tiny_trainer

trainer = tiny_trainer(
    {folder!r}, per_device_train_batch_size=1, gradient_accumulation_steps=2, ddp_backend="gloo", **{settings!r}
)
trainer.train()
trainer.save_model({folder!r})
if trainer.is_world_process_zero():
    open({folder!r} + "/log.json", "w").write(json.dumps(logged(trainer)[0]))
trainer.accelerator.end_training()
"""


def test_two_processes_step_as_one(tmp_path):
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=4, **SETTINGS)
    trainer.train()

    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), settings=SETTINGS))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr[-3000:]

    two, one = load_file(tmp_path / "model.safetensors"), weights(trainer.model)
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
    two_log, one_log = json.loads((tmp_path / "log.json").read_text()), logged(trainer)[0]
    for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "logps/retain", "kl/retain"):
        assert two_log[key] == pytest.approx(one_log[key], rel=1e-3)
