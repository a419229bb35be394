"""Does bfloat16 stepping leave forgetting where a coarse grid erases it? Over rates, steppings and bits.

    python benchmarks/bf16_stepping.py                 # everything, resumable: finished cells are not repeated
    python benchmarks/bf16_stepping.py --steps 1500 --rates 3e-5 1e-4
    python benchmarks/bf16_stepping.py --report        # the tables of docs/bf16-stepping.md from what is there

One cell is one run of NPO + 4 NLL (16 forget and 32 retain rows a step, constant rate, embeddings, norms and head
frozen) from the same small model of planted facts, ended when no more than ``--stop`` of the forget facts are answered
greedily, or after ``--steps``. It is then rounded to each grid in memory (``hf_unlearn.quantization.grids``) and
scored. Nothing is asserted: figures are for people.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import DataBundle, Example
from hf_unlearn.data.pairing import IGNORED, pad_rows
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.decoder import linear_weights
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer, train_scratch_model
from hf_unlearn.quantization.explain import Comparison, compare_weights
from hf_unlearn.quantization.grids import find_grid, on_grid
from hf_unlearn.runtime.files import whole_folder, write_atomically
from hf_unlearn.trainer.rounded_steps import STEPPINGS

GRIDS = ("int8", "int4-g64", "nf4", "fp4", "int3-g64", "int2-g64")
SIZES = {
    "small": (
        PlantedSpec(forget=157, retain=314, practice=40, holdout=1, generic=1),
        ScratchSpec(epochs=40, batch_size=32, learning_rate=2e-3),
    ),
    "medium": (
        PlantedSpec(forget=157, retain=314, practice=40, holdout=1, generic=1),
        ScratchSpec(
            hidden_size=192, intermediate_size=576, heads=8, kv_heads=4, vocab_size=2048, epochs=50, batch_size=32,
            learning_rate=1.5e-3,
        ),
    ),
}  # fmt: skip
FIRST_ROW = "-t0"


def make_target(size: str, folder: Path) -> tuple[Path, DataBundle]:
    """The model that knows, built once."""
    planted, spec = SIZES[size]
    bundle = make_planted(planted)
    target = folder / f"target-{size}"
    if not (target / "config.json").exists():
        rows = [*bundle.forget.train, *bundle.retain.train, *bundle.practice.train]
        tokenizer = build_tokenizer([row.text for row in rows], spec)
        with whole_folder(target) as partial:
            train_scratch_model(spec, rows, tokenizer, TextFormat(), partial, progress="target")
    return target, bundle


class Asker:
    """Asks a model for the first training sentence of every fact of a set."""

    def __init__(self, rows: Sequence[Example], folder: Path) -> None:
        tokenizer = load_tokenizer(str(folder))
        encoded = [encode_row(row, tokenizer, TextFormat(), eos=False) for row in rows if row.id.endswith(FIRST_ROW)]
        self.batch = pad_rows(encoded, range(len(encoded)), tokenizer.pad_token_id)

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Share of facts answered greedily, and mean probability of the answer."""
        training = model.training
        model.eval()
        logits = model(input_ids=self.batch["input_ids"], attention_mask=self.batch["attention_mask"]).logits[:, :-1]
        model.train(training)
        labels = self.batch["labels"][:, 1:]
        answer = labels != IGNORED
        logps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        greedy = ((logits.argmax(-1) == labels) | ~answer).all(-1).float().mean()
        return {"greedy": float(greedy), "probability": float((logps * answer).sum(-1).exp().mean())}


class StopWhenForgotten(TrainerCallback):
    """Ends training once few forget facts are left."""

    def __init__(self, ask: Asker, at_most: float, every: int) -> None:
        self.ask, self.at_most, self.every = ask, at_most, every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every == 0 and self.ask(kwargs["model"])["greedy"] <= self.at_most:
            control.should_training_stop = True


