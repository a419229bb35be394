"""Ways to make one training step, in turn on the same rows, by processor time: padded, packed, and the other side's.

    python benchmarks/step_turns.py --methods npo-nll npo-kl --write packing          # some minutes of processor time
    python benchmarks/step_turns.py --methods simnpo graddiff --ways peer padded --write peers
    python benchmarks/step_turns.py --ways padded compiled --layers 4 --width 256 --length 64 --write compile

A turn makes a whole step (passes, clipping, fused AdamW) of one micro-batch in every way and precision, one after the
other in one process, so that whatever else the machine does meets all of them alike; each turn has other rows. All our
ways step one model through the trainer's own objective and references; the other side (peer_steps.py) has a copy. Told
are medians over turns, and the least and greatest ratio of a turn to the first way in the same precision. Before the
first turn, each way makes a step of one row that is not counted. A compiled way makes a whole step first, whose time,
compilers that it starts included, is told apart.
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from packed_steps import backward_in_slices, block_masks
from pages import command_line, made_by, table, write_sections
from peer_steps import STEPS, PeerStep
from step_sides import OURS, make_trainer, run_saliency
from transformers import TrainerCallback

from hf_unlearn.data.pairing import PaddedRows
from hf_unlearn.trainer.microbatch import CPU_TOKENS, cut_by_length, cut_by_tokens
from hf_unlearn.trainer.objective import Objective
from hf_unlearn.trainer.padding_free import row_by_row

PAGE = Path(__file__).with_name("trainer_cost.md")
METHODS = ("graddiff", "npo-nll", "npo-kl", "simnpo")
PRECISIONS = {"float32": False, "bf16": True}
Batch = dict[str, PaddedRows]
Key = tuple[str, str]
"""A precision and a way."""


class Ways:
    """Every way to make a step of one method.

    Args:
        model: Stepped by all ways but ``peer``, which has a copy.
        objective: Of the run.
        method: One of :data:`METHODS`.
        chosen: Names of ways.
    """

    def __init__(self, model: Any, objective: Objective, method: str, chosen: list[str]) -> None:
        self._model, self._objective = model, objective
        self._peer: PeerStep | None = None
        if "peer" in chosen:
            self._peer = STEPS[method](copy.deepcopy(model), method, 0)
        self._decoder = model.model.forward
        self._compiled: Callable[..., Any] | None = None
        if "compiled" in chosen:
            self._compiled = torch.compile(self._decoder, dynamic=False)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(self, way: str, batch: Batch, bf16: bool) -> None:
        """A whole step."""
        made = {
            "peer": self._peers,
            "padded": self._padded,
            "packed-mask": lambda rows, bf16: self._packed(rows, bf16, block_masks(self._objective, self._model)),
            "packed-rows": lambda rows, bf16: self._packed(rows, bf16, row_by_row(self._model)),
            "compiled": self._in_compiled,
        }
        made[way](batch, bf16)

    def _peers(self, batch: Batch, bf16: bool) -> None:
        assert self._peer is not None
        bare: Any = {
            split: {key: tensor for key, tensor in rows.items() if key != "row"} for split, rows in batch.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            self._peer(bare)

    def _padded(self, batch: Batch, bf16: bool) -> None:
        self._ours(batch, cut_by_length(batch, CPU_TOKENS), bf16)

    def _packed(self, batch: Batch, bf16: bool, attention: AbstractContextManager[None]) -> None:
        with attention:
            self._ours(batch, cut_by_tokens(batch, CPU_TOKENS), bf16)

    def _in_compiled(self, batch: Batch, bf16: bool) -> None:
        self._model.model.forward = self._compiled
        try:
            self._padded(batch, bf16)
        finally:
            self._model.model.forward = self._decoder

    def _ours(self, batch: Batch, slices: list[Batch], bf16: bool) -> None:
        self._model.train()
        counts = self._objective.count([batch], torch.device("cpu"))
        backward_in_slices(self._objective, self._model, slices, counts, bf16)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._model.zero_grad(set_to_none=True)


class Measured(Exception):
    """Ends a run whose turns are over."""


class Turns(TrainerCallback):
    """Takes the turns where the first step would begin: references are there, and the step's micro-batches too.

    Attributes:
        objective: To be set before the run.
        found: Seconds of each turn, by precision and way.
        first: Seconds of the first whole step of each compiled way.
    """

    objective: Objective

    def __init__(self, args: argparse.Namespace, method: str) -> None:
        self._args, self._method = args, method
        self.found: dict[Key, list[float]] = {key: [] for key in keys_of(args)}
        self.first: dict[Key, float] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ways = Ways(kwargs["model"], self.objective, self._method, self._args.ways)
        turns: list[Any] = list(self.objective.batches)
        for precision, way in self.found:
            if way == "compiled":
                with timed(self.first, (precision, way)):
                    ways.step(way, turns[0], PRECISIONS[precision])
            else:
                ways.step(way, one_row(turns[0]), PRECISIONS[precision])
        for batch in turns:
            times: dict[Key, float] = {}
            for precision, way in self.found:
                with timed(times, (precision, way)):
                    ways.step(way, batch, PRECISIONS[precision])
            for key, seconds in times.items():
                self.found[key].append(seconds)
            print(self._method, {" ".join(key): round(seconds, 2) for key, seconds in times.items()}, flush=True)
        raise Measured


class timed:
    """Processor seconds of a block, compilers that it waits for included, put under a key."""

    def __init__(self, times: dict[Key, float], key: Key) -> None:
        self._times, self._key = times, key

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._times[self._key] = self._now() - self._start

    @staticmethod
    def _now() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + used.ru_utime + used.ru_stime


def keys_of(args: argparse.Namespace) -> list[Key]:
    """What a turn is made of, in order."""
    return [(precision, way) for precision in args.precisions for way in args.ways]


def one_row(batch: Batch) -> Batch:
    """The first row of each split."""
    return {split: {key: tensor[:1] for key, tensor in rows.items()} for split, rows in batch.items()}  # type: ignore


def take_turns(args: argparse.Namespace, method: str) -> Turns:
    """All turns of a method."""
    turns = Turns(args, method)
    settings = {**OURS[method], "max_steps": 1, "gradient_accumulation_steps": args.steps}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, settings, turns, folder)
        turns.objective = trainer.objective
        try:
            trainer.train()
        except Measured:
            return turns
    raise AssertionError("the run ended before its first step")


def rows_of_table(args: argparse.Namespace, method: str, found: Mapping[Key, list[float]]) -> Iterator[list[str]]:
    """A line per precision."""
    first, *others = args.ways
    for precision in args.precisions:
        least = found[precision, first]
        cells = [method, precision, f"{statistics.median(least):.2f} s"]
        for way in others:
            ratios = sorted(mine / its for mine, its in zip(found[precision, way], least, strict=True))
            cells.append(f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        yield cells


def first_steps(method: str, turns: Turns) -> Iterator[str]:
    """What compiling takes, and how many steps it would take to win that back."""
    for (precision, way), seconds in turns.first.items():
        gained = statistics.median(
            plain - own
            for plain, own in zip(turns.found[precision, "padded"], turns.found[precision, way], strict=True)
        )
        won = f"won back after {seconds / gained:.0f} steps" if gained > 0 else "never won back"
        yield f"- {method}, {precision}: the first compiled step takes {seconds:.0f} s, {won}."


def section(args: argparse.Namespace) -> str:
    """Setting, table, and what is told apart."""
    made = made_by(command_line(__file__))
    lines, rows = [], []
    for method in args.methods:
        turns = take_turns(args, method)
        rows += list(rows_of_table(args, method, turns.found))
        lines += list(first_steps(method, turns))
    if "peer" in args.ways:
        mask = run_saliency(args)
        lines.append(
            f"SURE's row mask of given gradients, which are float32 in both precisions: {mask['peer']:.2f} s by a "
            f"dictionary entry per row, {mask['ours']:.3f} s in tensors: **{mask['peer'] / mask['ours']:.0f} times** "
            "faster."
        )
    setting = (
        f"Processor time; {args.layers} layers, width {args.width}, vocabulary {args.vocabulary}, {args.batch} forget "
        f"and {args.batch} retain rows a step, float32 weights; medians of {args.steps} turns, and the least and "
        "greatest ratio of a turn."
    )
    header = ["method", "precision", f"{args.ways[0]}, a step", *args.ways[1:]]
    return "\n\n".join([made, setting, table(header, rows), *(["\n".join(lines)] if lines else [])])


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["npo-nll", "npo-kl"], choices=METHODS)
    ways = ["peer", "padded", "packed-mask", "packed-rows", "compiled"]
    parser.add_argument(
        "--ways", nargs="+", default=ways[1:4], choices=ways, help="the first is what others are held against"
    )
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--data", type=Path, help="question and answer rows as JSON lines, whose lengths are used")
    parser.add_argument("--length", type=int, default=0, help="tokens of every row; 0 for lengths like TOFU's")
    for name, default in (("layers", 8), ("width", 512), ("vocabulary", 32000), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--turns", type=int, default=3, dest="steps")
    parser.add_argument("--write", metavar="SECTION", help=f"also into this section of {PAGE.name}")
    parser.set_defaults(device="cpu", clock="cpu", bf16=False, warm=0)
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write if asked to."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compilers are waited for, and their time is counted
    args = parsed()
    text = section(args)
    print(text)
    if args.write:
        write_sections(PAGE, "Cost of a training step", {args.write: text})


if __name__ == "__main__":
    main()
