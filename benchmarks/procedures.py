"""Procedures of docs/procedures.md beside each other on one small model: what is forgotten, kept and relearned.

    python benchmarks/procedures.py             # three to five minutes on one core
    python benchmarks/procedures.py --write     # also into benchmarks/procedures.md
    python benchmarks/procedures.py --small     # half a minute with meaningless figures, to see that it works

A Llama of 0.8 million weights learns 60 planted facts to forget and 60 to keep, by the package's own stage; every
method then unlearns it, by the package's own training. Shown is the share of facts that are answered greedily: as the
model stands, with its linear layers rounded to the grid of NF4 in memory, and on one half of the forget facts while
the other half is trained again (the attack ``rtt`` with two folds of which one is run, one rate, no warm-up; the best
epoch counts, the one before the first step among them). Seconds are processor time of the training, without loading
the libraries. A second table holds every scale that ``delta-scaling`` tried.

One seed, one set of facts and no model that never knew beside it: a look, and no verdict. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pages import command_line, made_by, table, write_sections

from hf_unlearn.attacks import model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import TextFormat, load_tokenizer
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import load_model
from hf_unlearn.models.scratch import ScratchSpec, knows
from hf_unlearn.quantization.grids import find_grid
from hf_unlearn.robust.delta_scaling import rounded
from hf_unlearn.runtime.log_filters import drop_harmless_lines
from hf_unlearn.stages.built_models import build_scratch
from hf_unlearn.stages.models import scratch_rows, tokenizer_texts
from hf_unlearn.stages.train import train_method

PAGE = Path(__file__).with_suffix(".md")
TITLE = "Procedures beside each other"
FORMAT = TextFormat()
FACTS = PlantedSpec(forget=60, retain=60, holdout=0, practice=20, generic=80)
MODEL = ScratchSpec(hidden_size=128, intermediate_size=256, layers=4, vocab_size=768, max_positions=64, epochs=24)
SMALL_FACTS = PlantedSpec(forget=8, retain=8, holdout=0, practice=2, generic=6, first_year=1990)
SMALL_MODEL = ScratchSpec(hidden_size=128, intermediate_size=128, layers=3, vocab_size=400, max_positions=64, epochs=2)
RELEARNING = RTT(folds=2, run_folds=1, learning_rates=(1e-3,), epochs=4, batch_size=32, warmup_steps=0, patience=0)
GRIDS = ("nf4", "fp4", "int4-g128")


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        title: What the table calls it.
        settings: Of the method, as in a recipe.
    """

    title: str
    settings: Mapping[str, Any]

    def shortened(self) -> Method:
        """The same in a few steps."""
        settings = {**self.settings, "max_steps": min(self.settings["max_steps"], 8)}
        parts = [{**part, **{key: 1 for key in ("epochs", "epochs_per_stage") if key in part}} for part in self.parts]
        settings["robust"] = [
            {**part, **{key: 4 for key in ("unlearn_steps", "steps") if key in part}} for part in parts
        ]
        return Method(self.title, settings)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Its robust parts."""
        return list(self.settings.get("robust", []))


COMMON = {"per_device_train_batch_size": 16, "learning_rate": 5e-4, "retain_per_forget": 3}
NPO = {**COMMON, "loss_type": "npo", "retain_loss_type": "kl", "retain_weight": 10.0}
_AT = {"layer": 2}
RMU = {**COMMON, "loss_type": "rmu", "loss_kwargs": _AT, "retain_loss_type": "hidden", "retain_loss_kwargs": _AT}
HIDING = {**NPO, "retain_loss_type": "nll", "retain_weight": 8.0, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}


def _grom(*parts: dict[str, Any], strength: float) -> dict[str, Any]:
    edit = {"name": "grom", "layers": 3, "strength": strength}
    return {**COMMON, "max_steps": 0, "robust": [edit, *parts]}


def _task_vector(alpha: float) -> dict[str, Any]:
    part = {"name": "task-vector", "alpha": alpha}
    return {**COMMON, "loss_type": "nll", "retain_loss_type": "none", "max_steps": 20, "robust": [part]}


def _who_is_harry_potter(rate: float, epochs: int) -> dict[str, Any]:
    part = {"name": "who-is-harry-potter", "learning_rate": rate, "epochs": epochs}
    return {**COMMON, "loss_type": "nll", "retain_weight": 1.0, "max_steps": 80, "robust": [part]}


def _frp(**shares: float) -> dict[str, Any]:
    return {**COMMON, "max_steps": 0, "robust": [{"name": "frp", **shares}]}


SCALING = {"name": "delta-scaling", "max_kl": 0.2}
METHODS = (
    Method("`npo` + `kl`, 60 steps", {**NPO, "max_steps": 60}),
    Method("the same, 120 steps", {**NPO, "max_steps": 120}),
    Method(
        "`layered-folds` (3 folds, 2 epochs a stage), 120 steps",
        {**NPO, "max_steps": 120, "robust": [{"name": "layered-folds", "folds": 3, "epochs_per_stage": 2}]},
    ),
    Method("`grom` (3 layers), strength 2", _grom(strength=2.0)),
    Method("`grom` (3 layers), strength 6", _grom(strength=6.0)),
    Method("`grom` (3 layers), strength 20", _grom(strength=20.0)),
    Method("`grom` (3 layers), strength 6, and `delta-scaling`", _grom(SCALING, strength=6.0)),
    Method("`frp`, share 0.03", _frp(share=0.03)),
    Method("`frp`, share 0.1, retain 0.15", _frp(share=0.1, retain=0.15)),
    Method(
        "`npo` + `kl` with `fo-zo`, blocks of 10, 120 steps",
        {**NPO, "max_steps": 120, "robust": [{"name": "fo-zo", "steps": 10}]},
    ),
    Method(
        "`clamped-entropy` + `blade`, penalty 10, 60 steps",
        {
            **COMMON,
            "loss_type": "clamped-entropy",
            "retain_loss_type": "nll",
            "max_steps": 60,
            "robust": [{"name": "blade", "penalty": 10.0}],
        },
    ),
    Method(
        "`bs-t` + 5 times `nll`, 60 steps",
        {**COMMON, "loss_type": "bs-t", "retain_loss_type": "nll", "retain_weight": 5.0, "max_steps": 60},
    ),
    Method("`rmu` + `hidden`, 60 steps", {**RMU, "max_steps": 60}),
    Method("the same with `mcu`", {**RMU, "max_steps": 60, "robust": [{"name": "mcu"}]}),
    Method("`task-vector`, alpha 1, 20 steps", _task_vector(1.0)),
    Method("`task-vector`, alpha 3, 20 steps", _task_vector(3.0)),
    Method("`who-is-harry-potter`, reinforced at 5e-4 for 2 epochs, 80 steps", _who_is_harry_potter(5e-4, 2)),
    Method("`who-is-harry-potter`, reinforced at 2e-3 for 10 epochs, 80 steps", _who_is_harry_potter(2e-3, 10)),
    Method(
        "`undo` (60 steps at 1e-3, then 200; alpha 0.4)",
        {
            **NPO,
            "learning_rate": 1e-3,
            "max_steps": 260,
            "robust": [{"name": "undo", "unlearn_steps": 60, "alpha": 0.4}],
        },
    ),
    Method("`bin_hidden` (NF4), 120 steps at 1e-3", {**HIDING, "max_steps": 120, "control": {"name": "bin_hidden"}}),
    Method(
        "the same and `delta-scaling`",
        {**HIDING, "max_steps": 120, "control": {"name": "bin_hidden"}, "robust": [SCALING]},
    ),
)


@dataclass(frozen=True)
class Bench:
    """The model before unlearning, and what it is asked.

    Attributes:
        target: Its folder.
        bundle: Training rows; generic text stands among the retain rows.
        forget: One row per question about a fact to forget.
        retain: One row per question about a fact to keep.
    """

    target: Path
    bundle: DataBundle
    forget: list[Example]
    retain: list[Example]


def make_bench(facts: PlantedSpec, model: ScratchSpec, place: Path) -> Bench:
    """Train the target."""
    planted = make_planted(facts)
    rows = list(scratch_rows(planted, with_forget=True, with_extra=True))
    build_scratch(model, rows, tokenizer_texts(planted), FORMAT, place, "target")
    kept = RowSet((*planted.retain.train, *planted.generic.train), planted.retain.score)
    return Bench(place, replace(planted, retain=kept), _once(planted.forget.score), _once(planted.retain.score))


def _once(rows: tuple[Example, ...]) -> list[Example]:
    return list({(row.prompt, row.answer): row for row in rows}.values())


def unlearn(bench: Bench, settings: Mapping[str, Any], place: Path) -> tuple[float, dict[str, Any]]:
    """Run one method; processor seconds, and what its parts tell."""
    quiet = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 100_000}
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        told = train_method(bench.target, place, place / "work", bench.bundle, FORMAT, {**quiet, **settings}, 0)
    return time.process_time() - began, told.get("parts", {})


def on_nf4(bench: Bench, folder: Path) -> float:
    """Share of forget facts that a model answers when its linear layers are rounded."""
    model = load_model(folder, dtype="float32")
    with tempfile.TemporaryDirectory() as place:
        with rounded(model, find_grid("nf4")):
            model.save_pretrained(place)
        load_tokenizer(str(folder)).save_pretrained(place)
        return knows(Path(place), bench.forget, FORMAT)


def relearned(bench: Bench, folder: Path) -> float:
    """Share of one half of the forget facts answered when the other half has been trained again."""
    attacked = Attacked(folder, bench.target, bench.bundle, FORMAT, ("exact_match",))
    (job,) = RELEARNING.plan(bench.bundle)
    with tempfile.TemporaryDirectory() as place:
        RELEARNING.run_job(job, attacked, Path(place))
        model_cache.release()
        (found,) = RELEARNING.collect({job: Path(place)}, ("exact_match",)).details
    return float(found["after"])


def scales(title: str, told: Mapping[str, Any]) -> list[list[str]]:
    """What ``delta-scaling`` tried, least scale first."""
    rows = []
    outcome = told.get("delta-scaling", {})
    for tried in sorted(outcome.get("tried", ()), key=lambda tried: tried["scale"]):
        taken = ", taken" if outcome["passes"] and tried["scale"] == outcome["scale"] else ""
        recovered = [f"{tried['recovered'][grid]:.3f}" if grid in tried["recovered"] else "" for grid in GRIDS]
        rows.append([title, f"{tried['scale']:.3f}", *recovered, f"{tried['kl']:.3f}", f"{tried['state']}{taken}"])
    return rows


def measure(bench: Bench, methods: tuple[Method, ...]) -> tuple[str, str]:
    """Both tables."""
    shown = ["target", f"{knows(bench.target, bench.forget, FORMAT):.2f}", f"{on_nf4(bench, bench.target):.2f}"]
    lines = [[*shown, f"{knows(bench.target, bench.retain, FORMAT):.2f}", "", ""]]
    tried: list[list[str]] = []
    for method in methods:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            seconds, told = unlearn(bench, method.settings, folder)
            shutil.rmtree(folder / "work", ignore_errors=True)
            shares = knows(folder, bench.forget, FORMAT), on_nf4(bench, folder), knows(folder, bench.retain, FORMAT)
            cells = [f"{share:.2f}" for share in (*shares, relearned(bench, folder))]
        lines.append([method.title, *cells, f"{seconds:.0f}"])
        title = "`bin_hidden` and `delta-scaling`" if "control" in method.settings else method.title
        tried += scales(title, told)
        print(" | ".join(lines[-1]), flush=True)
    header = ["method", "forget", "forget, NF4 grid", "retain", "relearned", "CPU seconds"]
    return table(header, lines), table(["method", "scale", *GRIDS, "KL, nats a token", "state"], tried)


def about(bench: Bench, facts: PlantedSpec, model: ScratchSpec) -> str:
    """What was unlearned, and how it is read."""
    weights = sum(weight.numel() for weight in load_model(bench.target, dtype="float32").parameters())
    budget = RELEARNING.budget(bench.bundle)
    return (
        f"A Llama of {model.layers} layers, width {model.hidden_size} and {weights / 1e6:.1f} million weights, "
        f"trained for {model.epochs} epochs; {facts.forget} planted facts to forget and {facts.retain} to keep, "
        f"{len(bench.bundle.forget.train)} forget rows and {len(bench.bundle.retain.train)} retain rows, generic text "
        f"among them. Methods with `npo` have 10 times KL as the retain term, `bin_hidden` 8 times NLL. Shares of "
        f"questions answered greedily. *Relearned*: half of the forget facts ({budget['rows_in_T']} rows) are trained "
        f"for {budget['epochs']} epochs with AdamW at {RELEARNING.learning_rates[0]:g} and the other half is asked "
        f"for, at the best epoch, before the first step included. Seconds of one thread. One seed; there is no "
        f"never-knew model beside it, so nothing here is a verdict."
    )


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    what.add_argument("--small", action="store_true", help="tiny settings: figures mean nothing")
    options = parser.parse_args()
    drop_harmless_lines()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    made = made_by(command_line(__file__))
    facts, model, methods = FACTS, MODEL, METHODS
    if options.small:
        facts, model, methods = SMALL_FACTS, SMALL_MODEL, tuple(method.shortened() for method in METHODS)
    with tempfile.TemporaryDirectory() as place:
        bench = make_bench(facts, model, Path(place) / "target")
        methods_table, scales_table = measure(bench, methods)
        sections = {
            "methods": f"{made}\n\n{about(bench, facts, model)}\n\n{methods_table}",
            "scales": "What `delta-scaling` tried: by grid the share that it brings back, and divergence from the "
            f"target on retain rows.\n\n{scales_table}",
        }
    print("\n\n".join(sections.values()))
    if options.write:
        write_sections(PAGE, TITLE, sections)


if __name__ == "__main__":
    main()
