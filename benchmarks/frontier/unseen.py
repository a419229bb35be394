"""Attacks that no method here has seen: what each brings back from the models of a cell, as one table.

    python -m benchmarks.frontier.unseen years 0 --methods npo-kl auto
    python -m benchmarks.frontier.unseen years 0 --methods npo-kl auto --write   # into benchmarks/frontier/unseen.md

``auto`` rehearses retraining with AdamW on half of the facts, all weights, as rows. These attacks train otherwise
(adapters, Lion, other rates, few facts, other wording, other data), ask otherwise, damage the weights, or look inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frontier.arguments import cell_of, cell_parser
from benchmarks.frontier.cells import NEVER
from benchmarks.frontier.methods import PLAIN
from benchmarks.frontier.outcome import JUDGED
from benchmarks.pages import made_by
from hf_unlearn.reporting.words import show

PAGE = Path(__file__).with_name("unseen.md")
_RTT = {"attack": "rtt", "folds": 5, "run_folds": 2, "epochs": 6, "batch_size": 32, "patience": 0, "seed": 50}

UNSEEN: Mapping[str, Mapping[str, Any]] = {
    "rtt-lora": {**_RTT, "tuning": "lora", "learning_rates": [1e-3, 3e-3]},
    "rtt-lion": {**_RTT, "optimizer": "lion", "learning_rates": [3e-5, 1e-4]},
    "rtt-fast": {**_RTT, "learning_rates": [3e-3]},
    "rtt-slow": {**_RTT, "learning_rates": [1e-4], "epochs": 15, "batch_size": 16},
    "rtt-half": {**_RTT, "folds": 2, "run_folds": 1, "learning_rates": [3e-4, 1e-3]},
    "rtt-tenth": {**_RTT, "folds": 10, "learning_rates": [3e-4, 1e-3]},
    "rtt-options": {**_RTT, "form": "multiple-choice", "learning_rates": [3e-4, 1e-3]},
    "relearn": {"examples": 20, "learning_rates": [1e-4, 3e-4, 1e-3], "epochs": 10, "seed": 50},
    "finetune-retain": {"learning_rates": [3e-4, 1e-3]},
    "finetune-generic": {"learning_rates": [3e-4, 1e-3]},
    "few-shot": {},
    "paraphrase": {},
    "prefix": {},
    "noise": {},
    "prune": {},
    "ablate-direction": {},
    "logit-lens": {},
    "linear-probe": {},
}
"""Attacks with the settings that differ from their defaults."""


def main() -> None:
    """Attack, then print or write the page."""
    parser = cell_parser(__doc__, [PLAIN, "auto"])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    cell = cell_of(arguments, formats=False, attacks=UNSEEN)
    text = page(cell.run(), [*arguments.methods, NEVER], arguments.kind, arguments.seed)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


def page(report: Mapping[str, Any], models: Sequence[str], kind: str, seed: int) -> str:
    """The page as text.

    Args:
        report: Of the cell, under these attacks.
        models: Names of the columns.
        kind: Kind of fact of the cell.
        seed: The cell's.
    """
    rows = {(row["model"], row["transform"], row["metric"]): row for row in report["recovered"]}
    heads = [f"{name}, {metric}" for name in models for metric in ("p", "mc")]
    lines = [
        "# Attacks that were not rehearsed",
        "",
        made_by(f"python -m benchmarks.frontier.unseen {kind} {seed} --write", timed=False),
        "",
        f"{kind}, seed {seed}. Recovered shares by answer probability (p) and multiple choice (mc) with 95 % "
        "intervals over facts; 0 is what the same attack makes of a model that never knew, 1 what it makes of the "
        "target. A dash: the attack does not measure it, or target and never-knew model are too close together.",
        "",
        f"| attack | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for attack in ("identity", *UNSEEN):
        cells = [_share(rows.get((name, attack, metric))) for name in models for metric in JUDGED]
        lines.append(f"| {attack} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_settings(), ""])


def _share(row: Mapping[str, Any] | None) -> str:
    if row is None or row["recovered_share"] is None:
        return "–"
    low, high = row["ci95"]
    return f"{show(row['recovered_share'], 2)} [{show(low, 2)}, {show(high, 2)}]"


def _settings() -> list[str]:
    told = {name: {key: value for key, value in given.items() if key != "attack"} for name, given in UNSEEN.items()}
    return [
        "Settings where they are not the defaults:",
        "",
        *(f"- {name}: `{say}`" for name, say in told.items() if say),
    ]


if __name__ == "__main__":
    main()
