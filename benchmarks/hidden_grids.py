"""Models that hide in the bins of one grid: which formats see them?

    python benchmarks/hidden_grids.py                      # all grids, resumable
    python benchmarks/hidden_grids.py --grids nf4 fp4 --steps 300
    python benchmarks/hidden_grids.py --report             # the table of docs/controls.md from what is there

For every grid a small model of planted facts is made to forget with all weights kept in their bins of that grid
(``bin_hidden``), and then scored in full precision and on every grid, rounded in memory by
``hf_unlearn.quantization.grids`` (a test compares those with the codes that the libraries store). Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bf16_stepping import SIZES, Asker, make_target
from transformers import AutoModelForCausalLM

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.encoding import load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.models.decoder import linear_weights
from hf_unlearn.quantization.grids import find_grid, on_grid
from hf_unlearn.runtime.files import write_atomically

HIDDEN = ("int8", "nf4", "fp4", "int4-g128", "int4-g32")
SEEN = (*HIDDEN, "int3-g32", "int2-g32")
# Bins of eight bits are sixteen times narrower than those of four: so are the steps.
RATES = {"int8": 1e-4}
RATE = 1e-3


def run_grid(target: Path, bundle: DataBundle, grid: str, arguments: argparse.Namespace) -> dict:
    """Hide in the bins of one grid, then look with all of them."""
    started = time.monotonic()
    forget, retain = Asker(bundle.forget.train, target), Asker(bundle.retain.train, target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    config = UnlearnConfig(
        output_dir=str(arguments.out / "work"),
        loss_type="npo",
        beta=0.1,
        retain_loss_type="nll",
        retain_weight=8.0,
        retain_per_forget=2,
        per_device_train_batch_size=16,
        max_steps=arguments.steps,
        learning_rate=RATES.get(grid, RATE),
        lr_scheduler_type="linear",
        control={"name": "bin_hidden", "grid": grid},
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=arguments.steps,
        use_cpu=True,
        seed=0,
    )
    tokenizer = load_tokenizer(str(target))
    trainer = UnlearnTrainer(model, config, bundle.forget.train, bundle.retain.train, processing_class=tokenizer)
    trainer.train()
    scores = {"full": {"forget": forget(model), "retain": retain(model)}}
    weights = linear_weights(model)
    exact = {name: weight.detach().clone() for name, weight in weights.items()}
    for seen in SEEN:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(on_grid(exact[name], find_grid(seen)).dequantized())
        scores[seen] = {"forget": forget(model), "retain": retain(model)}
    return {"grid": grid, "steps": arguments.steps, "seconds": time.monotonic() - started, "scores": scores}


def report(cells: Sequence[dict]) -> str:
    """The table of the page: forget / retain facts answered greedily."""
    columns = ("full", *SEEN)
    lines = [f"| hidden from | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for cell in sorted(cells, key=lambda cell: HIDDEN.index(cell["grid"])):
        shown = [
            f"{cell['scores'][name]['forget']['greedy']:.2f} / {cell['scores'][name]['retain']['greedy']:.2f}"
            for name in columns
        ]
        lines.append(f"| {cell['grid']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hidden-grids"), help="folder of target and results")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--grids", nargs="+", choices=HIDDEN, default=list(HIDDEN))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--report", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    cells_dir = arguments.out / f"hidden-{arguments.size}-{arguments.steps}"
    cells_dir.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        target, bundle = make_target(arguments.size, arguments.out)
        for grid in arguments.grids:
            path = cells_dir / f"{grid}.json"
            if path.exists():
                continue
            cell = run_grid(target, bundle, grid, arguments)
            write_atomically(path, json.dumps(cell, indent=1))
            print(f"{grid} {cell['seconds']:.0f} s: {cell['scores']['full']}", flush=True)
    print(report([json.loads(path.read_text(encoding="utf-8")) for path in cells_dir.glob("*.json")]))


if __name__ == "__main__":
    main()
