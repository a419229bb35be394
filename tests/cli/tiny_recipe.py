"""A recipe that runs whole in a few seconds, and ways to put it to the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hf_unlearn.cli.main import main

SCRATCH = """\
  min_known: 0
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 500,
            epochs: 24, batch_size: 16, learning_rate: 4.0e-3}
"""
PLANTED = """\
  max_length: 64
  planted: {forget: 16, retain: 16, holdout: 4, practice: 8, generic: 16, option_draws: 2, first_year: 1980}
"""
TINY = f"""\
name: tiny
seed: 0
model:
{SCRATCH}data:
{PLANTED}methods:
  - name: npo-kl
    loss_type: npo
    retain_loss_type: kl
    per_device_train_batch_size: 8
    max_steps: 6
    learning_rate: 1.0e-3
    save_steps: 2
export:
  formats: [bnb-nf4]
evaluate:
  max_new_tokens: 3
  fluency_tokens: 8
  generate_limit: 4
attack:
  rtt: {{folds: 2, learning_rates: [1.0e-3], epochs: 1, batch_size: 16, warmup_steps: 2}}
gate:
  draws: 200
  max_recovered_share_formats: 0.30  # 12 facts cannot show less than 0.27
  max_recovered_share_attacks: 0.30
"""


def line_of(text: str, part: str) -> int:
    """Number of the first line that holds a part."""
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def run(recipe: Path | str, output_dir: Path, *overrides: str, command: str = "run", workers: int = 0) -> int:
    """One command of the command line, with its exit code."""
    options = ["--output-dir", str(output_dir), "--workers", str(workers)]
    return main([command, str(recipe), *options, *map(str, overrides)])


def comparable(output_dir: Path) -> dict:
    """A report without what differs between any two runs: when it was made, and the seal over that."""
    report = json.loads((output_dir / "verify" / "unlearning_report.json").read_text())
    return {key: value for key, value in report.items() if key not in ("created", "digest")}


def write_rows(path: Path, rows: Iterable[dict]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
