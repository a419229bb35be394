"""Planned peak memory held against measured memory of real training runs on a CPU.

    python benchmarks/plan_memory.py             # random models of 40 to 130 million parameters, five families
    python benchmarks/plan_memory.py --write     # also into benchmarks/plan_memory.md

Each case is a process of its own: it builds a random model, notes its resident memory, and makes two steps with
UnlearnTrainer on made-up rows of one length. Measured is the highest resident memory (VmHWM) less that of the process
before the model was there: what the run needs of a machine, with what libraries use inside of their kernels. Nothing
is asserted.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
_WIDE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}
_DENSE = {**_WIDE, "intermediate_size": 1536, "max_position_embeddings": 512}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Llama, NPO + KL": ("LlamaConfig", {**_DENSE, "num_key_value_heads": 4}, {}),
    "Qwen3, NPO + NLL": (
        "Qwen3Config",
        {**_DENSE, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True},
        {"retain_loss_type": "nll"},
    ),
    "Gemma 3, NPO + KL": (
        "Gemma3TextConfig",
        {**_DENSE, "num_key_value_heads": 4, "head_dim": 64, "sliding_window": 64},
        {},
    ),
    "GPT-NeoX, GA + NLL": ("GPTNeoXConfig", _DENSE, {"loss_type": "ga", "retain_loss_type": "nll"}),
    "Mixture of experts, NPO + NLL": (
        "Qwen3MoeConfig",
        {
            **_DENSE,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 384,
        },
        {"retain_loss_type": "nll"},
    ),
    "Llama, gradient checkpointing": (
        "LlamaConfig",
        {**_DENSE, "num_key_value_heads": 4},
        {"gradient_checkpointing": True, "pass_tokens": 4096},
    ),
    "Llama, whole batch in a pass": ("LlamaConfig", {**_DENSE, "num_key_value_heads": 4}, {"pass_tokens": 4096}),
    "Llama, LoRA": (
        "LlamaConfig",
        {**_DENSE, "num_key_value_heads": 4},
        {"peft": {"r": 16}, "pass_tokens": 4096},
    ),
}
ROWS, LENGTH, PROMPT, BATCH = 8, 128, 96, 4


def encoded(name: str, count: int) -> list[Any]:
    """Rows of one length, so that every micro-batch is the largest."""
    from hf_unlearn.data.encoding import EncodedRow

    return [EncodedRow(f"{name}-{number}", (5,) * LENGTH, PROMPT) for number in range(count)]


def resident(key: str) -> int:
    """Bytes of this process's memory: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this machine does not tell {key}: run this on Linux")


def config_of(case: str) -> tuple[Any, dict[str, Any]]:
    """A new configuration, and the settings of the run."""
    import transformers

    kind, sizes, settings = CASES[case]
    return getattr(transformers, kind)(**sizes), {**settings, "per_device_train_batch_size": BATCH}


def planned(case: str) -> int:
    """The peak that a plan tells."""
    from hf_unlearn.models.loading import empty_model_of
    from hf_unlearn.planning.machines import machine_named
    from hf_unlearn.planning.training import Devices, TrainingInput, plan_training

    config, settings = config_of(case)
    rows = encoded("forget", ROWS), encoded("retain", ROWS)
    given = TrainingInput("case", {**settings, "max_steps": 2}, 0, *rows, empty_model_of(config))
    return plan_training(given, Devices(machine_named("cpu", None, 1e9))).memory.peak


def measured(case: str) -> int:
    """The peak of three steps, in this process."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from hf_unlearn import UnlearnConfig, UnlearnTrainer
    from hf_unlearn.data.example import Example

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "w": 5}
    maker = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    maker.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=maker, **names)
    prompt, answer = " ".join(["w"] * PROMPT), " " + " ".join(["w"] * (LENGTH - PROMPT))

    def rows(name: str) -> list[Example]:
        return [Example(f"{name}{n}", prompt, answer, f"{name}{n}", f"{name}{n}") for n in range(ROWS)]

    config, settings = config_of(case)
    # What is loaded with the first step of any model is no memory of this one, and neither are libraries.
    importlib.import_module("peft")
    torch.ones(64, 64, requires_grad=True).matmul(torch.ones(64, 64)).sum().backward()
    gc.collect()
    before = resident("VmRSS")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearnConfig(
            output_dir=folder,
            max_steps=2,
            end="never",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        )
        trainer = UnlearnTrainer(
            model=model,
            args=args,
            forget_dataset=rows("forget"),
            retain_dataset=rows("retain"),
            processing_class=tokenizer,
        )
        # Loading and preparing a run are done: what counts are its steps.
        trainer.train()
    return resident("VmHWM") - before


def run_case(case: str) -> dict[str, int]:
    """Both figures of a case, measured in a new process."""
    command = [sys.executable, __file__, "--case", case]
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return {"planned": planned(case), "measured": int(json.loads(done.stdout.splitlines()[-1])["measured"])}


def page(results: dict[str, dict[str, int]]) -> str:
    """The table."""
    lines = ["# Planned and measured memory", "", "Made by `python benchmarks/plan_memory.py --write`.", ""]
    lines += ["| run | planned | measured | planned / measured |", "|---|---|---|---|"]
    for case, each in results.items():
        ratio = each["planned"] / each["measured"]
        lines.append(
            f"| {case} | {each['planned'] / 2**20:.0f} MiB | {each['measured'] / 2**20:.0f} MiB | {ratio:.2f} |"
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    lines += [
        "",
        "Random models of 8 layers and width 512, a vocabulary of 32,000, float32, AdamW; in a step "
        f"{BATCH} forget and {BATCH} retain rows of {LENGTH} tokens, {LENGTH - PROMPT} of them answer. Measured is "
        "the highest resident memory of a fresh process that makes two steps, less that before the model was there. "
        "Memory "
        f"on a GPU has not been measured. {versions}, Python {platform.python_version()}, on a CPU.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """One case in this process, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), help="measure one case in this process")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps({"measured": measured(arguments.case)}))
        return
    results = {}
    for case in CASES:
        results[case] = run_case(case)
        print(case, {key: f"{value / 2**20:.0f} MiB" for key, value in results[case].items()}, flush=True)
        if arguments.write:
            PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
