"""The verifier, verified: at least forty small models with a known truth, and what the gate says of each.

    python -m benchmarks.validity                                  # everything, resumable
    python -m benchmarks.validity --seeds 0 --rows never-knew-2 bin-hidden-nf4 depth-hidden --out runs/validity-part
    python -m benchmarks.validity --report                         # the table of what is there
    python -m benchmarks.validity --report --write                 # into benchmarks/validity/results.md
    python -m benchmarks.validity --report --write PAGE.md         # into another page, for a part of the models
    python -m benchmarks.validity --real --seeds 0                 # the same kinds of SmolLM2 135M (real.py)

One recipe per seed, run by the package's own stages: the models of a seed share target and never-knew model, and a
killed run goes on where it was. A choice of rows is a recipe of its own, and so needs a folder of its own. Predictions
stand in ``docs/validity.md``; they were written before the first run.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.validity import real, rows
from benchmarks.validity.rows import ROWS, available
from benchmarks.validity.table import Found, page, read_run

PAGE = Path(__file__).with_name("results.md")
REAL_PAGE = Path(__file__).with_name("results_real.md")
SEEDS = (0, 1, 2)


def run_seed(
    seed: int, names: list[str], out: Path, workers: int | None, *, on_real: bool, bf16: bool = False
) -> None:
    """Make and judge the models of one seed; what is finished is not repeated."""
    from hf_unlearn.pipeline import run_pipeline
    from hf_unlearn.recipe import load_recipe

    made, kinds = (partial(real.recipe, bf16=bf16), real.rows()) if on_real else (rows.recipe, ROWS)
    chosen, lines = available(tuple(row for row in kinds if row.name in names))
    print("\n".join(lines))
    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(made(seed, chosen), sort_keys=False), encoding="utf-8")
    run_pipeline(load_recipe(path), folder / "run", workers=workers)


def main() -> None:
    """Run what is missing, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/validity"), help="folder of the runs")
    parser.add_argument("--real", action="store_true", help="models of a real pretrained one (extra `real`)")
    parser.add_argument("--bf16", action="store_true", help="with --real: compute training in bfloat16")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--workers", type=int, default=None, help="worker processes; 0 for none")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--write", type=Path, nargs="?", const=True, help=f"write this page, or {PAGE.name}")
    arguments = parser.parse_args()
    found: list[Found] = []
    reports: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}" / "run"
        if not arguments.report:
            run_seed(
                seed, arguments.rows, arguments.out, arguments.workers, on_real=arguments.real, bf16=arguments.bf16
            )
        path = folder / "verify" / "unlearning_report.json"
        if path.exists():
            found += read_run(folder, seed)
            reports.append(json.loads(path.read_text(encoding="utf-8")))
    text = page(found, reports, on_real=arguments.real)
    if arguments.write:
        own = REAL_PAGE if arguments.real else PAGE
        (own if arguments.write is True else arguments.write).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
