"""One of two CPU processes that share a run, as `torch.distributed.run` starts it:

    python -m torch.distributed.run --standalone --nproc-per-node=2 two_processes.py JOB.json

On a machine without an accelerator accelerate starts neither DeepSpeed nor FSDP, and says nothing: plain DDP runs.
The two functions at the top make it start them, on gloo and the CPU. What runs in the end is written down, so that a
test can look whether it is what it asked for.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from accelerate import state
from accelerate.utils import DistributedType


def let_deepspeed_use_gloo() -> None:
    """accelerate finds no backend without an accelerator and believes to be alone."""
    found = state.PartialState._prepare_backend

    def prepare(self: Any, *args: Any, **kwargs: Any) -> tuple[str | None, DistributedType]:
        backend, kind = found(self, *args, **kwargs)
        alone = kind is DistributedType.NO and "LOCAL_RANK" in os.environ
        return ("gloo", DistributedType.MULTI_CPU) if alone else (backend, kind)

    state.PartialState._prepare_backend = prepare

    # It would compile kernels for processes that share memory first, anew for each place it is installed in.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None


def let_fsdp_use_the_cpu() -> None:
    """accelerate takes an FSDP plugin only for accelerators and otherwise drops it."""
    made = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        shared = state.PartialState._shared_state
        if kwargs.get("fsdp_plugin") is not None:
            state.PartialState(cpu=True)
            if shared.get("distributed_type") is DistributedType.MULTI_CPU:
                shared["distributed_type"] = DistributedType.MULTI_GPU
        made(self, *args, **kwargs)

    state.AcceleratorState.__init__ = init


def main(job: dict[str, Any]) -> None:
    """Train as the job says; the first process writes what came of it."""
    settings = job["settings"]
    if "deepspeed" in settings:
        let_deepspeed_use_gloo()
        settings["use_cpu"] = False
    if "fsdp" in settings:
        let_fsdp_use_the_cpu()
    from tiny_run import logged, tiny_trainer

    folder = Path(job["folder"])
    asked = copy.deepcopy(settings)
    trainer = tiny_trainer(folder / "work", model=job["model"], **settings)
    resume = folder / "work" / job["resume"] if "resume" in job else None
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    # Asked before saving, which may leave nothing in pieces.
    inner = trainer.accelerator.unwrap_model(trainer.model)
    shapes = [tuple(getattr(parameter, "to_local", lambda p=parameter: p)().shape) for parameter in inner.parameters()]
    states = getattr(trainer.optimizer, "optimizer", trainer.optimizer).state.values()
    momentum = sorted({int(state["step"]) for state in states if "step" in state})
    trainer.save_merged(str(folder / job["saved"]), job.get("dtype"))
    made = {
        "type": trainer.accelerator.distributed_type.value,
        "processes": trainer.accelerator.num_processes,
        "largest": max(math.prod(shape) for shape in shapes),
        "log": logged(trainer),
        "told": [dict(part.outcome()) for part in trainer.parts],
        "steps_of_momentum": momentum,
    }
    if "again" in job:  # resumed in the same processes: another launch would take longer than all the rest
        trainer = tiny_trainer(folder / "work", model=job["model"], **asked)
        trainer.train(resume_from_checkpoint=str(folder / "work" / job["again"]))
        trainer.save_merged(str(folder / "again"))
        made["again_type"] = trainer.accelerator.distributed_type.value
    if trainer.is_world_process_zero():
        (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")
    # Threads of the group that outlive it can end the process with an error.
    trainer.accelerator.end_training()


def run_job(folder: Path, job: dict[str, Any], timeout: int = 240) -> dict[str, Any]:
    """What two processes made of a job."""
    file = folder / "job.json"
    file.write_text(json.dumps({**job, "folder": str(folder)}), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run([*launch, __file__, str(file)], capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(json.loads((folder / "made.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
