"""How much weaker an attacker is with low-rank adapters (LoRA) than with all weights, on a small unlearned model.

    python benchmarks/tuning_strength.py             # a few minutes on one core
    python benchmarks/tuning_strength.py --write     # also into benchmarks/tuning_strength.md
    python benchmarks/tuning_strength.py --small     # seconds, with meaningless figures, to see that it works

A Llama of 2 layers learns planted facts and unlearns them by NPO. Then one fold of ``rtt`` retrains it at each rate,
with all weights and with adapters of two ranks, for the same epochs and without early stopping. Shown is the mean over
V at the best epoch. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from pages import command_line, made_by, table, write_sections
from rtt_variants import FACTS, FORMAT, METRICS, MODEL, make_target

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.attacks import model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.tuning import Tuning
from hf_unlearn.data.encoding import load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec
from hf_unlearn.models.loading import load_model
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.runtime.log_filters import drop_harmless_lines

PAGE = Path(__file__).with_suffix(".md")
TITLE = "LoRA held against full fine-tuning, in the hands of an attacker"
WIDE = replace(MODEL, hidden_size=128, intermediate_size=256, kv_heads=2, learning_rate=3e-3)
TUNINGS = (Tuning(), Tuning("lora", 16), Tuning("lora", 64))
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS = 6
UNLEARNING_RATE, UNLEARNING_STEPS = 1e-3, 60


def unlearn(target: Path, bundle: DataBundle, folder: Path, steps: int) -> None:
    """NPO with the likelihood of retain rows, and save."""
    model, tokenizer = load_model(target, dtype="float32"), load_tokenizer(str(target))
    with tempfile.TemporaryDirectory() as work:
        config = UnlearnConfig(
            output_dir=work, loss_type="npo", retain_loss_type="nll", per_device_train_batch_size=16, max_steps=steps,
            learning_rate=UNLEARNING_RATE, save_strategy="no", disable_tqdm=True, report_to=[], use_cpu=True, seed=0,
        )  # fmt: skip
        rows = bundle.forget.train, bundle.retain.train
        UnlearnTrainer(model, config, *rows, processing_class=tokenizer).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def best_scores(tuning: Tuning, rate: float, attacked: Attacked, epochs: int) -> tuple[dict[str, float], ...]:
    """Means over V by metric, before and at the best epoch of one rate."""
    attack = RTT(
        run_folds=1, learning_rates=(rate,), epochs=epochs, patience=0, tuning=tuning.kind, lora_rank=tuning.rank
    )
    (job,) = attack.plan(attacked.bundle)
    with tempfile.TemporaryDirectory() as place:
        attack.run_job(job, attacked, Path(place))
        model_cache.release()
        details = attack.collect({job: Path(place)}, METRICS).details
    return tuple({entry["metric"]: entry[when] for entry in details} for when in ("before", "after"))


def lines_of(attacked: Attacked, epochs: int) -> tuple[list[list[str]], dict[str, float]]:
    """A line for each tuning, and the scores before any attack."""
    lines, before = [], {}
    for tuning in TUNINGS:
        cells = []
        for rate in RATES:
            before, after = best_scores(tuning, rate, attacked, epochs)
            cells.append(" / ".join(f"{after[metric]:.3f}" for metric in METRICS))
        lines.append([tuning.describe(), *cells])
        print(" | ".join(lines[-1]), flush=True)
    return lines, before


def about(facts: PlantedSpec, model: ScratchSpec, before: dict[str, float], epochs: int) -> str:
    """What was attacked, and how it is read."""
    return (
        f"A Llama of {model.layers} layers and width {model.hidden_size} that learned {facts.forget} planted "
        f"facts and unlearned them by NPO; `rtt` on one fold of five, {epochs} epochs at each rate, without early "
        f"stopping. Cells: mean over V of probability / multiple choice at the best epoch (before the attack "
        f"{before['probability']:.3f} / {before['mc_accuracy']:.3f}). One seed."
    )


def main() -> None:
    """Unlearn, attack, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    what.add_argument("--small", action="store_true", help="tiny settings: figures mean nothing")
    options = parser.parse_args()
    drop_harmless_lines()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    made = made_by(command_line(__file__), "peft", timed=False)
    facts, model, epochs, steps = FACTS, WIDE, EPOCHS, UNLEARNING_STEPS
    if options.small:
        facts = replace(FACTS, forget=10, retain=4, practice=2, generic=2)
        model, epochs, steps = replace(WIDE, epochs=1), 1, 2
    with tempfile.TemporaryDirectory() as place:
        target, unlearned = Path(place) / "target", Path(place) / "unlearned"
        bundle = make_target(facts, model, target)
        unlearn(target, bundle, unlearned, steps)
        lines, before = lines_of(Attacked(unlearned, target, bundle, FORMAT, METRICS), epochs)
    text = about(facts, model, before, epochs)
    shown = table(["trained", *(f"rate {rate:g}" for rate in RATES)], lines)
    print(f"\n{made}\n\n{text}\n\n{shown}")
    if options.write:
        write_sections(PAGE, TITLE, {"strength": f"{made}\n\n{text}\n\n{shown}"})


if __name__ == "__main__":
    main()
