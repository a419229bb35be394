"""Time and memory of a training step beside how common code computes it (peer_steps.py).

    python benchmarks/trainer_cost.py                                # CPU, about 15 minutes on two quiet cores
    python benchmarks/trainer_cost.py --data forget10.jsonl          # TOFU's own rows
    python benchmarks/trainer_cost.py --steps 3 --methods npo-nll rmu --output /tmp/cost.md
    python benchmarks/trainer_cost.py --device cuda --layers 16 --width 2048 --vocabulary 128256 --bf16 --length 512

Each side of each method runs in processes of its own: same model, rows, batch, precision, optimizer (fused AdamW) and
clipping. Time is the median over steps after the first ones; on a machine that others use too, `--clock cpu` counts
processor time instead (with OMP_NUM_THREADS=1 about what a quiet core would take). Memory is the process's peak less
what it held before the model was made, all libraries loaded by a small run (on a GPU: the allocator's peak). For
memory the C library is told to give freed tensors back, or the figure would be about its heap. The floor is what no
implementation can save: multiplications for real tokens only, with the output head at label positions only, three
times the forward's, and for memory weights, gradients and optimizer state. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peer_steps import STEPS, PeerStep, saliency
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import pad_rows

RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OURS: dict[str, dict[str, Any]] = {
    "graddiff": {"loss_type": "ga", "retain_loss_type": "nll"},
    "npo-nll": {"loss_type": "npo", "retain_loss_type": "nll"},
    "npo-kl": {"loss_type": "npo", "retain_loss_type": "kl"},
    "simnpo": {"loss_type": "simnpo", "retain_loss_type": "nll"},
    "rmu": {"loss_type": "rmu", "retain_loss_type": "hidden"},
    "sure": {"loss_type": "ga", "retain_loss_type": "nll", "robust": ["sure-rows"]},
    "sam": {"loss_type": "npo", "retain_loss_type": "nll", "robust": ["sam"]},
}


def made_rows(count: int, vocabulary: int, seed: int, longest: int) -> list[EncodedRow]:
    """Random tokens in lengths like those of TOFU: questions of about 22 tokens, answers of about 50."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        question = max(10, round(draw.gauss(22, 6)))
        answer = max(8, round(draw.gauss(50, 18)))
        if longest:  # all rows as long as asked
            question, answer = longest // 4, longest - longest // 4
        tokens = tuple(draw.randrange(5, vocabulary) for _ in range(question + answer))
        rows.append(EncodedRow(f"row-{seed}-{number}", tokens, question))
    return rows


def read_rows(path: Path, vocabulary: int, skip: int, count: int) -> list[EncodedRow]:
    """Questions and answers of a file, about 1.35 tokens a word; which tokens does not change a cost."""
    draw, rows = random.Random(skip), []
    for line in path.read_text(encoding="utf-8").splitlines()[skip : skip + count]:
        record = json.loads(line)
        lengths = [round(1.35 * len(record[key].split())) + 2 for key in ("question", "answer")]
        tokens = tuple(draw.randrange(5, vocabulary) for _ in range(sum(lengths)))
        rows.append(EncodedRow(f"row-{skip + len(rows)}", tokens, lengths[0]))
    return rows


def make_model(args: argparse.Namespace) -> LlamaForCausalLM:
    """A Llama of the given size, in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.width * 11 // 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64,
        num_key_value_heads=args.width // 64,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).to(args.device)


def rows_of(args: argparse.Namespace) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Forget and retain rows for the whole run."""
    count = args.batch * (args.steps + args.warm)
    if args.data:
        rows = read_rows(args.data, args.vocabulary, 0, 2 * count)
        return rows[0::2], rows[1::2]
    return tuple(made_rows(count, args.vocabulary, seed, args.length) for seed in (1, 2))  # type: ignore[return-value]


