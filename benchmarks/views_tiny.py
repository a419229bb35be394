"""Precision views beside other parts, on a model so small that it takes two minutes: the table of one page.

    python benchmarks/views_tiny.py --seeds 0 1

A Llama of 2 layers and width 64 learns 24 random forget rows and 24 retain rows by heart, and unlearns with NPO + 4 KL
for 60 steps, with one part. Shown is the share of rows answered greedily, forget / retain, as it is and on each grid.
With 24 rows the share has an interval of about 0.2 to either side. ``robust_parts.py`` is the larger run.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "trainer"))
from tiny_run import tiny_model, tiny_rows, tiny_trainer

from hf_unlearn.robust.deployed import deployed_layers
from hf_unlearn.robust.precision_views import PrecisionViews

GRIDS = ("int8-channel", "nf4", "int4-g32", "int3-g32", "int2-g32")
VIEWS = {"name": "precision-views", "grids": ["int4-g32", "int3-g32"], "noise": ["int3-g32"], "hold_out": ["int2-g32"]}
PARTS: dict[str, list[Any]] = {
    "none": [],
    "precision-views": [VIEWS],
    "precision-views, `retain: false`": [{**VIEWS, "retain": False}],
    "sam, `rho: 0.1`": [{"name": "sam", "rho": 0.1}],
    "smoothing, `relative: true`, `sigma: 0.1`": [{"name": "smoothing", "sigma": 0.1, "relative": True}],
}
FORGET, RETAIN = tiny_rows("forget", 24), tiny_rows("retain", 24)


def target(seed: int, folder: str) -> Any:
    """A model that knows all rows."""
    trainer = tiny_trainer(
        folder, tiny_model(seed), loss_type="ga", forget_weight=0.0, retain_loss_type="nll", forget_dataset=RETAIN,
        retain_dataset=(*FORGET, *RETAIN), per_device_train_batch_size=24, max_steps=150, learning_rate=3e-3,
        logging_steps=1000,
    )  # fmt: skip
    trainer.train()
    return trainer.model


@torch.no_grad()
def answered(model: Any, rows: Any) -> float:
    """Share of rows whose labels are all the most likely token."""
    hits = []
    for row in rows:
        best = model(torch.tensor([row.input_ids])).logits[0].argmax(-1).tolist()
        hits.append(best[row.n_prompt - 1 : -1] == list(row.input_ids[row.n_prompt :]))
    return sum(hits) / len(hits)


def cells(model: Any, robust: list[Any], folder: str) -> list[str]:
    """One row of the table: CPU time of a step, then forget / retain at full precision and on each grid."""
    trainer = tiny_trainer(
        folder, model, loss_type="npo", retain_loss_type="kl", retain_weight=4.0, forget_dataset=FORGET,
        retain_dataset=RETAIN, per_device_train_batch_size=12, max_steps=60, learning_rate=2e-4, logging_steps=1000,
        robust=robust,
    )  # fmt: skip
    started = time.process_time()
    trainer.train()
    found = [f"{1000 * (time.process_time() - started) / 60:.0f}"]
    rows = trainer.train_dataset.forget, trainer.train_dataset.retain
    found.append(" / ".join(f"{answered(model, each):.2f}" for each in rows))
    for grid in GRIDS:
        with PrecisionViews(grids=[grid], noise=[])._on_grid(deployed_layers(model, "a benchmark"), grid):
            found.append(" / ".join(f"{answered(model, each):.2f}" for each in rows))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| seed | part | CPU ms a step | full | {' | '.join(GRIDS)} |\n|{'---|' * (4 + len(GRIDS))}")
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            known = target(seed, folder)
            for name, robust in PARTS.items():
                print(f"| {seed} | {name} | {' | '.join(cells(copy.deepcopy(known), robust, folder))} |", flush=True)


if __name__ == "__main__":
    main()
