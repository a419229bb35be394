"""What a run takes however small its models are: processor seconds of one process, stage by stage.

    OMP_NUM_THREADS=1 python benchmarks/fixed_costs.py

The models are so small that their operations cost next to nothing. The figures stand in costs.md and, rounded, in
``hf_unlearn/planning/fixed.py``. Nothing is asserted: figures are for people.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

RECIPE = """\
name: fixed-costs
seed: 0
model:
  min_known: 0
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 500,
            epochs: 24, batch_size: 16, learning_rate: 4.0e-3}
data:
  max_length: 64
  planted: {forget: 16, retain: 16, holdout: 4, practice: 8, generic: 16, option_draws: 2, first_year: 1980}
methods:
  - {name: npo-kl, loss_type: npo, retain_loss_type: kl, per_device_train_batch_size: 8, max_steps: 6,
     learning_rate: 1.0e-3, save_steps: 2}
export: {formats: [bnb-nf4]}
evaluate: {max_new_tokens: 3, fluency_tokens: 8, generate_limit: 4}
attack:
  rtt: {folds: 2, learning_rates: [1.0e-3], epochs: 1, batch_size: 16, warmup_steps: 2}
gate: {draws: 200, max_recovered_share_formats: 0.30, max_recovered_share_attacks: 0.30}
"""


class _ProcessorTime:
    """In place of the clock: other work on the machine does not count."""

    monotonic = staticmethod(time.process_time)


def main() -> None:
    """Run the recipe in a new folder with an empty cache, and print what was taken."""
    start = time.process_time()
    from rich.console import Console

    from hf_unlearn.pipeline import run_pipeline
    from hf_unlearn.recipe import load_recipe
    from hf_unlearn.runtime import progress

    progress.time = _ProcessorTime  # type: ignore[assignment]
    told: list[tuple[float, str]] = [(time.process_time() - start, "imports")]

    class Timed(progress.Progress):
        def say(self, text: str) -> None:
            told.append((time.process_time() - start, text))

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["HF_UNLEARN_CACHE"] = str(place / "cache")
        (place / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        quiet = Timed(Console(quiet=True))
        seconds = run_pipeline(load_recipe(place / "recipe.yaml"), place / "run", workers=0, progress=quiet).seconds
    print("\n".join(f"{at:6.1f}  {text}" for at, text in told))
    print("\n".join(f"{value:6.1f}  {stage}" for stage, value in seconds.items()))
    print(f"{time.process_time() - start:6.1f}  all")


if __name__ == "__main__":
    main()
