"""Several retraining jobs on one base in one forward and backward pass, against the same jobs one after the other.

    python benchmarks/batched_folds.py                          # some minutes on a quiet core
    python benchmarks/batched_folds.py --models small --jobs 1 2 --steps 1 --repeats 1     # a short look
    python benchmarks/batched_folds.py --write                  # also into benchmarks/batched_folds.md

The jobs are those of ``rtt``: five folds at one rate, then the same folds at another one. They share the frozen base,
batch size and number of steps; each has its own rows, rate, clipping and AdamW. Rows of job ``j`` are the ``j``-th
block of the batch. Adapters have the jobs as their first dimension, so that a layer is one product with the base for
all rows, and two batched products with the adapters. All numbers of a job lie in one row of a matrix, which a fused
AdamW steps as one parameter with the job's own rate. For whole weights nothing is shared: ``torch.func.vmap`` runs the
model over stacked weights.

Sides of LoRA: the package (peft, one job at a time), the stacked layers with one job at a time, and with all jobs in a
pass. Sides of whole weights: the package, and the stacked weights. Everything starts from the same weights, and
``tests/benchmarks/test_batched_folds.py`` shows in float64 that each job ends with those the package ends with.
Times are of optimizer steps alone, without loading and scoring: in turns, medians, processor time of one thread, which
is what a worker has; with ``--wall`` wall time too, which means something only where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from pages import command_line, made_by, write_sections
from pages import table as markdown
from torch import Tensor, nn

from hf_unlearn.attacks.model_cache import CachedModel
from hf_unlearn.attacks.retrained_model import Retraining, Texts, shuffled_epochs
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import EncodedRow, TextFormat
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.pairing import PaddedRows, pad_rows
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.losses.base import label_positions
from hf_unlearn.losses.fused import label_logps
from hf_unlearn.models.head import narrowed_head, output_head
from hf_unlearn.models.limits import padding_id

PAGE = Path(__file__).with_suffix(".md")
RATES = (1e-3, 3e-4)
FOLDS = 5
NO_LABEL = EncodedRow("none", (0,), 1)
"""Fills up the block of a job that has fewer rows left than another one."""


@dataclass(frozen=True)
class Size:
    """A Llama that is attacked.

    Attributes:
        hidden: Its width.
        inner: Width of the MLP.
        layers: How many.
        heads: Attention heads.
        kv_heads: Key-value heads.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {"small": Size(128, 384, 4, 4, 2), "wide": Size(576, 1536, 6, 9, 3)}


@dataclass(frozen=True)
class FoldJob:
    """One retraining job.

    Attributes:
        texts: What is trained on.
        batches: The same as encoded rows, one item a step.
        rate: The learning rate.
    """

    texts: Texts
    batches: Sequence[Sequence[EncodedRow]]
    rate: float


@dataclass(frozen=True)
class Clock:
    """Processor and wall seconds."""

    work: float
    wall: float

    @classmethod
    def now(cls) -> Clock:
        """The present."""
        return cls(time.process_time(), time.perf_counter())

    def since(self, start: Clock) -> Clock:
        """What has passed."""
        return Clock(self.work - start.work, self.wall - start.wall)


