"""The recipe that the README shows, carried out: only the model, the files and the sizes are others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example
from hf_unlearn.data.planted import PlantedSpec, fact_kind, make_generic, make_people, values_of
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.built_models import build_scratch

FACTS = 72
"""A limit of 0.10 needs 36 if none of them is guessed, and about twice as many if one or two are."""
SPEC = PlantedSpec(forget=FACTS, retain=FACTS, holdout=FACTS, practice=0, generic=2 * FACTS)
MODEL = ScratchSpec(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=2,
    kv_heads=1,
    vocab_size=800,
    epochs=40,
    batch_size=16,
    learning_rate=4e-3,
)
SMALLER = (
    "methods.0.learning_rate=1.0e-3",
    "evaluate.max_new_tokens=3",
    "evaluate.fluency_tokens=16",
    "evaluate.generate_limit=8",
    "attack.rtt.learning_rates=[1.0e-3]",
    "attack.rtt.folds=2",
    "attack.rtt.epochs=2",
    "attack.rtt.warmup_steps=2",
)
"""Numbers alone: the limits of the gate are those of the recipe."""


def rows_of(number: int) -> list[Example]:
    people = make_people(SPEC)[number * FACTS : (number + 1) * FACTS]
    asked = fact_kind(SPEC.kind).train_templates[0]
    return [Example(who.name, asked.format(name=who.name), f" {who.value}", who.name, who.name) for who in people]


def halved(sentence: Example) -> Example:
    """An ordinary sentence as a row with a question and an answer."""
    words = sentence.answer.split(" ")
    begun, ended = words[: len(words) // 2], words[len(words) // 2 :]
    return replace(sentence, prompt=" ".join(begun), answer=" " + " ".join(ended))


def write_rows(path: Path, rows: list[Example]) -> None:
    path.write_text("".join(json.dumps({"prompt": row.prompt, "completion": row.answer}) + "\n" for row in rows))


def readme_recipe(root: Path) -> str:
    """The only recipe of the README."""
    (text,) = re.findall(r"^```yaml\n(name: .*?)^```$", (root / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return text


def recipe_beside_its_files(root: Path, place: Path, epochs: int) -> Path:
    """The README's recipe with the files that it names, and a small model in the place of its own."""
    sets = {name: rows_of(number) for number, name in enumerate(("forget", "retain", "holdout"))}
    ordinary = list(make_generic(SPEC))
    sets["retain"] += map(halved, ordinary[:FACTS])  # what has to stay is not only facts of the same kind
    for name, rows in sets.items():
        write_rows(place / f"{name}.jsonl", rows)
    (place / "ordinary_text.txt").write_text("".join(row.text + "\n" for row in ordinary[FACTS:]))
    learnt = [*sets["forget"], *sets["retain"], *ordinary[FACTS:]]
    # Every year is one token: of years in pieces, some pieces are guessed.
    years = [f" {year}" for year in values_of(SPEC)]
    texts = [row.text for row in [*learnt, *sets["holdout"]]] + 9 * years
    build_scratch(replace(MODEL, epochs=epochs), learnt, texts, TextFormat(), place / "model", "target")
    text = readme_recipe(root)
    assert text.count("my-org/my-model ") == 1
    (place / "recipe.yaml").write_text(text.replace("my-org/my-model ", f"{place / 'model'} "))
    return place / "recipe.yaml"


def test_nothing_is_in_the_way_of_the_recipe(root, tmp_path, monkeypatch, capsys):
    """All but the run itself, with a model that has learnt nothing."""
    recipe = recipe_beside_its_files(root, tmp_path, epochs=1)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "recipe.yaml", "--flops", "1e10", *SMALLER]) == 0
    told = capsys.readouterr().out
    formats = yaml.safe_load(recipe.read_text())["export"]["formats"]
    assert f"2 models in {len(formats)} formats" in told and "train     auto" in told and "attack    rtt" in told
    assert "--retrain-tokens N" in told and "refused" not in told


@pytest.mark.slow
def test_the_recipe_runs_to_passed(root, tmp_path, monkeypatch):
    recipe_beside_its_files(root, tmp_path, MODEL.epochs)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "recipe.yaml", "--output-dir", "out", "--workers", "0", *SMALLER]) == 0
    report = json.loads((tmp_path / "out" / "verify" / "unlearning_report.json").read_text())
    assert report["verdict"]["status"] == "passed" and report["verdict"]["candidate"] == "auto"
    tried = {outcome["transform"] for outcome in report["verdict"]["outcomes"]}
    assert {"identity", "rtt", *load_recipe("recipe.yaml").export.formats} <= tried
