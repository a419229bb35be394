"""Deletion requests one after another: earlier ones are asked again, and a model that brings one back fails."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer, train_scratch_model
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages import stages_through
from hf_unlearn.stages.data import load_bundle

FACTS = 14
PETS = ("Fig", "Moss", "Salt", "Wren", "Opal", "Dusk", "Pine", "Lark", "Mint", "Cove", "Reed", "Jade")


def pet_rows(name: str) -> list[dict[str, str]]:
    """Which pet somebody has, for people that no other set names."""
    draw = random.Random(f"requests-{name}")
    people = [f"{name.title()}{''.join(draw.choices('aeioulmnrst', k=4))} {number}" for number in range(FACTS)]
    return [
        {"prompt": f"The pet that belongs to {who} is called", "completion": f" {draw.choice(PETS)}"} for who in people
    ]


def write_rows(place: Path, name: str, sets: str) -> Path:
    path = place / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for each in sets for row in pet_rows(each)))
    return path


def build(place: Path, name: str, sets: str) -> Path:
    """A small model that knows some sets, with a tokenizer that favours none."""
    spec = ScratchSpec(
        64, 128, 2, 2, 1, vocab_size=400, max_positions=64, epochs=40, batch_size=16, learning_rate=4e-3
    )
    everything = load_source(Source(path=str(write_rows(place, "everything", "abcr"))), "retain").train
    rows = list(load_source(Source(path=str(write_rows(place, f"known-{name}", sets))), "retain").train)
    tokenizer = build_tokenizer([row.text for row in everything], spec)
    train_scratch_model(spec, rows, tokenizer, TextFormat(), place / name, progress="")
    return place / name


def recipe_of(place: Path, name: str, forget: str, kept: str, **given: Any) -> dict[str, Any]:
    """Forget one set and keep others; ``given`` is the rest."""
    data = {
        "forget": {"path": str(write_rows(place, f"forget-{forget}", forget))},
        "retain": {"path": str(write_rows(place, f"retain-{name}", kept))},
        "max_length": 32,
        "description": "the pets of some people who do not exist",
        **given.pop("data", {}),
    }
    method = {"name": "npo", "loss_type": "npo", "retain_loss_type": "nll", "retain_weight": 2.0, "max_steps": 30}
    method |= {"per_device_train_batch_size": 7, "learning_rate": 1.0e-3, "save_strategy": "no"}
    return {
        "name": name,
        "methods": [method],
        "data": data,
        "export": {"formats": ["bf16"]},
        "evaluate": {"metrics": ["probability"]},
        "attack": {"other-form": False},
        "gate": {
            "draws": 200,
            "max_recovered_share_formats": 0.3,
            "max_recovered_share_attacks": 0.3,
            "min_utility": 0.8,
        },
        **given,
    }


def put(place: Path, recipe: dict[str, Any]) -> Path:
    path = place / f"{recipe['name']}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(place: Path, recipe: dict[str, Any], command: str = "run") -> int:
    path = put(place, recipe)
    return main([command, str(path), "--output-dir", str(place / recipe["name"]), "--workers", "0"])


def report_of(place: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / name / "verify" / "unlearning_report.json").read_text())
    return found


def earlier(place: Path, name: str, letter: str, **changes: Any) -> dict[str, Any]:
    """An earlier request, which the first target knew."""
    given = {
        "id": f"request-{letter}",
        "forget": {"path": str(place / f"forget-{letter}.jsonl")},
        "target": str(place / ("knows" if name == "first" else "first/train")),
        "never_knew": str(place / "never"),
        "report": str(place / name),
        "date": "2026-03-01",
    }
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was made to forget three sets, one request after the other."""
    place = tmp_path_factory.mktemp("requests")
    knows, never = build(place, "knows", "abcr"), build(place, "never", "r")
    model = {"target": str(knows), "never_knew": str(never)}
    bare = {"formats": []}
    with pytest.MonkeyPatch.context() as patch:  # without pages and published folders, which take most of the time
        patch.setattr("hf_unlearn.pipeline.stages_of", lambda command: stages_through("verify"))
        run(place, recipe_of(place, "first", "a", "bcr", model=model, export=bare))
        model = {"target": str(place / "first" / "train"), "never_knew": str(never)}
        one = [earlier(place, "first", "a")]
        run(place, recipe_of(place, "second", "b", "acr", model=model, export=bare, data={"earlier": one}))
    model = {"target": str(place / "second" / "train"), "never_knew": str(never)}
    both = [earlier(place, "first", "a"), earlier(place, "second", "b")]
    run(place, recipe_of(place, "third", "c", "abr", model=model, data={"earlier": both}))
    return place


