"""Methods on knowledge of a real pretrained model: sets of facts, seeds of the split, one table that grows.

    python -m benchmarks.real --sets capitals --seeds 0 --methods npo-kl auto    # what is missing, resumable
    python -m benchmarks.real --read runs/smollm2-capitals --sets capitals --seeds 0    # of a run of the recipe
    python -m benchmarks.real --report                                           # the page of what is kept

A cell (one set, one seed) takes half an hour and more on two cores for each method, so outcomes are kept beside this
file (``outcomes.json``) and the page is made of all of them, whoever made them and when. Needs the extra ``real``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.frontier.methods import PLAIN
from benchmarks.real.methods import CHECKPOINTS, METHODS
from benchmarks.real.outcome import Outcome, outcome_of
from benchmarks.real.page import HERE, keep, page, read_kept
from benchmarks.real.sets import SETS, Way

SEEDS = (0, 1, 2)
FIRST = ("capitals", "symbols", "cities", "tofu")


def main() -> None:
    """Run what is missing, keep what came of it, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(FIRST))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder of the runs")
    parser.add_argument("--workers", type=int, default=None, help="worker processes; 0 for none")
    parser.add_argument("--bf16", action="store_true", help="save, score and train in bfloat16")
    parser.add_argument("--epochs", type=int, default=Way.epochs, help="of RTT")
    parser.add_argument("--read", type=Path, help="the folder of a finished run of one set and seed")
    parser.add_argument("--report", action="store_true", help="only make the page of what is kept")
    arguments = parser.parse_args()
    way = Way(bf16=arguments.bf16, epochs=arguments.epochs)
    found: list[Outcome] = []
    if arguments.read is not None:
        found = read_run(arguments.read, arguments.sets[0], arguments.seeds[0])
    elif not arguments.report:
        # Seed by seed, so that a study that is cut short has every set with as many seeds.
        for seed in arguments.seeds:
            for name in arguments.sets:
                found += run_cell(name, seed, arguments.methods, way, arguments.out, arguments.workers)
    text = page(keep(found) if found else read_kept())
    (HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def run_cell(name: str, seed: int, methods: list[str], way: Way, out: Path, workers: int | None) -> list[Outcome]:
    """Trains, exports, scores, attacks and judges what is not there yet.

    Each choice of methods has a folder of its own, since it is a recipe of its own.

    Args:
        name: Of the set.
        seed: Of the split, of training and of attacks.
        methods: Names of methods; costs are told over those of NPO + KL, which is always among them.
        way: How it is computed and attacked.
        out: Folder of all runs.
        workers: Worker processes; 0 for none.
    """
    from hf_unlearn.pipeline import run_pipeline
    from hf_unlearn.recipe import load_recipe

    chosen = list(dict.fromkeys([PLAIN, *methods]))
    folder = out / f"{name}-{seed}-{'-'.join(chosen)}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    content = SETS[name].recipe(seed, [{**METHODS[each].entry(), **CHECKPOINTS} for each in chosen], way)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    run_pipeline(load_recipe(path), folder / "run", workers=workers)
    return read_run(folder / "run", name, seed)


def read_run(folder: Path, name: str, seed: int) -> list[Outcome]:
    """Outcomes of the methods of a finished run.

    Args:
        folder: The run's folder.
        name: Of the set.
        seed: The run's.
    """
    report: dict[str, Any] = json.loads((folder / "verify" / "unlearning_report.json").read_text(encoding="utf-8"))
    return [
        outcome_of(report, _training_of(folder, each["name"]), name, seed, each["name"])
        for each in report["candidates"]
        if each["name"] in METHODS
    ]


def _training_of(folder: Path, method: str) -> dict[str, Any]:
    return dict(json.loads((folder / "train" / method / "training.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
