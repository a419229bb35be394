"""Every configuration that was tried before the study, as a table.

    python -m benchmarks.frontier.tried             # prints
    python -m benchmarks.frontier.tried --write     # into benchmarks/frontier/trials.md

Lines come from ``trials.jsonl``, to which :mod:`benchmarks.frontier.trial` appends.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.frontier.outcome import JUDGED
from benchmarks.frontier.trial import LOG
from hf_unlearn.reporting.words import show

PAGE = Path(__file__).with_name("trials.md")
_SAME = (
    "save_strategy",
    "per_device_train_batch_size",
    "retain_loss_type",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
)


def read_trials(path: Path = LOG) -> list[dict[str, Any]]:
    """All lines of the log."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def configurations(trials: list[dict[str, Any]]) -> int:
    """How many different settings were tried."""
    return len({json.dumps(_settings(trial), sort_keys=True) for trial in trials})


def page(trials: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# What was tried",
        "",
        f"{len(trials)} runs of {configurations(trials)} configurations on the tuning seeds. Recovered shares by "
        "answer probability (p) and multiple choice (mc), point values of the folds that were attacked; *kept* is the "
        "retain probability over the target's. Where a line says *prototype*, what it tried is not in the package. "
        "Batches of 32 forget rows (16 for `npo-kl`), KL to the target, the rate constant until the last phase.",
        "",
        "| kind | seed | folds | settings | as it stands, p | mc | RTT, p | mc | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trial in trials:
        cells = " | ".join(show(_share(trial, name, metric), 2) for name in ("identity", "rtt") for metric in JUDGED)
        prototype = " *prototype*" if trial.get("prototype") else ""
        lines.append(
            f"| {trial['kind']} | {trial['seed']} | {trial.get('folds', 1)} | {_words(trial)}{prototype} | "
            f"{cells} | {show(trial['utility'], 2)} |"
        )
    return "\n".join([*lines, ""])


def _share(trial: Mapping[str, Any], transform: str, metric: str) -> float | None:
    """Nothing where too few groups of facts were attacked for a share."""
    found = trial["shares"].get(transform, {}).get(metric)
    return None if found is None else float(found[0])


def _settings(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Of the method, and of the data where they are not the kind's own."""
    method = {key: value for key, value in trial["method"].items() if key not in ("name", "save_strategy")}
    return {**method, **trial.get("data", {})}


def _words(trial: Mapping[str, Any]) -> str:
    told = {key: value for key, value in _settings(trial).items() if key not in _SAME}
    return "`" + json.dumps(told)[1:-1].replace('"', "") + "`"


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    text = page(read_trials())
    if parser.parse_args().write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
