"""What parts that make forgetting last do against coarse grids and against relearning, on a small model.

    python benchmarks/robust_parts.py --out runs/robust-parts            # resumable: finished cells are not repeated
    python benchmarks/robust_parts.py --out runs/robust-parts --report   # the tables from what is there

One cell is one run of NPO (16 forget rows a step, constant rate, embeddings, norms and head frozen) with a retain loss
and one part, from the same small model of planted facts (see ``bf16_stepping.py``), ended when no more than ``--stop``
of the forget facts are answered greedily. The result is rounded to each grid in memory, and then trained on half of
the forget facts and asked for the other half (the largest share over a few steps counts). One seed, no intervals:
orders of magnitude. Nothing is asserted: figures are for people.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bf16_stepping import Asker, StopWhenForgotten, make_target
from torch import nn
from transformers import AutoModelForCausalLM

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.pairing import IGNORED, pad_rows
from hf_unlearn.models.decoder import linear_weights
from hf_unlearn.quantization.grids import find_grid, on_grid
from hf_unlearn.runtime.files import write_atomically

GRIDS = ("int4-g64", "nf4", "fp4", "int3-g64", "int2-g64")
VIEWS = {"name": "precision-views", "grids": ["int4-g64", "int3-g64"], "noise": ["int3-g64"], "hold_out": ["int2-g64"]}
CELLS: dict[str, dict[str, Any]] = {
    "none": {},
    "sure (percentile 70)": {"robust": [{"name": "sure", "percentile": 70}]},
    "sure-rows (percentile 90)": {"robust": [{"name": "sure-rows", "percentile": 90}]},
    "sam (rho 0.01)": {"robust": [{"name": "sam", "rho": 0.01}]},
    "sam (rho 0.1)": {"robust": [{"name": "sam", "rho": 0.1}]},
    "smoothing (sigma 1e-4)": {"robust": [{"name": "smoothing", "sigma": 1e-4}]},
    "smoothing (relative, 0.1)": {"robust": [{"name": "smoothing", "sigma": 0.1, "relative": True}]},
    "weight-averaging (decay 0.95)": {"robust": [{"name": "weight-averaging", "start": 0.0, "decay": 0.95}]},
    "sign-filter": {"robust": ["sign-filter"]},
    "precision-views": {"robust": [VIEWS]},
    "precision-views, on int2-g64": {
        "robust": [{"name": "precision-views", "grids": ["int2-g64"], "noise": ["int2-g64"]}]
    },
    "precision-views, retain plain": {"robust": [{**VIEWS, "retain": False}]},
}


def run_cell(target: Path, bundle: DataBundle, settings: dict[str, Any], arguments: argparse.Namespace) -> dict:
    """Unlearn once; score the result on every grid and after relearning."""
    forget, retain = Asker(bundle.forget.train, target), Asker(bundle.retain.train, target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    weights = linear_weights(model)
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    config = UnlearnConfig(
        output_dir=str(arguments.out / "work"), loss_type="npo", beta=0.1, retain_loss_type=arguments.retain_loss,
        retain_weight=4.0, retain_per_forget=2, per_device_train_batch_size=16, learning_rate=arguments.rate,
        max_steps=arguments.steps, stepping=arguments.stepping, save_strategy="no", disable_tqdm=True,
        logging_steps=arguments.steps, use_cpu=True, seed=0, **settings,
    )  # fmt: skip
    trainer = UnlearnTrainer(
        model, config, bundle.forget.train, bundle.retain.train, processing_class=load_tokenizer(str(target)),
        callbacks=[StopWhenForgotten(forget, arguments.stop, 20)],
    )  # fmt: skip
    started = time.process_time()
    trainer.train()
    seconds = time.process_time() - started
    after = {name: weight.detach().clone() for name, weight in weights.items()}
    scores = {"full": {"forget": forget(model), "retain": retain(model)}}
    for grid in GRIDS:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(on_grid(after[name], find_grid(grid)).dequantized())
        scores[grid] = {"forget": forget(model), "retain": retain(model)}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(after[name])
    steps = trainer.state.global_step
    return {
        "steps": steps,
        "cpu_seconds_a_step": seconds / steps,
        "scores": scores,
        "relearned": relearned(model, target, bundle),
        "torch": torch.__version__,
    }


def relearned(model: nn.Module, target: Path, bundle: DataBundle) -> float:
    """Largest share of the other half's facts answered while half of the forget facts are trained for 60 steps."""
    facts = sorted({row.fact for row in bundle.forget.train})
    taught = set(facts[: len(facts) // 2])
    tokenizer, model = load_tokenizer(str(target)), copy.deepcopy(model).requires_grad_(True)
    ask = Asker([row for row in bundle.forget.train if row.fact not in taught], target)
    rows = [encode_row(row, tokenizer, TextFormat(), eos=False) for row in bundle.forget.train if row.fact in taught]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    order, best = torch.Generator().manual_seed(0), ask(model)["greedy"]
    for step in range(1, 61):
        numbers = torch.randint(len(rows), (16,), generator=order).tolist()
        batch = pad_rows([rows[number] for number in numbers], numbers, tokenizer.pad_token_id)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            best = max(best, ask(model)["greedy"])
    return best


def report(cells: Sequence[tuple[str, dict]]) -> str:
    """The table of the page."""
    columns = ("full", *GRIDS)
    lines = [
        f"| part | steps | CPU ms a step | {' | '.join(columns)} | relearned |",
        f"|{'---|' * (len(columns) + 4)}",
    ]
    for name, cell in cells:
        shown = [
            f"{cell['scores'][column]['forget']['greedy']:.2f} / {cell['scores'][column]['retain']['greedy']:.2f}"
            for column in columns
        ]
        cost = f"{1000 * cell['cpu_seconds_a_step']:.0f}"
        lines.append(f"| {name} | {cell['steps']} | {cost} | {' | '.join(shown)} | {cell['relearned']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("robust-parts"), help="folder of target and cells")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--retain-loss", default="nll")
    parser.add_argument("--stepping", default="bf16")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--stop", type=float, default=0.12, help="forget facts answered greedily at which a run ends")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--report", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    folder = arguments.out / f"cells-{arguments.stepping}-{arguments.retain_loss}-{arguments.rate:g}"
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        target, bundle = make_target("small", arguments.out)
        for name in arguments.cells:
            path = folder / f"{name.replace(' ', '_')}.json"
            if path.exists():
                continue
            cell = run_cell(target, bundle, CELLS[name], arguments)
            write_atomically(path, json.dumps(cell, indent=1))
            print(report([(name, cell)]).splitlines()[-1], flush=True)
    found = [(name, folder / f"{name.replace(' ', '_')}.json") for name in CELLS]
    print(report([(name, json.loads(path.read_text(encoding="utf-8"))) for name, path in found if path.exists()]))


if __name__ == "__main__":
    main()
