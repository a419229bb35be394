"""What finished folders are recognised by, held against values that an earlier version gave.

If one of them changes, people's run folders are made again: a change has to be meant. ``verify`` is that of the rules
of the verdict as they are now (``verification.verdict.RULES``), and ``train`` that of the rules of ``auto``
(``TrainingPart.rules``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmarks.frontier.cells import Cell
from benchmarks.frontier.kinds import KINDS
from benchmarks.frontier.methods import METHODS
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages import context as context_module
from hf_unlearn.stages import single_model
from hf_unlearn.stages.attack import attack_units
from hf_unlearn.stages.context import RunContext, Subject
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.evaluate import evaluation_unit
from hf_unlearn.stages.plans import training_plans
from hf_unlearn.stages.retain_rows import self_generated_unit
from hf_unlearn.stages.single_model import SingleModel
from hf_unlearn.stages.units import Unit, fingerprint
from hf_unlearn.stages.verify import verify_unit

TARGET = Subject("target", "target", Path("target"), "digest of the target")
NEVER = Subject("never_knew", "never_knew", Path("never"), "digest of the never-knew model")
VERSIONS = {"hf_unlearn": "1", "torch": "2", "transformers": "3"}

EXPECTED = {
    "quickstart": {
        "train": "60f1a8baebb2c0748f1554df",
        "export": "e944d2183e28c54c9e04fe45",
        "evaluate": "39c6199b6efeb0476c9b63d0",
        "attack": "c4c63dfd030b63c118c9e341",
        "verify": "56b0175843dc9cf74f0231a3",
    },
    "frontier": {
        "train": "3d434951db2d8eaadecbc5d9",
        "export": "a3103e424b0c0de157d85962",
        "evaluate": "c0ae54871a40e04c39cdb6c2",
        "attack": "1c6f683e5591b84ee34f9796",
        "verify": "ef099f3d0f4cba3f4995d169",
    },
    "one model": {"export": "5de02dc29dd7b55c292956e9", "attack": "c1c0d8b74492ca18b3704a63"},
}


@pytest.fixture(autouse=True)
def same_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the package and of all libraries."""
    monkeypatch.setattr(context_module, "library_versions", lambda: VERSIONS)
    monkeypatch.setattr(single_model, "library_versions", lambda: VERSIONS)
    for module in (context_module, single_model):
        monkeypatch.setattr(module, "library_version", lambda package: "4")


def units_of(context: RunContext) -> Iterator[tuple[str, Unit]]:
    """Every unit of a run whose models are named, by stage."""
    plans = training_plans(context, TARGET, NEVER)
    for plan in plans:
        yield "train", plan.unit
        if plan.first is not None:
            yield "train", plan.first.unit
    trained = [Subject(plan.name, "method", plan.unit.path, f"digest of {plan.name}") for plan in plans]
    subjects = [TARGET, NEVER, *trained]
    sets = context.bundle.scored_sets()
    for subject in subjects:
        for name in context.recipe.export.formats:
            yield "export", context.export_unit(subject, name)
        for transform in context.transforms:
            yield "evaluate", evaluation_unit(context, TARGET, subject, transform, sets)
        for name, attack in context.attacks.items():
            for unit in attack_units(context, TARGET, subject, name, attack).values():
                yield "attack", unit
    yield "verify", verify_unit(context, TARGET, subjects)


def digests(units: Iterator[tuple[str, Unit]], output_dir: Path) -> Mapping[str, str]:
    """By stage, one digest over where its units stand and what went into them."""
    found: dict[str, dict[str, str]] = {}
    for stage, unit in units:
        found.setdefault(stage, {})[unit.path.relative_to(output_dir).as_posix()] = fingerprint(unit.inputs)
    return {stage: fingerprint(by_path)[:24] for stage, by_path in found.items()}


def run_context(recipe: str | Path, output_dir: Path) -> RunContext:
    loaded = load_recipe(recipe)
    return RunContext(loaded, output_dir, load_bundle(loaded), Workers(0), Progress(Console(quiet=True)))


def test_units_of_the_quickstart(tmp_path: Path) -> None:
    assert digests(units_of(run_context("quickstart", tmp_path)), tmp_path) == EXPECTED["quickstart"]


def test_units_of_a_cell_of_the_study(tmp_path: Path) -> None:
    entries = [METHODS[name].entry() for name in ("npo-kl", "auto")]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(Cell(KINDS["years"], 0, entries, tmp_path).recipe(), sort_keys=False))
    assert digests(units_of(run_context(path, tmp_path)), tmp_path) == EXPECTED["frontier"]


def test_the_unit_of_what_the_target_writes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    cell = Cell(KINDS["years-generic-drawn"], 0, [METHODS["npo-kl"].entry()], tmp_path)
    path.write_text(yaml.safe_dump(cell.recipe(), sort_keys=False))
    context = run_context(path, tmp_path)
    spec = context.recipe.data.keep_drawn
    assert spec is not None
    unit = self_generated_unit(context, TARGET, spec)
    assert unit.path == tmp_path / "references" / "drawn"
    assert fingerprint(unit.inputs)[:24] == "82271c1c924c40ccae470218"


def test_units_of_one_model_that_is_attacked(tmp_path: Path) -> None:
    spec = PlantedSpec(forget=16, retain=16, holdout=4, practice=8, generic=16, option_draws=2, first_year=1980)
    attacks = {"prune": Prune(), "rtt": RTT()}
    quiet = Progress(Console(quiet=True))
    context = SingleModel(tmp_path, make_planted(spec), Workers(0), quiet, attacks, TextFormat(), ("probability",))
    subject = Subject("model", "method", Path("model"), "digest of the model")

    def units() -> Iterator[tuple[str, Unit]]:
        yield "export", context.export_unit(subject, "bnb-nf4")
        for name, attack in attacks.items():
            for unit in attack_units(context, None, subject, name, attack).values():
                yield "attack", unit

    assert digests(units(), tmp_path) == EXPECTED["one model"]