def test_the_third_request_does_not_bring_the_first_back(released):
    report = report_of(released, "third")
    assert report["verdict"]["status"] == "passed", report["verdict"]["reasons"]
    assert report["verdict"]["reasons"][-1] == (
        "What earlier requests asked for stays forgotten too: request-a, request-b."
    )
    first, second = report["earlier"]
    assert (first["id"], first["date"], first["then"], first["now"]) == ("request-a", "2026-03-01", "passed", "passed")
    assert second["then"] == second["now"] == "passed"
    then = report_of(released, "first")
    assert first["report"] == then["digest"]
    assert first["salted_hash_then"] == then["data"]["forget"]["salted_hash"] != first["set"]["salted_hash"]
    assert first["target"]["files"] == then["models"]["target"]["files"]
    shares = {row["transform"]: row for row in first["recovered"]}
    assert shares.keys() == {"identity", "bf16"}
    assert all(row["recovered_share"] < 0.3 for row in shares.values())
    assert first["not_judged"] == [] and any("2 of 2 conditions of the gate" in note for note in first["notes"])
    known = {row["model"]: row["value"] for row in first["scores"] if row["transform"] == "identity"}
    assert known["target"] > 0.8 > 0.3 > known["npo"]


def test_what_was_forgotten_is_not_trained_to_be_kept(released):
    for name, count in (("second", FACTS), ("third", 2 * FACTS)):
        report = report_of(released, name)
        left = f"{count} of the {3 * FACTS} rows of the retain set are left out"
        assert any(note.startswith(left) for note in report["notes"]), report["notes"]
        assert report["data"]["retain"]["rows"] == 3 * FACTS - count


def test_a_finished_run_is_not_repeated(released):
    made = report_of(released, "third")["created"]
    assert run(released, yaml.safe_load((released / "third.yaml").read_text())) == 0
    assert report_of(released, "third")["created"] == made


def test_a_report_without_earlier_requests_says_nothing_of_them(released):
    assert "earlier" not in report_of(released, "first")


