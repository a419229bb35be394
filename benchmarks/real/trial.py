"""Tries settings of ``auto`` on a tuning seed: one line each in a file, so that the number of tries can be stated.

    python -m benchmarks.real.trial '{"name": "longer", "num_train_epochs": 120}' --seed 100
    python -m benchmarks.real.trial --report

A try is an entry of a recipe's methods; what it does not set is as ``auto`` has it. The target is scored and attacked
once for a seed. Three of five folds of RTT, NF4, everything in bfloat16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import table
from benchmarks.real.outcome import Outcome, outcome_of
from benchmarks.real.page import read_kept
from benchmarks.real.sets import SETS, TUNING_SEEDS, Way

HERE = Path(__file__).parent
LOG, PAGE = (HERE / name for name in ("trials.jsonl", "trials.md"))
FOLDS = 3


def recipe(facts: str, seed: int, method: Mapping[str, Any]) -> dict[str, Any]:
    """One try: the set's recipe with one format, no attack but RTT, and three of its folds.

    Args:
        facts: Name of the set.
        seed: One that is for choosing.
        method: The entry.
    """
    entry = {"robust": "auto", "per_device_train_batch_size": 16, "save_strategy": "no", **method}
    made = SETS[facts].recipe(seed, [entry], Way(bf16=True))
    made["name"] = f"trial-{facts}-{seed}"
    made["export"] = {"formats": ["bnb-nf4"]}
    made["evaluate"]["metrics"] = ["probability", "mc_accuracy"]
    made["attack"] = {"other-form": False, "rtt": {**made["attack"]["rtt"], "run_folds": FOLDS}}
    return made


def run_trial(facts: str, seed: int, method: Mapping[str, Any], out: Path, workers: int | None) -> dict[str, Any]:
    """Trains, exports, scores and attacks, and reads what came of it.

    Args:
        facts: Name of the set.
        seed: One that is for choosing.
        method: The entry.
        out: Folder of all tries.
        workers: Worker processes; 0 for none.
    """
    from hf_unlearn.pipeline import run_pipeline
    from hf_unlearn.recipe import load_recipe

    folder = out / f"{facts}-{seed}-{method['name']}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(facts, seed, method), sort_keys=False), encoding="utf-8")
    run_pipeline(load_recipe(path), folder / "run", workers=workers)
    report = json.loads((folder / "run" / "verify" / "unlearning_report.json").read_text(encoding="utf-8"))
    training = json.loads((folder / "run" / "train" / "training.json").read_text(encoding="utf-8"))
    outcome = outcome_of(report, training, facts, seed, method["name"])
    return {"method": dict(method), "parts": training.get("parts", {}), "outcome": outcome.plain()}


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """All tries so far, as they were made.

    Args:
        lines: Of the file.
    """
    plain = next(one.operations for one in read_kept() if (one.facts, one.method) == ("capitals", "npo-kl"))
    rows = [_row(line, Outcome(**line["outcome"]), plain) for line in lines]
    head = ["set", "seed", "settings", "note", "rounds", "facts left", "as it stands, p", "mc", "NF4, mc",
            "RTT, p or mc", "known: as it stands / NF4 / RTT", "retain", "others", "PPL", "cost"]  # fmt: skip
    seeds = ", ".join(map(str, TUNING_SEEDS))
    return (
        "# What was tried on a real model\n\n"
        f"`python -m benchmarks.real.trial`, in the order of the tries, on splits of the seeds {seeds}, which "
        f"are in no table of results. SmolLM2 135M Instruct, bfloat16, RTT over {FOLDS} of five folds for 12 epochs. "
        "Columns are those of [the results](results.md); *facts left*: by the probe of the last rehearsal; *cost*: "
        "operations over those of NPO + KL on seed 0.\n\n" + table(head, rows) + "\n"
    )


def _row(line: Mapping[str, Any], one: Outcome, plain: float) -> list[str]:
    settings = {
        key: value for key, value in line["method"].items() if key not in ("name", "per_device_train_batch_size")
    }
    found = line["parts"].get("auto", {})
    least = min(one.others, key=one.others.__getitem__)
    return [
        one.facts,
        str(one.seed),
        f"`{json.dumps(settings)}`",
        str(line["note"]),
        str(found.get("rounds", "")),
        str(found["facts_left"][-1]) if found.get("facts_left") else "",
        *(_number(one.identity[metric]) for metric in ("probability", "mc_accuracy")),
        _number(one.formats["mc_accuracy"]),
        _number(one.attacks["rtt"]),
        " / ".join(f"{one.known[place][0]} of {one.known[place][2]}" for place in ("identity", "bnb-nf4", "rtt")),
        _number(one.kept),
        f"{_number(one.others[least])} ({least})",
        _number(one.perplexity),
        f"{one.operations / plain:.1f}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def arguments_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for.

    Args:
        given: Of the command line; that of this process if left out.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", help="an entry of a recipe's methods, as JSON; with a name")
    parser.add_argument("--set", choices=list(SETS), default="capitals")
    parser.add_argument("--seed", type=int, choices=TUNING_SEEDS, default=TUNING_SEEDS[0])
    parser.add_argument("--out", type=Path, default=Path("runs/real-tuning"))
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 for none")
    parser.add_argument("--note", default="", help="what else was different")
    parser.add_argument("--report", action="store_true", help="only make the page")
    arguments = parser.parse_args(given)
    if arguments.method is None and not arguments.report:
        parser.error("name a method, as JSON, or --report")
    return arguments


def main() -> None:
    """Run the try, add its line, and write the page."""
    arguments = arguments_of()
    if not arguments.report:
        line = run_trial(arguments.set, arguments.seed, json.loads(arguments.method), arguments.out, arguments.workers)
        line["note"] = arguments.note
        with LOG.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    text = page([json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()])
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