class Memory:
    """Peak memory since this was made, in bytes."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._before = 0 if self._cuda else self._peak()

    def _peak(self) -> int:
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def used(self) -> int:
        """Peak less what was held at the start."""
        return self._peak() - self._before


def run_peer(args: argparse.Namespace, method: str) -> dict[str, float]:
    """The other side: a plain loop."""
    memory = Memory(args.device)
    step: PeerStep = STEPS[method](make_model(args), method, args.layers // 2)
    forget, retain = rows_of(args)
    times = []
    for number in range(args.steps + args.warm):
        part = slice(number * args.batch, (number + 1) * args.batch)
        batch: Any = {"forget": pad_rows(forget[part], range(args.batch), 0)}
        batch["retain"] = pad_rows(retain[part], range(args.batch), 0)
        for rows in batch.values():
            del rows["row"]
        batch = {name: {key: each.to(args.device) for key, each in rows.items()} for name, rows in batch.items()}
        synchronize(args.device)
        start = CLOCKS[args.clock]()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            step(batch)
        synchronize(args.device)
        times.append(CLOCKS[args.clock]() - start)
    return {"seconds": statistics.median(times[args.warm :]), "bytes": memory.used()}


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


class StepTimes(TrainerCallback):
    """From one step's start to the next one's: data, passes, clipping, step and callbacks."""

    def __init__(self, device: str, clock: str) -> None:
        self._device, self._clock = device, CLOCKS[clock]
        self.starts: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronize(self._device)
        self.starts.append(self._clock())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step_begin(args, state, control)


def run_ours(args: argparse.Namespace, method: str) -> dict[str, float]:
    """This package: `UnlearnTrainer.train`, references and all."""
    memory = Memory(args.device)
    times = StepTimes(args.device, args.clock)
    settings = dict(OURS[method])
    if method == "rmu":
        settings["loss_kwargs"] = {"layer": args.layers // 2}
        settings["retain_loss_kwargs"] = {"layer": args.layers // 2}
    train(args, settings, times)
    passed = [later - earlier for earlier, later in zip(times.starts, times.starts[1:], strict=False)]
    return {"seconds": statistics.median(passed[args.warm :]), "bytes": memory.used()}


def train(args: argparse.Namespace, settings: dict[str, Any], times: StepTimes) -> None:
    """A whole run on the rows as they are."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from hf_unlearn.data.example import Example
    from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{number}": number for number in range(3, args.vocabulary)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")

    def example(row: EncodedRow) -> Example:
        text = [f"w{token}" for token in row.input_ids[:-1]]  # the end of the answer is added
        parts = " ".join(text[: row.n_prompt]), " " + " ".join(text[row.n_prompt :])
        return Example(row.id, *parts, row.id, row.id)

    forget, retain = ([example(row) for row in rows] for rows in rows_of(args))
    with tempfile.TemporaryDirectory() as folder:
        config = UnlearnConfig(
            output_dir=folder,
            per_device_train_batch_size=args.batch,
            max_steps=args.steps + args.warm,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_steps=10_000,
            disable_tqdm=True,
            use_cpu=args.device == "cpu",
            bf16=args.bf16,
            **settings,
        )
        trainer = UnlearnTrainer(
            make_model(args), config, forget, retain, processing_class=tokenizer, callbacks=[times]
        )
        trainer.train()


def load_libraries(args: argparse.Namespace) -> None:
    """Everything that either side imports, by a run too small to count."""
    small = {"layers": 1, "width": 64, "vocabulary": 64, "batch": 1, "steps": 1, "warm": 1, "length": 8, "data": None}
    train(argparse.Namespace(**{**vars(args), **small}), OURS["npo-kl"], StepTimes(args.device, args.clock))


def run_saliency(args: argparse.Namespace) -> dict[str, float]:
    """SURE's row mask of given gradients, both ways, in one process."""
    from hf_unlearn.robust.sure_rows import row_scores, select_rows

    gradients = {name: torch.randn_like(parameter) for name, parameter in make_model(args).named_parameters()}
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for _ in range(3):
        for side, compute in (
            ("peer", lambda: saliency(gradients, 90)),
            ("ours", lambda: select_rows(row_scores(gradients), 90)),
        ):
            start = CLOCKS[args.clock]()
            compute()
            times[side].append(CLOCKS[args.clock]() - start)
    return {side: statistics.median(values) for side, values in times.items()}


