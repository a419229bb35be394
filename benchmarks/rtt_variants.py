"""Variants of retraining on T on one small model whose answers are hidden at its output, not removed.

    python benchmarks/rtt_variants.py             # about two minutes on one core
    python benchmarks/rtt_variants.py --write     # also into benchmarks/rtt_variants.md
    python benchmarks/rtt_variants.py --small     # seconds, with meaningless figures, to see that it works

A Llama of 2 layers and 0.1 million weights learns 60 planted facts. Then one direction is taken out of its output
head: the mean final hidden state of the questions no longer points at any year. Every variant attacks that model on
one fold of five, and some of them the model as it was ("target"), by the package's own attacks. Shown is the mean over
V, before and at the best epoch and rate, and how many epochs were run. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pages import command_line, made_by, table, write_sections

from hf_unlearn.attacks import model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.rtt_paper import RTTPaper
from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import load_model
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.runtime.log_filters import drop_harmless_lines
from hf_unlearn.stages.built_models import build_scratch
from hf_unlearn.stages.models import scratch_rows, tokenizer_texts

PAGE = Path(__file__).with_suffix(".md")
TITLE = "Variants of retraining on T"
FORMAT = TextFormat()
METRICS = ("probability", "mc_accuracy")
FACTS = PlantedSpec(forget=60, retain=20, holdout=0, practice=10, generic=20, first_year=1960)
MODEL = ScratchSpec(64, 128, 2, 2, 1, vocab_size=500, max_positions=256, epochs=60, batch_size=16, learning_rate=4e-3)
PUSH = 18.0
"""How far the logits of years are pushed down where a question ends, in nats."""


@dataclass(frozen=True)
class Variant:
    """One attack.

    Attributes:
        title: What the table calls it.
        attack: Its settings.
        on_target: Whether the model that hides nothing is attacked too.
    """

    title: str
    attack: RTT
    on_target: bool = False

    def shortened(self) -> Variant:
        """The same with one rate and one epoch."""
        return replace(self, attack=replace(self.attack, learning_rates=self.attack.learning_rates[-1:], epochs=1))


BY_ROWS = RTTPaper(run_folds=1, form="rows", asked_by="rows")
VARIANTS = (
    Variant("`rtt`", RTT(run_folds=1), on_target=True),
    Variant("`rtt` with `patience: 0`", RTT(run_folds=1, patience=0)),
    Variant(
        "`rtt` with `tuning: lora`, rates 1e-3 to 1e-2",
        RTT(run_folds=1, tuning="lora", learning_rates=(1e-3, 3e-3, 1e-2)),
    ),
    Variant("`rtt-paper`", RTTPaper(run_folds=1), on_target=True),
    Variant("`rtt-paper` with `asked_by: rows`, `form: rows`", BY_ROWS),
    Variant(
        "the same in float32 at rates 1e-4 to 1e-3",
        replace(BY_ROWS, dtype="float32", learning_rates=(1e-4, 3e-4, 1e-3)),
    ),
)


def make_target(facts: PlantedSpec, model: ScratchSpec, folder: Path) -> DataBundle:
    """Train the model that knows; its facts."""
    bundle = make_planted(facts)
    rows = list(scratch_rows(bundle, with_forget=True, with_extra=True))
    build_scratch(model, rows, tokenizer_texts(bundle), FORMAT, folder, "target")
    return bundle


@torch.no_grad()
def hide(target: Path, bundle: DataBundle, folder: Path) -> None:
    """Push years down along one direction of the output head, and save."""
    model, tokenizer = load_model(target, dtype="float32"), load_tokenizer(str(target))
    rows = [encode_row(row, tokenizer, FORMAT, eos=False).input_ids for row in bundle.forget.score]
    ends = [model.model(torch.tensor([ids[:-1]])).last_hidden_state[0, -1] for ids in rows]
    mean = torch.stack(ends).mean(0)
    years = sorted({ids[-1] for ids in rows})
    model.lm_head.weight[years] -= PUSH * mean / (mean @ mean)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def attacked_once(attack: RTT, folder: Path, target: Path, bundle: DataBundle) -> list[str]:
    """Cells of one line: before and after per metric, and epochs run of those planned."""
    attacked = Attacked(folder, target, bundle, FORMAT, METRICS)
    jobs = attack.plan(bundle)
    with tempfile.TemporaryDirectory() as place:
        folders = {job: Path(place) / job for job in jobs}
        for job, out in folders.items():
            out.mkdir()
            attack.run_job(job, attacked, out)
        model_cache.release()
        details = {entry["metric"]: entry for entry in attack.collect(folders, METRICS).details}
        run = sum(len(list(out.glob("epoch*.jsonl"))) - 1 for out in folders.values())
    shown = [f"{details[name]['before']:.3f} → {details[name]['after']:.3f}" for name in METRICS if name in details]
    return [*shown, *[""] * (len(METRICS) - len(shown)), f"{run} of {len(jobs) * attack.epochs}"]


def about(attack: RTT, bundle: DataBundle, model: ScratchSpec, target: Path) -> str:
    """What was attacked, and how it is read."""
    weights = sum(weight.numel() for weight in load_model(target, dtype="float32").parameters())
    facts = len({row.fact for row in bundle.forget.score})
    budget = attack.budget(bundle)
    return (
        f"A Llama of {model.layers} layers and {weights / 1e6:.2f} million weights that knows {facts} planted facts. "
        f"*Hidden*: the logits of years are pushed down by {PUSH:g} nats along one direction of the output head, the "
        f"mean hidden state where questions end. *Target*: the model before that. One fold of {attack.folds}, "
        f"{budget['groups_in_T']} groups in T and {budget['groups_in_V']} in V (`rtt` and `rtt-paper` split by other "
        f"seeds). Means over V, before → best rate and epoch; `rtt-paper` asks for letters unless said otherwise. "
        f"Chance in multiple choice is {1 / len(bundle.forget.score[0].choices):.2f}."
    )


def main() -> None:
    """Attack, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    what.add_argument("--small", action="store_true", help="tiny settings: figures mean nothing")
    options = parser.parse_args()
    drop_harmless_lines()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    made = made_by(command_line(__file__), "peft")
    facts, model, variants = FACTS, MODEL, VARIANTS
    if options.small:
        facts, model = replace(FACTS, forget=10, retain=4, practice=2, generic=2), replace(MODEL, epochs=1)
        variants = tuple(variant.shortened() for variant in VARIANTS)
    with tempfile.TemporaryDirectory() as place:
        target, hidden = Path(place) / "target", Path(place) / "hidden"
        bundle = make_target(facts, model, target)
        hide(target, bundle, hidden)
        lines = []
        for variant in variants:
            for name, folder in (("hidden", hidden), ("target", target)):
                if name == "hidden" or variant.on_target:
                    cells = attacked_once(variant.attack, folder, target, bundle)
                    lines.append([variant.title, name, *cells])
                    print(" | ".join(lines[-1]), flush=True)
        text = about(variants[0].attack, bundle, model, target)
    shown = table(["attack", "model", "probability", "multiple choice", "epochs run"], lines)
    print(f"\n{made}\n\n{text}\n\n{shown}")
    if options.write:
        write_sections(PAGE, TITLE, {"variants": f"{made}\n\n{text}\n\n{shown}"})


if __name__ == "__main__":
    main()
