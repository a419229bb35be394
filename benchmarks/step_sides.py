"""One side of one training step, measured in this process: what `trainer_cost.py` runs in processes of its own."""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peer_steps import STEPS, PeerStep, saliency
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import pad_rows

if TYPE_CHECKING:
    from hf_unlearn.trainer import UnlearnTrainer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OURS: dict[str, dict[str, Any]] = {
    "graddiff": {"loss_type": "ga", "retain_loss_type": "nll"},
    "npo-nll": {"loss_type": "npo", "retain_loss_type": "nll"},
    "npo-kl": {"loss_type": "npo", "retain_loss_type": "kl"},
    "simnpo": {"loss_type": "simnpo", "retain_loss_type": "nll"},
    "rmu": {"loss_type": "rmu", "retain_loss_type": "hidden"},
    "sure": {"loss_type": "ga", "retain_loss_type": "nll", "robust": ["sure-rows"]},
    "sam": {"loss_type": "npo", "retain_loss_type": "nll", "robust": ["sam"]},
    # Two whole rounds in 24 steps; phases as long in proportion as those of a recipe.
    "auto": {
        **{"loss_type": "ga", "retain_loss_type": "kl", "retain_per_forget": 2, "lr_scheduler_type": "constant"},
        "robust": [{"name": "auto", "unlearn_passes": 0.13, "heal_passes": 0.25, "rehearse_passes": 0.11}],
    },
}
BY_MEAN = ("auto",)
"""Methods whose steps differ: a mean over all of them is told, and not their median."""

MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
UNCUT = 10**9
"""More tokens than any micro-batch has."""


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
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
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

    def median(self, warm: int) -> float:
        """Seconds of a step, without the first ones."""
        passed = [later - earlier for earlier, later in zip(self.starts, self.starts[1:], strict=False)]
        return statistics.median(passed[warm:])

    def mean(self, warm: int) -> float:
        """Seconds of a step, over all but the first ones."""
        return (self.starts[-1] - self.starts[warm]) / (len(self.starts) - 1 - warm)


class ProfiledSteps(TrainerCallback):
    """The profiler, on from a step to the end."""

    def __init__(self, device: str, warm: int) -> None:
        activity = torch.profiler.ProfilerActivity
        kinds = [activity.CPU, *([activity.CUDA] if device == "cuda" else [])]
        self._profiler = torch.profiler.profile(activities=kinds, with_flops=True)
        self._device, self._warm, self._began, self._seconds, self._steps = device, warm, 0.0, 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._warm:
            self._profiler.start()
            synchronize(self._device)
            self._began = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronize(self._device)
        self._seconds = time.perf_counter() - self._began
        self._steps = state.global_step - self._warm
        self._profiler.stop()

    def figures(self) -> dict[str, float]:
        """Means over the profiled steps."""
        own = "self_device_time_total" if self._device == "cuda" else "self_cpu_time_total"
        products = [event for event in self._profiler.key_averages() if event.key in MATRIX_PRODUCTS]
        return {
            "seconds": self._seconds / self._steps,
            "matrix_seconds": sum(getattr(event, own) for event in products) / 1e6 / self._steps,
            "matrix_tflop": sum(event.flops for event in products) / 1e12 / self._steps,
        }


def run_ours(args: argparse.Namespace, method: str) -> dict[str, float]:
    """This package: `UnlearnTrainer.train`, references and all."""
    memory = Memory(args.device)
    times = StepTimes(args.device, args.clock)
    train(args, settings_of(args, method), times)
    seconds = times.mean(args.warm) if method in BY_MEAN else times.median(args.warm)
    return {"seconds": seconds, "bytes": memory.used()}


def run_both(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Both sides in one process, which on a GPU says the same of memory; `auto` is held against NPO + KL."""
    peer = run_peer(args, "npo-kl" if method in BY_MEAN else method)
    gc.collect()
    return {"peer": peer, "ours": run_ours(args, method), "floor": floor(args)}


VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"bf16": False},
    "bf16": {"bf16": True},
    "compile": {"bf16": False, "torch_compile": True},
}


def run_compared(args: argparse.Namespace, method: str, variants: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of a step, variant after variant in turn, as often as ``args.repeats`` says.

    What else the machine does meets all of them alike, so the ratios of each turn can be compared.
    """
    found: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            times = StepTimes(args.device, args.clock)
            train(args, {**settings_of(args, method), **VARIANTS[variant]}, times)
            found[variant].append(times.median(args.warm))
            gc.collect()
    return found


def run_pieces(args: argparse.Namespace, method: str, tokens: int) -> dict[str, float]:
    """This package with passes of at most so many tokens; 0 for a micro-batch in one pass."""
    times = StepTimes(args.device, args.clock)
    train(args, {**settings_of(args, method), "pass_tokens": tokens or UNCUT}, times)
    return {"seconds": times.median(args.warm)}


def run_profile(args: argparse.Namespace, method: str) -> dict[str, float]:
    """This package under the profiler, the first steps left out.

    Returns:
        ``seconds`` of a step, ``matrix_seconds`` of it in matrix products (attention's own kernel not counted), and
        ``matrix_tflop`` of those products.
    """
    profiled = ProfiledSteps(args.device, args.warm)
    train(args, settings_of(args, method), profiled)
    return profiled.figures()


def settings_of(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Fields of ``UnlearnConfig``."""
    if method != "rmu":
        return dict(OURS[method])
    layer = {"layer": args.layers // 2}
    return {**OURS[method], "loss_kwargs": layer, "retain_loss_kwargs": layer}


def train(args: argparse.Namespace, settings: dict[str, Any], callback: TrainerCallback) -> None:
    """A whole run on the rows as they are."""
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(args, settings, callback, folder).train()


def make_trainer(
    args: argparse.Namespace, settings: dict[str, Any], callback: TrainerCallback, folder: str
) -> UnlearnTrainer:
    """A trainer of a new model on the rows as they are.

    Args:
        args: Sizes.
        settings: Fields of ``UnlearnConfig``.
        callback: Called by the trainer.
        folder: Where the run may write.
    """
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
    config = UnlearnConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=10_000,
        disable_tqdm=True,
        use_cpu=args.device == "cpu",
        **{"bf16": args.bf16, "max_steps": args.steps + args.warm, **settings},
    )
    return UnlearnTrainer(make_model(args), config, forget, retain, processing_class=tokenizer, callbacks=[callback])


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