def floor(args: argparse.Namespace) -> dict[str, float]:
    """Multiply-adds and bytes that no implementation of a two-term step on all weights can save."""
    forget, retain = rows_of(args)
    rows = [*forget[: args.batch], *retain[: args.batch]]
    tokens = sum(len(row.input_ids) for row in rows)
    labels = sum(len(row.input_ids) - row.n_prompt for row in rows)
    layer = 4 * args.width**2 + 3 * args.width * (args.width * 11 // 4)
    attention = sum(2 * len(row.input_ids) ** 2 * args.width for row in rows)
    weights = args.layers * layer + 2 * args.vocabulary * args.width
    forward = args.layers * (tokens * layer + attention) + labels * args.vocabulary * args.width
    return {"tflop": 3 * 2 * forward / 1e12, "bytes": 16 * weights}


def measured(args: argparse.Namespace, words: list[str]) -> dict[str, float]:
    """Time of one side and its memory, each in a process of its own: freed tensors that are given back cost time."""
    timed = run_child(args, words, {})
    return {**timed, "bytes": run_child(args, words, RETURNED)["bytes"]} if "bytes" in timed else timed


def run_child(args: argparse.Namespace, words: list[str], variables: dict[str, str]) -> dict[str, float]:
    """What a process that does one side prints."""
    command = [sys.executable, __file__, *args.passed, "--child", *words]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if result.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{result.stderr[-2000:]}")
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    for name, default in (
        ("layers", 8),
        ("width", 512),
        ("vocabulary", 32000),
        ("batch", 8),
        ("steps", 8),
        ("warm", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--length", type=int, default=0, help="tokens of every row; 0 for lengths like TOFU's")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.passed = [word for word in sys.argv[1:] if word != "--child"]
    if args.child:
        load_libraries(args)
        sides = {"peer": run_peer, "ours": run_ours}
        made = run_saliency(args) if args.child == ["saliency"] else sides[args.child[0]](args, args.child[1])
        print(json.dumps(made))
        return
    lines = header(args)
    for method in args.methods:
        peer, ours = (measured(args, [side, method]) for side in ("peer", "ours"))
        ratio = [ours[key] / peer[key] for key in ("seconds", "bytes")]
        times, sizes = ((peer[key], ours[key]) for key in ("seconds", "bytes"))
        row = f"| {method} | {times[0]:.2f} s | {times[1]:.2f} s | **{ratio[0]:.2f}** | {sizes[0] / 2**30:.2f} GiB |"
        lines.append(f"{row} {sizes[1] / 2**30:.2f} GiB | **{ratio[1]:.2f}** |")
        print(lines[-1], flush=True)
    both = measured(args, ["saliency"])
    lines += ["", f"SURE's row mask of given gradients: {both['peer']:.2f} s by a dictionary entry per row, "]
    lines[-1] += f"{both['ours']:.3f} s in tensors: **{both['peer'] / both['ours']:.0f} times** faster."
    print(lines[-1])
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def header(args: argparse.Namespace) -> list[str]:
    """What was measured where."""
    least = floor(args)
    # Where somebody keeps the rows is nobody's business.
    words = [Path(word).name if "/" in word else word for word in args.passed]
    command = " ".join(["python benchmarks/trainer_cost.py", *words])
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return [
        "# Cost of a training step",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d')}: {where}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {version('transformers')}, "
        f"{args.clock} time; {args.layers} layers, width {args.width}, "
        f"vocabulary {args.vocabulary}, {args.batch} forget and {args.batch} retain rows a step, "
        f"{'bf16 autocast over ' if args.bf16 else ''}float32 weights.",
        "",
        f"Floor of a step on all weights (graddiff, simnpo, npo-nll): {least['tflop']:.2f} TFLOP, and "
        f"{least['bytes'] / 2**30:.2f} GiB for weights, gradients and optimizer state.",
        "",
        "| method | peer, a step | here | ratio | peer, peak | here | ratio |",
        "|---|---|---|---|---|---|---|",
    ]


if __name__ == "__main__":
    main()