def run_cell(target: Path, bundle: DataBundle, stepping: str, rate: float, arguments: argparse.Namespace) -> dict:
    """Unlearn once; score the result on every grid."""
    started = time.monotonic()
    forget, retain = Asker(bundle.forget.train, target), Asker(bundle.retain.train, target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    weights = linear_weights(model)
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    if stepping != "fp32":  # what the run starts from, so that only its own steps count as updates
        before = {name: weight.to(torch.bfloat16).float() for name, weight in before.items()}
    config = UnlearnConfig(
        output_dir=str(arguments.out / "work"), loss_type="npo", beta=0.1, retain_loss_type="nll", retain_weight=4.0,
        retain_per_forget=2, per_device_train_batch_size=16, learning_rate=rate, max_steps=arguments.steps,
        stepping=stepping, save_strategy="no", disable_tqdm=True, logging_steps=arguments.steps, use_cpu=True, seed=0,
    )  # fmt: skip
    trainer = UnlearnTrainer(
        model, config, bundle.forget.train, bundle.retain.train, processing_class=load_tokenizer(str(target)),
        callbacks=[StopWhenForgotten(forget, arguments.stop, arguments.check_every)],
    )  # fmt: skip
    trainer.train()
    scores = {"full": {"forget": forget(model), "retain": retain(model)}}
    after = {name: weight.detach().clone() for name, weight in weights.items()}
    moved = Comparison()
    for name in before:
        moved += compare_weights(before[name], after[name], [find_grid(grid) for grid in GRIDS])
    for grid in GRIDS:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(on_grid(after[name], find_grid(grid)).dequantized())
        scores[grid] = {"forget": forget(model), "retain": retain(model)}
    return {
        "stepping": stepping,
        "rate": rate,
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
        "scores": scores,
        "weights": moved.to_dict(),
        "magnitudes": moved.magnitudes(),
        "torch": torch.__version__,
    }


def report(cells: Sequence[dict]) -> str:
    """The tables of the page."""
    columns = ("full", *GRIDS)
    lines = [
        f"| rate | stepping | steps | moved | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 4)}",
    ]
    for cell in cells:
        shown = [
            f"{cell['scores'][name]['forget']['greedy']:.2f} / {cell['scores'][name]['retain']['greedy']:.2f}"
            for name in columns
        ]
        moved = f"{cell['weights']['moved'] or 0:.1%}"
        lines.append(f"| {cell['rate']:g} | {cell['stepping']} | {cell['steps']:,} | {moved} | {' | '.join(shown)} |")
    exponents = sorted({bucket["to"] or 1.0 for cell in cells for bucket in cell["magnitudes"]})
    lines += ["", f"| rate | stepping | {' | '.join(f'< {edge:.4f}' for edge in exponents)} |"]
    lines.append(f"|{'---|' * (len(exponents) + 2)}")
    for cell in cells:
        share = {bucket["to"] or 1.0: bucket["moved"] for bucket in cell["magnitudes"]}
        shown = [f"{share[edge]:.0%}" if edge in share else "" for edge in exponents]
        lines.append(f"| {cell['rate']:g} | {cell['stepping']} | {' | '.join(shown)} |")
    lines += ["", f"| rate | stepping | {' | '.join(GRIDS)} |", f"|{'---|' * (len(GRIDS) + 2)}"]
    for cell in cells:
        grids = cell["weights"]["grids"]
        shown = [f"{grids[name]['codes_changed']:.2%} / {grids[name]['update_over_step']:.3f}" for name in GRIDS]
        lines.append(f"| {cell['rate']:g} | {cell['stepping']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bf16-stepping"), help="folder of target and cells")
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-5, 3e-5, 5e-5, 1e-4, 3e-4])
    parser.add_argument("--steppings", nargs="+", choices=STEPPINGS, default=list(STEPPINGS))
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--stop", type=float, default=0.12, help="forget facts answered greedily at which a run ends")
    parser.add_argument("--check-every", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    cells_dir = arguments.out / f"cells-{arguments.size}"
    cells_dir.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        target, bundle = make_target(arguments.size, arguments.out)
        for rate, stepping in itertools.product(arguments.rates, arguments.steppings):
            path = cells_dir / f"{rate:g}-{stepping}-{arguments.steps}.json"
            if path.exists():
                continue
            cell = run_cell(target, bundle, stepping, rate, arguments)
            write_atomically(path, json.dumps(cell, indent=1))
            full, coarse = cell["scores"]["full"], cell["scores"]["int2-g64"]
            print(
                f"{rate:g} {stepping} {cell['steps']} steps {cell['seconds']:.0f} s: {full} int2 {coarse}", flush=True
            )
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in cells_dir.glob("*.json")]
    print(report(sorted(cells, key=lambda cell: (cell["rate"], STEPPINGS.index(cell["stepping"])))))


if __name__ == "__main__":
    main()
