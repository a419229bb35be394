"""What a job of ``rtt`` spends its time on, and what a step saves whose output head sees the labels only.

    python benchmarks/attack_parts.py            # two minutes on a quiet core
    python benchmarks/attack_parts.py --write    # also into benchmarks/attack_parts.md

First section: one job of six epochs from loading the model to putting its weights back, part by part, by the package's
own code. The first job of a process loads; those after it find model, tokens and first scores ready.

The others: one step, its loss by the model itself with logits at every position, or by the package at the labels
alone. Both make the same gradients (``tests/attacks/test_label_loss.py``). Processor time of one thread; random
Llamas, planted facts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from batched_folds import SIZES, Size, make_model
from pages import command_line, made_by, write_sections
from pages import table as markdown

from hf_unlearn.attacks import model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.label_loss import mean_label_loss
from hf_unlearn.attacks.model_cache import CachedModel
from hf_unlearn.attacks.retrained_model import Retraining
from hf_unlearn.attacks.retraining import retraining
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted

PAGE = Path(__file__).with_suffix(".md")
METRICS = ("probability", "mc_accuracy")
FACTS = PlantedSpec(forget=100, retain=1, holdout=20, practice=0, generic=20)
RATE = 1e-3


def settings(tuning: Any, epochs: int = 6) -> RTT:
    """One rate, 16 rows a step, no early stopping."""
    return RTT(learning_rates=(RATE,), epochs=epochs, batch_size=16, tuning=tuning, lora_rank=16, patience=0)


@dataclass
class Parts:
    """Processor seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count what happens within the block."""
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def job_parts(attack: RTT, folder: Path, bundle: DataBundle) -> dict[str, float]:
    """One job on the first fold, as ``retrain_and_score`` runs it."""
    attacked, parts = Attacked(folder, folder, bundle, TextFormat(), METRICS), Parts()
    lesson = attack.lesson(bundle, TextFormat(), 0)
    lending = retraining(attack, folder)
    with parts.timed("the model, and adapters on it"):
        model = lending.__enter__()
    with parts.timed("first scores"):
        model.score_untouched(lesson.asked, attacked, bundle.holdout.score)
    with parts.timed("tokens"):
        model.encode(lesson.texts)
    epochs = model.epochs(lesson.texts, RATE)
    for _ in range(attack.epochs):
        with parts.timed("training"):
            assert next(epochs)
        with parts.timed("scores between epochs"):
            model.score(lesson.asked, attacked, bundle.holdout.score)
    with parts.timed("weights put back"):
        lending.__exit__(None, None, None)
    return parts.seconds


def parts_section(repeats: int) -> str:
    """Jobs of the small model, the first of a process and later ones."""
    made = made_by(command_line(__file__), "peft")
    bundle, columns = make_planted(FACTS), {}
    with tempfile.TemporaryDirectory() as place:
        cached = make_model(Path(place), bundle, SIZES["small"])
        cached.model.save_pretrained(place)
        for tuning in ("full", "lora"):
            attack = settings(tuning)
            job_parts(settings(tuning, epochs=1), Path(place), bundle)  # imports
            model_cache.release()
            columns[f"{tuning}, first"] = job_parts(attack, Path(place), bundle)
            later = [job_parts(attack, Path(place), bundle) for _ in range(repeats)]
            columns[f"{tuning}, later"] = {
                part: statistics.median(job[part] for job in later) for part in columns[f"{tuning}, first"]
            }
    lesson = attack.lesson(bundle, TextFormat(), 0)
    rows = []
    for part in next(iter(columns.values())):
        cells = [f"{job[part]:.2f} ({job[part] / sum(job.values()):.0%})" for job in columns.values()]
        rows.append([part, *cells])
    rows.append(["**all**", *(f"**{sum(job.values()):.2f}**" for job in columns.values())])
    about = (
        f"{attack.step_count(len(lesson.texts.rows))} steps of 16 rows in six epochs; {len(lesson.asked)} questions "
        f"of V and {len(bundle.holdout.score)} of holdout facts, four options each, asked after every epoch; a Llama "
        f"of {sum(weight.numel() for weight in cached.model.parameters()) / 1e6:.2f} million weights. Processor "
        f"seconds, and their share of the job; later jobs are medians of {repeats}."
    )
    return "\n\n".join([made, about, markdown(["part", *columns], rows)])


@dataclass(frozen=True)
class Headed:
    """A model whose head is more or less of it."""

    size: Size
    vocabulary: int


MODELS = {"small": Headed(SIZES["small"], 0), "wide": Headed(SIZES["wide"], 49152)}


def step_seconds(cached: CachedModel, tuning: str, bundle: DataBundle, steps: int) -> dict[str, list[float]]:
    """Seconds of each step by both losses, in turn on the same rows."""
    attack = settings(tuning)
    found: dict[str, list[float]] = {"model": [], "labels": []}
    with attack.trained.applied(attack.name, cached.model, attack.order) as trained:
        model = Retraining(attack, cached, trained)
        rows = model.encode(attack.lesson(bundle, TextFormat(), 0).texts)
        weights = [weight for weight in trained.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0, fused=True)
        trained.train()
        for step in range(-1, steps):
            batch = model.pad(rows[16 * (step + 1) : 16 * (step + 2)])
            for side, times in found.items():
                start = time.process_time()
                optimizer.zero_grad()
                loss = trained(**batch, use_cache=False).loss if side == "model" else mean_label_loss(trained, batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                if step >= 0:
                    times.append(time.process_time() - start)
    return found


def head_section(headed: Headed, steps: int) -> str:
    """Steps of one model, with whole weights and with adapters."""
    made = made_by(command_line(__file__), "peft")
    bundle, rows = make_planted(FACTS), []
    for tuning in ("full", "lora"):
        with tempfile.TemporaryDirectory() as place:
            cached = make_model(Path(place), bundle, headed.size, headed.vocabulary)
        found = step_seconds(cached, tuning, bundle, steps)
        ratios = [one / other for one, other in zip(found["model"], found["labels"], strict=True)]
        rows.append(
            [
                tuning,
                *(f"{1000 * statistics.median(found[side]):.0f}" for side in ("model", "labels")),
                f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    about = (
        f"A step of 16 rows of planted facts; a Llama of {headed.size.layers} layers and width {headed.size.hidden}, "
        f"with {cached.model.config.vocab_size} tokens. Medians of {steps} steps, sides in turn on the same rows, in "
        "brackets the least and the greatest ratio."
    )
    return "\n\n".join([made, about, markdown(["tuning", "every position, ms", "labels, ms", "times less"], rows)])


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=["parts", "head"], default=["parts", "head"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="of the steps")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found = {}
    if "parts" in options.sections:
        found["parts"] = parts_section(options.repeats)
        print(found["parts"], flush=True)
    if "head" in options.sections:
        for name in options.models:
            found[f"head-{name}"] = head_section(MODELS[name], options.steps)
            print(found[f"head-{name}"], flush=True)
    if options.write:
        write_sections(PAGE, "Parts of a retraining job", found)


if __name__ == "__main__":
    main()
