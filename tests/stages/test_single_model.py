"""One model that is attacked by itself: what its variants are recognised by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hf_unlearn.attacks.base import AttackResult
from hf_unlearn.attacks.composed import after_of
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import RelearnAll
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.recipe.attacks import parse_attacks
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.runtime.strict_yaml import Located
from hf_unlearn.stages import single_model
from hf_unlearn.stages.attack import attack_units
from hf_unlearn.stages.context import Subject
from hf_unlearn.stages.single_model import SingleModel
from hf_unlearn.verification.scores import FactScores

SPEC = PlantedSpec(forget=16, retain=16, holdout=4, practice=8, generic=16, option_draws=2, first_year=1980)
FACTS = 40
SUBJECT = Subject("model", "method", Path("model"), "digest")


def after(format_name: str) -> dict[str, Prune]:
    """Pruning of the weights that a format leaves, as the command line reads it."""
    item = {"attack": Located("prune", ""), "after": Located(format_name, "")}
    return dict(parse_attacks(Located({"pruned": Located(item, "")}, "")).attacks)


def single(folder: Path, attacks: dict[str, Prune]) -> SingleModel:
    quiet = Progress(Console(quiet=True))
    return SingleModel(folder, make_planted(SPEC), Workers(0), quiet, attacks, TextFormat(), ("probability",))


@pytest.mark.parametrize("format_name", ["gguf-q8_0", "bnb-nf4"])
def test_a_variant_is_made_again_after_its_library_was_updated(format_name, tmp_path, monkeypatch):
    attacks = after(format_name)
    assert after_of(attacks["pruned"]) == format_name

    def units(version: str) -> list[object]:
        monkeypatch.setattr(single_model, "library_version", lambda package: version)
        monkeypatch.setattr(single_model, "library_versions", lambda: {"bitsandbytes": version})
        context = single(tmp_path, attacks)
        (attacked, *_) = attack_units(context, None, SUBJECT, "pruned", attacks["pruned"]).values()
        return [context.export_unit(SUBJECT, format_name).inputs, attacked.inputs]

    assert all(old != new for old, new in zip(units("1"), units("2"), strict=True))
    assert units("1") == units("1")


def test_a_library_alone_makes_a_gguf_variant_another_one(tmp_path, monkeypatch):
    """Its package is not among those whose versions count for every number."""
    found = []
    for version in ("1", "2"):
        monkeypatch.setattr(single_model, "library_version", lambda package, version=version: version)
        monkeypatch.setattr(single_model, "library_versions", lambda: {"torch": "0"})
        found.append(single(tmp_path, {}).export_unit(SUBJECT, "gguf-q8_0").inputs)
    assert found[0] != found[1]
    assert {**found[0], "library": "2"} == found[1]


def test_formats_are_those_that_attacks_start_from(tmp_path):
    assert single(tmp_path, after("bnb-nf4") | {"plain": Prune()}).formats == ("bnb-nf4",)


def results_of(forget: dict[str, float], holdout: dict[str, float]) -> dict[str, AttackResult]:
    """What an attack brought back of forgotten facts and of holdout facts, a level for each model."""

    def facts(level: float, prefix: str) -> dict[str, FactScores]:
        names = [f"{prefix}{number}" for number in range(FACTS)]
        return {"probability": FactScores(dict.fromkeys(names, level), {name: name for name in names})}

    return {model: AttackResult(facts(forget[model], "f"), [], facts(holdout[model], "h")) for model in forget}


def table_row(folder, monkeypatch, attack, results) -> dict[str, object]:
    subjects = [replace(SUBJECT, name=name) for name in results]
    monkeypatch.setattr(single_model, "attack_result", lambda context, target, subject, *rest: results[subject.name])
    context = single(folder, {"attack": attack})
    (found,) = single_model.attack_table(single_model.SingleRun(context, subjects, None, True))["attacks"]
    (row,) = found["metrics"]
    return row


def test_without_a_never_knew_model_the_floor_is_what_the_attacked_model_says_of_holdout_facts(tmp_path, monkeypatch):
    """(0.5 - 0.3) / (0.7 - 0.3); holdout facts of the target say only that it knows more of the forgotten ones."""
    results = results_of({"model": 0.5, "target": 0.7}, {"model": 0.3, "target": 0.1})
    row = table_row(tmp_path, monkeypatch, Prune(), results)
    assert row["holdout"] == pytest.approx({"model": 0.3, "target": 0.1})
    assert row["recovered_share"] == pytest.approx(0.5)
    assert row["floor"] == "holdout facts asked of the attacked model"


def test_holdout_facts_are_told_where_nothing_can_be_compared_and_are_no_floor_for_what_was_taught(
    tmp_path, monkeypatch
):
    alone = table_row(tmp_path, monkeypatch, Prune(), results_of({"model": 0.5}, {"model": 0.3}))
    assert alone["holdout"] == pytest.approx({"model": 0.3}) and "recovered_share" not in alone
    results = results_of({"model": 0.5, "target": 0.7}, {"model": 0.3, "target": 0.1})
    taught = table_row(tmp_path, monkeypatch, RelearnAll(), results)
    assert taught["recovered_share"] is None
    assert taught["undefined"] == f"without a never-knew model it cannot be judged: {RelearnAll.no_floor}"
