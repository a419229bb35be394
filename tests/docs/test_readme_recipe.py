"""The recipe that the README shows, carried out: only the model, the files and the sizes are others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example
from hf_unlearn.data.planted import PlantedSpec, fact_kind, make_generic, make_people
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.built_models import build_scratch

FACTS = 48
SPEC = PlantedSpec(forget=FACTS, retain=FACTS, holdout=FACTS, practice=0, generic=FACTS, first_year=1960)
MODEL = ScratchSpec(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=2,
    kv_heads=1,
    vocab_size=500,
    epochs=60,
    batch_size=16,
    learning_rate=4e-3,
)
SMALLER = (
    "methods.0.learning_rate=1.0e-3",
    "evaluate.max_new_tokens=3",
    "evaluate.fluency_tokens=8",
    "evaluate.generate_limit=8",
    "attack.rtt.learning_rates=[1.0e-3]",
    "attack.rtt.folds=2",
    "attack.rtt.epochs=2",
    "attack.rtt.warmup_steps=2",
    "gate.draws=1000",
)


def rows_of(number: int) -> list[Example]:
    people = make_people(SPEC)[number * FACTS : (number + 1) * FACTS]
    asked = fact_kind(SPEC.kind).train_templates[0]
    return [Example(who.name, asked.format(name=who.name), f" {who.value}.", who.name, who.name) for who in people]


def write_rows(path: Path, rows: list[Example]) -> None:
    path.write_text("".join(json.dumps({"prompt": row.prompt, "completion": row.answer}) + "\n" for row in rows))


def readme_recipe(root: Path) -> str:
    """The only recipe of the README."""
    (text,) = re.findall(r"^```yaml\n(name: .*?)^```$", (root / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder with the README's recipe, the files that it names, and a small model in the place of its own."""
    place = tmp_path_factory.mktemp("readme")
    sets = {name: rows_of(number) for number, name in enumerate(("forget", "retain", "holdout"))}
    for name, rows in sets.items():
        write_rows(place / f"{name}.jsonl", rows)
    generic = make_generic(SPEC)
    (place / "ordinary_text.txt").write_text("".join(row.text + "\n" for row in generic))
    learnt = [*sets["forget"], *sets["retain"], *generic]
    texts = [row.text for row in [*learnt, *sets["holdout"]]]
    build_scratch(MODEL, learnt, texts, TextFormat(), place / "model", "target")
    text = readme_recipe(root)
    assert text.count("my-org/my-model ") == 1
    (place / "recipe.yaml").write_text(text.replace("my-org/my-model ", f"{place / 'model'} "))
    return place


def test_the_recipe_runs_to_passed(made, monkeypatch):
    monkeypatch.chdir(made)
    arguments = ["run", "recipe.yaml", "--output-dir", "out", "--workers", "0", *SMALLER]
    assert main(arguments) == 0
    report = json.loads((made / "out" / "verify" / "unlearning_report.json").read_text())
    assert report["verdict"]["status"] == "passed" and report["verdict"]["candidate"] == "auto"
    shown = yaml.safe_load((made / "recipe.yaml").read_text())
    tried = {outcome["transform"] for outcome in report["verdict"]["outcomes"]}
    assert {"identity", "rtt", *shown["export"]["formats"]} <= tried
    assert load_recipe(made / "recipe.yaml").gate == load_recipe(made / "recipe.yaml", ["gate.draws=10000"]).gate