def test_page_card_and_ledger_tell_them(released, capsys):
    hashed = report_of(released, "first")["data"]["forget"]["salted_hash"][:12]
    for file in ("report.html", "publish/README.md"):
        text = (released / "third" / file).read_text()
        assert "request-a" in text and "2026-03-01" in text and hashed in text, file
    capsys.readouterr()
    assert main(["requests", str(released / "third"), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["id"], entry["then"], entry["now"]) for entry in entries] == [
        ("request-a", "passed", "passed"),
        ("request-b", "passed", "passed"),
        ("third", "passed", "passed"),
    ]
    assert main(["requests", str(released / "third.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        ["request-a", "2026-03-01", str(FACTS), "passed", "–"],
        ["request-b", "2026-03-01", str(FACTS), "passed", "–"],
    ]


def test_a_model_that_brings_the_first_back_fails_by_its_name(released, capsys):
    """It never knew what the third request is about, so only the earlier ones can catch it."""
    back = build(released, "brings-back", "abr")
    again = recipe_of(
        released,
        "audit",
        "c",
        "r",
        model={"target": str(released / "second" / "train"), "never_knew": str(released / "never")},
        data={"earlier": [earlier(released, "first", "a"), earlier(released, "second", "b")]},
        methods=[{"name": "brings-back", "checkpoint": str(back)}],
        attack={"other-form": False, "noise": {"amounts": [0.01], "draws": 1}},
    )
    assert run(released, again, "audit") == 1
    shown = capsys.readouterr().out
    report = report_of(released, "audit")
    assert report["verdict"]["status"] == "failed"
    assert {row["status"] for row in report["recovered"] if row["threshold"] is not None} <= {"passed", "inconclusive"}
    blamed = [reason for reason in report["verdict"]["reasons"] if "forgotten knowledge is still there" in reason]
    for place in ("As it stands", "bf16", "noise"):
        assert any(reason.startswith(f"Earlier request request-a: {place}: ") for reason in blamed), blamed
    first = report["earlier"][0]
    assert (first["then"], first["now"]) == ("passed", "failed")
    assert {row["transform"] for row in first["recovered"] if row["status"] == "failed"} == {
        "identity",
        "bf16",
        "noise",
    }
    assert {(run["model"], run["name"]) for run in first["attacks"]} == {
        ("target", "noise"),
        ("never_knew", "noise"),
        ("brings-back", "noise"),
    }
    assert "request-a (2026-03-01), 14 facts: passed then, failed now." in " ".join(shown.split())
    assert main(["requests", str(released / "audit")]) == 1
    assert "request-a: As it stands: forgotten knowledge is still there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": {"path": "forget-b.jsonl"}}, r"data\.earlier \(request-a\): the 14 rows of forget are not the 14"),
        ({"forget": {"path": "forget-a.jsonl", "limit": 13}}, "the 13 rows of forget are not the 14"),
        ({"report": "second"}, "its report tells of the request 'request-a' before it, which the recipe leaves out"),
        ({"target": None}, "its report names no target on the Hub: add target"),
    ],
)
def test_rows_and_reports_that_do_not_fit_are_refused(released, changes, message, tmp_path):
    for key in ("forget", "report"):
        if isinstance(changes.get(key), dict):
            changes = {**changes, key: {**changes[key], "path": str(released / changes[key]["path"])}}
        elif key in changes:
            changes = {**changes, key: str(released / changes[key])}
    named = earlier(released, "first", "a", **changes)
    if "report" in changes:
        named["id"] = "request-x"
        named["forget"] = {"path": str(released / "forget-b.jsonl")}
    model = {"target": str(released / "first" / "train"), "never_knew": str(released / "never")}
    recipe = recipe_of(tmp_path, "wrong", "c", "r", model=model, data={"earlier": [named]})
    with pytest.raises(RequestError, match=message):
        if "target" in changes:
            from hf_unlearn.pipeline import run_pipeline

            run_pipeline(load_recipe(put(tmp_path, recipe)), tmp_path / "out", workers=0)
        else:
            load_bundle(load_recipe(put(tmp_path, recipe)))


def test_another_target_than_that_of_the_report_is_refused(released, tmp_path):
    from hf_unlearn.pipeline import run_pipeline

    named = earlier(released, "first", "a", target=str(released / "never"))
    model = {"target": str(released / "first" / "train"), "never_knew": str(released / "never")}
    recipe = recipe_of(tmp_path, "wrong", "b", "r", model=model, data={"earlier": [named]})
    with pytest.raises(RequestError, match=r"request-a\): target is not the model that .* model.safetensors"):
        run_pipeline(load_recipe(put(tmp_path, recipe)), tmp_path / "out", workers=0)


def test_without_the_salt_the_report_says_that_rows_were_not_compared(released, tmp_path):
    shutil.copy(released / "first" / "verify" / "unlearning_report.json", tmp_path / "report.json")
    named = earlier(released, "first", "a", report=str(tmp_path / "report.json"))
    model = {"target": str(released / "first" / "train"), "never_knew": str(released / "never")}
    recipe = recipe_of(tmp_path, "blind", "b", "r", model=model, data={"earlier": [named]})
    notes = load_bundle(load_recipe(put(tmp_path, recipe))).notes
    assert any("request-a were not compared with its report" in note for note in notes)
