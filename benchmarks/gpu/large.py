"""Memory and time of steps on a model of 8 billion weights: with LoRA, or under ZeRO-3 with all in main memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from benchmarks.gpu.models import SIZES, config_of, planted, random_model
from benchmarks.gpu.units import ROOT
from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.example import Example

STEPS = 3
_BYTES = 18
"""Of main memory for each weight under ZeRO-3: bfloat16 weights, float32 gradients, weights and both moments."""
_PART = 0.75
"""Of main memory that is used: pinned buffers and the process itself take the rest."""


def main() -> None:
    """Print the figures, or why there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sharded", action="store_true", help="under ZeRO-3 with weights and states in main memory")
    parser.add_argument("--launched", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    reason = missing(arguments.sharded)
    if reason:
        print(json.dumps({"skipped": reason}))
    elif arguments.sharded and not arguments.launched:
        sys.exit(launch(arguments.tiny))
    else:
        print(json.dumps(measured(arguments.tiny, arguments.sharded)))


def missing(sharded: bool) -> str:
    """What this machine lacks; empty if nothing."""
    if sharded and not torch.cuda.is_available():
        return "accelerate starts DeepSpeed only where there is a GPU"
    name = "deepspeed" if sharded else "peft"
    return "" if find_spec(name) else f"{name} is not installed: pip install 'hf_unlearn[{name}]'"


def launch(tiny: bool) -> int:
    """The same through accelerate, with the file that the documentation names; the child prints the figures."""
    file = ROOT / "recipes" / "accelerate" / "zero3_offload.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", "1"]
    words = ["--sharded", "--launched", *(["--tiny"] if tiny else [])]
    return subprocess.run([*command, "-m", "benchmarks.gpu.large", *words]).returncode


def measured(tiny: bool, sharded: bool) -> dict[str, Any]:
    """A few steps of NPO + NLL."""
    length, batch = (32, 1) if tiny else (512, 4)
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearnConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=STEPS,
            loss_type="npo",
            retain_loss_type="nll",
            save_strategy="no",
            logging_steps=10_000,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            bf16=True,
            gradient_checkpointing=True,
            **({} if sharded else {"peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}}),
        )
        config = sized(tiny, sharded)
        # After the settings, which say how weights are laid out: under ZeRO-3 they are never whole.
        model = (
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            if sharded
            else random_model(config, torch.bfloat16)
        )
        forget, retain, tokenizer = rows(2 * batch * STEPS, length)
        times = Times()
        trainer = UnlearnTrainer(model, args, forget, retain, processing_class=tokenizer, callbacks=[times])
        trainer.train()
        return {
            "layers": config.num_hidden_layers,
            "step": times.last(),
            "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            "strategy": trainer.accelerator.distributed_type.value,
            "length": length,
            "rows": 2 * batch,
        }


def sized(tiny: bool, sharded: bool) -> LlamaConfig:
    """The model; under ZeRO-3 with as many layers as main memory has room for."""
    name = "tiny" if tiny else "8b"
    layers = SIZES[name]["num_hidden_layers"]
    if sharded:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        layers = min(layers, layers_that_fit(memory, SIZES[name]))
    return config_of(name, num_hidden_layers=layers)


def layers_that_fit(memory: int, size: dict[str, Any]) -> int:
    """Layers of a model that main memory has room for, with all that training keeps there; at least one."""
    width, inner = size["hidden_size"], size["intermediate_size"]
    keys = width * size["num_key_value_heads"] // size["num_attention_heads"]
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner
    ends = 2 * size["vocab_size"] * width
    return max(1, int((_PART * memory / _BYTES - ends) // layer))


def rows(count: int, length: int) -> tuple[list[Example], list[Example], Any]:
    """Forget and retain rows of about so many tokens, and the tokenizer."""
    bundle, tokenizer = planted(32)
    ids = tokenizer(" ".join(row.text for row in (*bundle.generic.train, *bundle.retain.train)))["input_ids"]
    ids = ids * (1 + (count + 1) * length // len(ids))
    texts = [tokenizer.decode(ids[start : start + length - 4]) for start in range(0, count * length, length)]
    cut = [text.partition(" ") for text in texts]
    made = [Example(f"row{n}", head, " " + rest, f"row{n}", f"row{n}") for n, (head, _, rest) in enumerate(cut)]
    return made[0::2], made[1::2], tokenizer


class Times(TrainerCallback):
    """When each step began."""

    def __init__(self) -> None:
        self._starts: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._starts.append(time.perf_counter())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step_begin(args, state, control)

    def last(self) -> float:
        """Seconds of the last step: kernels are chosen and buffers made in the first."""
        return self._starts[-1] - self._starts[-2]


if __name__ == "__main__":
    main()