class Stacked:
    """Weights of several jobs: a row of numbers for each job, and views of all rows for the layers.

    Args:
        first: What every job starts from, by name.
        jobs: How many there are.

    Attributes:
        values: ``[jobs, numbers]``.
        gradients: The same of the gradients, which are added up in place.
        weights: By name ``[jobs, *shape]``, in the memory of ``values``.
    """

    def __init__(self, first: Mapping[str, Tensor], jobs: int) -> None:
        self.values = torch.cat([weight.detach().flatten() for weight in first.values()]).repeat(jobs, 1)
        self.gradients = torch.zeros_like(self.values)
        self.weights: dict[str, nn.Parameter] = {}
        start = 0
        for name, weight in first.items():
            here = slice(start, start + weight.numel())
            self.weights[name] = nn.Parameter(self.values[:, here].unflatten(1, weight.shape))
            self.weights[name].grad = self.gradients[:, here].unflatten(1, weight.shape)
            start = here.stop

    def train(
        self,
        jobs: Sequence[FoldJob],
        add_gradients: Callable[[Sequence[Sequence[EncodedRow]]], None],
        warmup: int,
        max_norm: float = 1.0,
    ) -> None:
        """Take all steps of the jobs, each with its own rate and its own clipping.

        Args:
            jobs: All with the same number of batches.
            add_gradients: Adds the gradients of one batch of each job.
            warmup: Steps in which the rate rises.
            max_norm: Gradients of each job are clipped to it.
        """
        rows = [nn.Parameter(row) for row in self.values]
        for row, gradient in zip(rows, self.gradients, strict=True):
            row.grad = gradient
        groups = [{"params": [row], "lr": job.rate} for row, job in zip(rows, jobs, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (step + 1) / warmup if step < warmup else 1.0
        )
        for batches in zip(*(job.batches for job in jobs), strict=True):
            self.gradients.zero_()
            add_gradients(batches)
            norms = self.gradients.norm(dim=1, keepdim=True)
            self.gradients.mul_((max_norm / (norms + 1e-6)).clamp(max=1.0))
            optimizer.step()
            schedule.step()


class StackedAdapter(nn.Module):
    """A linear layer with an adapter for each block of rows.

    Args:
        layer: The frozen layer.
        down: ``[jobs, rank, in]``.
        up: ``[jobs, out, rank]``.
        scale: Factor on what the adapters add.
    """

    def __init__(self, layer: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.down, self.up = down, up

    def forward(self, states: Tensor) -> Tensor:
        """``[jobs * rows, time, in]`` to ``[jobs * rows, time, out]``."""
        base = self.layer(states)
        jobs = len(self.down)
        low = torch.bmm(states.reshape(jobs, -1, states.shape[-1]), self.down.transpose(1, 2))
        blocks = base.view(jobs, -1, base.shape[-1])
        return torch.baddbmm(blocks, low, self.up.transpose(1, 2), alpha=self.scale).view_as(base)


def first_adapters(settings: RTT, model: Any) -> dict[str, Tensor]:
    """The adapters that each job of the package starts from: ``LAYER.lora_A`` and ``LAYER.lora_B``."""
    with settings.trained.applied(settings.name, model, settings.order) as adapted:
        return {
            name.removeprefix("base_model.model.").removesuffix(".default.weight"): weight.detach().clone()
            for name, weight in adapted.named_parameters()
            if weight.requires_grad
        }


@contextmanager
def stacked_adapters(model: nn.Module, first: Mapping[str, Tensor], jobs: int) -> Iterator[Stacked]:
    """Adapters of so many jobs on a model, within the block."""
    stack = Stacked(first, jobs)
    places = [name.removesuffix(".lora_A") for name in first if name.endswith(".lora_A")]
    layers = {place: model.get_submodule(place) for place in places}
    try:
        for place, layer in layers.items():
            down, up = stack.weights[f"{place}.lora_A"], stack.weights[f"{place}.lora_B"]
            _put(model, place, StackedAdapter(layer, down, up, 2.0))
        yield stack
    finally:
        for place, layer in layers.items():
            _put(model, place, layer)


def _put(model: nn.Module, place: str, layer: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def in_one_batch(batches: Sequence[Sequence[EncodedRow]], padding: int) -> PaddedRows:
    """One batch of each job as one: equally many rows of each, one job after the other."""
    most = max(map(len, batches))
    rows = [row for batch in batches for row in (*batch, *[NO_LABEL] * (most - len(batch)))]
    return pad_rows(rows, range(len(rows)), padding)


def train_adapters(
    model: Any, first: Mapping[str, Tensor], jobs: Sequence[FoldJob], padding: int, warmup: int
) -> Stacked:
    """Train the adapters of all jobs in the same passes."""

    def add_gradients(batches: Sequence[Sequence[EncodedRow]]) -> None:
        batch = in_one_batch(batches, padding)
        positions = label_positions(batch["labels"])
        rows, times = positions.nonzero(as_tuple=True)
        with narrowed_head(output_head(model), (rows, times)):
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits
        losses = -label_logps(logits, batch["labels"][rows, times + 1])
        counts = positions.view(len(jobs), -1).sum(1)
        (losses / counts[rows * len(jobs) // len(positions)]).sum().backward()

    model.train()
    with stacked_adapters(model, first, len(jobs)) as stack:
        stack.train(jobs, add_gradients, warmup)
    return stack


def train_whole(model: Any, jobs: Sequence[FoldJob], padding: int, warmup: int) -> Stacked:
    """Train whole weights of all jobs in the same passes, by ``vmap`` over stacked weights."""
    stack = Stacked(dict(model.named_parameters()), len(jobs))

    def loss_of_job(
        weights: Mapping[str, Tensor], ids: Tensor, places: Tensor, labels: Tensor, parts: Tensor
    ) -> Tensor:
        body = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
        # Causal, and padding is on the right: no label sees any of it.
        states = torch.func.functional_call(model.model, body, (ids,), {"use_cache": False}).last_hidden_state
        logits = states.flatten(0, 1)[places] @ weights["lm_head.weight"].T
        return (parts * nn.functional.cross_entropy(logits, labels, reduction="none")).sum()

    def add_gradients(batches: Sequence[Sequence[EncodedRow]]) -> None:
        batch = in_one_batch(batches, padding)
        blocks = [batch[name].unflatten(0, (len(jobs), -1)) for name in ("input_ids", "labels")]
        losses = torch.func.vmap(loss_of_job)(
            stack.weights, blocks[0], *_labels_of_jobs(blocks[1], stack.values.dtype)
        )
        losses.sum().backward()

    model.train()
    stack.train(jobs, add_gradients, warmup)
    return stack


def _labels_of_jobs(labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Where labels are predicted in each job's block, the labels, and their parts of its mean: ``[jobs, most]``."""
    found = [label_positions(block).flatten().nonzero()[:, 0] for block in labels]
    shape = len(found), max(map(len, found))
    places, ids, parts = (torch.zeros(shape, dtype=kind) for kind in (torch.long, torch.long, dtype))
    for job, here in enumerate(found):
        places[job, : len(here)] = here
        ids[job, : len(here)] = labels[job].flatten()[here + 1]
        parts[job, : len(here)] = 1 / len(here)
    return places, ids, parts


def make_jobs(bundle: DataBundle, settings: RTT, cached: CachedModel, count: int, steps: int) -> list[FoldJob]:
    """The first ``count`` jobs: all folds at one rate, then at the next."""
    found = []
    for number in range(count):
        texts = settings.lesson(bundle, TextFormat(), number % FOLDS).texts
        encoded = Retraining(settings, cached, cached.model).encode(texts)
        batches = islice(_batches(encoded, settings), steps)
        found.append(FoldJob(texts, list(batches), RATES[number // FOLDS]))
    return found


def _batches(rows: Sequence[EncodedRow], settings: RTT) -> Iterator[list[EncodedRow]]:
    size = settings.batch_size
    for order in shuffled_epochs(len(rows), settings.epochs, settings.order):
        for start in range(0, len(order), size):
            yield [rows[index] for index in order[start : start + size]]


def train_by_package(settings: RTT, cached: CachedModel, job: FoldJob) -> tuple[dict[str, Tensor], Clock]:
    """One job as the package trains it; what was trained, by name, and what its steps took."""
    with settings.trained.applied(settings.name, cached.model, settings.order) as trained:
        start = Clock.now()
        assert list(Retraining(settings, cached, trained).until(job.texts, job.rate, [len(job.batches)])) == [True]
        took = Clock.now().since(start)
        weights = {
            name: weight.detach().clone() for name, weight in trained.named_parameters() if weight.requires_grad
        }
    return weights, took


def make_model(folder: Path, bundle: DataBundle, size: Size, vocabulary: int = 0) -> CachedModel:
    """A random Llama with a tokenizer made of the texts: what it knows changes nothing of the cost.

    Args:
        folder: Gets the tokenizer.
        bundle: The texts.
        size: Of the model.
        vocabulary: Rows of its embedding, where there are to be more than the tokenizer has tokens.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_unlearn.data.encoding import load_tokenizer
    from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer
    from hf_unlearn.stages.models import tokenizer_texts

    tokenizer = build_tokenizer(tokenizer_texts(bundle), ScratchSpec(vocab_size=1024, max_positions=256))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM(config).requires_grad_(False)
    return CachedModel("benchmark", model, load_tokenizer(str(folder)))


Times = dict[tuple[str, int], list[Clock]]
"""By side and number of jobs, one per turn."""
PACKAGE, APART, TOGETHER = "the package", "stacked layers one by one", "in one pass"


def measure(
    cached: CachedModel, bundle: DataBundle, settings: RTT, counts: Sequence[int], steps: int, repeats: int
) -> Times:
    """All sides in turn, after one step of each that is not counted."""
    jobs = make_jobs(bundle, settings, cached, max(counts), steps)
    padding = padding_id(cached.tokenizer, cached.model)
    first = first_adapters(settings, cached.model) if settings.tuning == "lora" else {}

    def passes(of: Sequence[FoldJob]) -> Clock:
        start = Clock.now()
        if settings.tuning == "lora":
            train_adapters(cached.model, first, of, padding, settings.warmup_steps)
        else:
            train_whole(cached.model, of, padding, settings.warmup_steps)
        return Clock.now().since(start)

    one_by_one: dict[str, Callable[[FoldJob], Clock]] = {
        PACKAGE: lambda job: train_by_package(settings, cached, job)[1]
    }
    if settings.tuning == "lora":
        one_by_one[APART] = lambda job: passes([job])
    short = [FoldJob(job.texts, job.batches[:1], job.rate) for job in jobs[:2]]
    cached.keep_weights()
    for run in (*one_by_one.values(), lambda job: passes([job, short[1]])):
        run(short[0])
        cached.restore()
    found: Times = defaultdict(list)
    for _ in range(repeats):
        for side, run in one_by_one.items():
            passed = Clock(0, 0)
            for number, job in enumerate(jobs, start=1):
                took = run(job)
                cached.restore()
                passed = Clock(passed.work + took.work, passed.wall + took.wall)
                if number in counts:
                    found[side, number].append(passed)
        for count in counts:
            found[TOGETHER, count].append(passes(jobs[:count]))
            cached.restore()
        print({key: [round(each.work, 2) for each in values] for key, values in found.items()}, flush=True)
    return found


def times_table(times: Times, counts: Sequence[int], steps: int, *, wall: bool) -> str:
    """Milliseconds of a step of one job, and how many times less one pass takes, in the median of turns."""
    kinds = {"work": "processor", **({"wall": "wall"} if wall else {})}
    sides = [side for side in (PACKAGE, APART) if (side, counts[0]) in times]
    rows = []
    for count in counts:
        together = times[TOGETHER, count]
        cells = [_each([clock.work for clock in times[side, count]], count, steps) for side in sides]
        cells.append(_each([clock.work for clock in together], count, steps))
        for kind in kinds:
            for side in sides:
                pairs = zip(times[side, count], together, strict=True)
                cells.append(_ratio([getattr(one, kind) / getattr(other, kind) for one, other in pairs]))
        rows.append([str(count), *cells])
    header = ["jobs", *(f"{side}, ms" for side in (*sides, TOGETHER))]
    header += [f"times less {kind} time than {side}" for kind in kinds.values() for side in sides]
    return markdown(header, rows)


def _each(values: Sequence[float], count: int, steps: int) -> str:
    return f"{1000 * statistics.median(values) / count / steps:.0f}"


def _ratio(values: Sequence[float]) -> str:
    return f"**{statistics.median(values):.2f}** ({min(values):.2f} to {max(values):.2f})"


def section(cached: CachedModel, bundle: DataBundle, options: argparse.Namespace, tuning: Any) -> str:
    """One table, and what was run."""
    settings = RTT(folds=FOLDS, learning_rates=RATES, batch_size=16, tuning=tuning, lora_rank=16, patience=0)
    made = made_by(command_line(__file__), "peft")
    times = measure(cached, bundle, settings, options.jobs, options.steps, options.repeats)
    weights = sum(weight.numel() for weight in cached.model.parameters()) / 1e6
    config, jobs = cached.model.config, make_jobs(bundle, settings, cached, 1, options.steps)
    tokens = [len(row.input_ids) for batch in jobs[0].batches for row in batch]
    about = (
        f"{settings.trained.describe()}; a Llama of {config.num_hidden_layers} layers and width {config.hidden_size}, "
        f"{weights:.1f} million weights, float32. Each job takes {options.steps} steps of 16 rows of "
        f"{statistics.mean(tokens):.0f} tokens in the mean. Milliseconds of processor time of one step of one job; "
        f"medians of {options.repeats} turns, ratios within a turn, in brackets the least and the greatest."
    )
    return "\n\n".join([made, about, times_table(times, options.jobs, options.steps, wall=options.wall)])


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--tuning", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2, 5, 10])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="wall time too: on a machine without other work")
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bundle = make_planted(PlantedSpec(forget=100, retain=1, holdout=0, practice=0, generic=20))
    found = {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as place:
            cached = make_model(Path(place), bundle, SIZES[name])
            for tuning in options.tuning:
                found[f"{name}-{tuning}"] = section(cached, bundle, options, tuning)
                print(found[f"{name}-{tuning}"], flush=True)
    if options.write:
        write_sections(PAGE, "Folds in one pass", found)


if __name__ == "__main__":
    main()
