"""``hf-unlearn jobs``: a run as single commands, each of which makes one unit that the run picks up."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recipe import TINY, run

from hf_unlearn.cli.main import main
from hf_unlearn.runtime.locks import run_lock, unit_lock
from hf_unlearn.stages.units import read_manifest

FOLD = "attack/rtt/fold1-lr0.001"


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict]:
    capsys.readouterr()
    assert main(["jobs", *map(str, words), "--list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def began(finished: Path, tmp_path: Path) -> Path:
    """The finished run, for a test to take units out of."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_what_is_listed_is_what_a_run_makes(recipe, finished, capsys, tmp_path):
    units = listed(capsys, recipe, "--output-dir", tmp_path / "new")
    made = {path.parent.relative_to(finished).as_posix() for path in finished.rglob("manifest.json")}
    made = {name for name in made if read_manifest(finished / name) and name not in ("references/ends", "verify")}
    assert {unit["unit"] for unit in units} == {"models", *made}
    assert not (tmp_path / "new").exists()


def test_the_order_works_and_every_line_is_a_command(recipe, capsys, tmp_path):
    words = (recipe, "--output-dir", tmp_path / "a folder", "gate.draws=300")
    units = listed(capsys, *words)
    steps: dict[str, int] = {}
    for unit in units:
        assert all(steps[name] < unit["step"] for name in unit["after"])
        steps[unit["unit"]] = unit["step"]
    assert (steps["models"], steps["train"], steps["export/bnb-nf4"]) == (1, 3, 4)
    assert [unit["after"] for unit in units if unit["unit"] == "references/evaluate/never_knew/bnb-nf4"] == [
        ["references/export/never_knew/bnb-nf4", "references/export/target/bnb-nf4"]
    ]
    assert main(["jobs", *map(str, words), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, unit in zip(lines, units, strict=True):
        command, _, comment = line.partition("  # ")
        assert command == unit["command"] and comment.startswith(f"step {unit['step']}")
        assert shlex.split(line, comments=True) == [
            *("hf-unlearn", "jobs", str(recipe), "gate.draws=300"),
            *("--output-dir", str(tmp_path / "a folder"), "--only", unit["unit"]),
        ]


def test_names_of_all_kinds_of_units(tmp_path, capsys):
    """Several methods, trained and other controls, drawn texts, and attacks that start from a format's weights."""
    path = tmp_path / "wide.yaml"
    more = "  - {name: second, loss_type: ga, retain_loss_type: nll, max_steps: 2}\ncontrols:\n"
    more += "  - {name: hides, kind: bin_hidden, expected: failed, settings: {max_steps: 2}}\n"
    more += "  - {name: blind, kind: never_knew, expected: passed}\n"
    text = TINY.replace("export:", f"{more}export:").replace(
        "  rtt:", "  nf4-rtt: {attack: rtt, after: bnb-nf4, folds: 2}\n  rtt:"
    )
    path.write_text(text)
    after = {unit["unit"]: unit["after"] for unit in listed(capsys, path)}
    assert after["train/second"] == ["references/evaluate/target/identity", "references/evaluate/never_knew/identity"]
    assert after["references/export/hides/bnb-nf4"] == ["references/train/hides"]
    assert after["references/evaluate/blind/identity"] == ["models"]
    assert after["attack/second/.weights/bnb-nf4"] == ["export/second/bnb-nf4"]
    jobs = [name for name in after if name.startswith("attack/second/nf4-rtt/")]
    assert jobs and after[jobs[0]] == ["attack/second/.weights/bnb-nf4"]
    assert list(after).count("attack/second/.weights/bnb-nf4") == 1


def content_of(unit: Path) -> dict:
    """A manifest without the seconds that its unit took."""
    manifest = read_manifest(unit)
    assert manifest is not None
    return {key: value for key, value in manifest.items() if key != "seconds"}


@pytest.mark.parametrize("unit", ["evaluate/bnb-nf4", FOLD])
def test_one_unit_is_made_while_others_are_in_hand(unit, recipe, began, finished, capsys):
    """Its manifest is the one of the run, which therefore takes it as its own."""
    shutil.rmtree(began / unit)
    before = {path: path.stat().st_mtime_ns for path in began.rglob("*.safetensors")}
    with unit_lock(began, began / "export" / "bnb-nf4", print):
        assert main(["jobs", str(recipe), "--output-dir", str(began), "--only", unit]) == 0
    assert f"{unit} is finished" in capsys.readouterr().out
    assert content_of(began / unit) == content_of(finished / unit)
    assert {path: path.stat().st_mtime_ns for path in began.rglob("*.safetensors")} == before
    assert not list(began.rglob("*.partial"))


def test_the_run_picks_up_what_is_there(recipe, began, finished):
    shutil.rmtree(began / FOLD)
    assert main(["jobs", str(recipe), "--output-dir", str(began), "--only", FOLD]) == 0
    made = (began / FOLD / "manifest.json").stat().st_mtime_ns
    assert run(recipe, began, command="attack") == 0
    assert (began / FOLD / "manifest.json").stat().st_mtime_ns == made


def test_what_is_needed_comes_first(recipe, began, refused):
    shutil.rmtree(began / "export")
    shutil.rmtree(began / "evaluate" / "bnb-nf4")
    sentence = refused(2, "jobs", recipe, "--output-dir", began, "--only", "evaluate/bnb-nf4")
    need = "export/bnb-nf4"
    assert sentence == (f"evaluate/bnb-nf4 needs {need}, which is not finished: make that first (--only {need})")
    shutil.rmtree(began / "train")
    sentence = refused(2, "jobs", recipe, "--output-dir", began, "--only", "evaluate/bnb-nf4")
    assert sentence == "evaluate/bnb-nf4 needs train, which is not finished: make that first (--only train)"


def test_a_unit_in_hand_and_a_run_at_work(recipe, began, refused):
    who = rf"process {os.getpid()} on "
    words = ("jobs", recipe, "--output-dir", began, "--only")
    with unit_lock(began, began / FOLD, print):
        sentence = refused(2, *words, FOLD)
        assert f"{began / FOLD} is being made by {who}" in sentence
        assert who in refused(2, "attack", recipe, "--output-dir", began)
    with run_lock(began, print):
        assert who in (sentence := refused(2, *words, FOLD)) and "a run is using" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say one of --list, to see the units of a run, and --only UNIT, to make one of them"),
        (("--list", "--only", "train"), "say one of --list"),
        (("--only", "train", "--json"), "--json belongs to --list"),
        (("--only", "trian"), "--only trian is no unit of this run, did you mean train? `hf-unlearn jobs RECIPE"),
    ],
)
def test_requests_that_are_wrong(words, sentence, recipe, refused, tmp_path):
    assert refused(2, "jobs", recipe, "--output-dir", tmp_path / "new", *words).startswith(sentence)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow  # a quicker test of the same kind holds the locks itself
def test_two_commands_at_the_same_time(recipe, began, finished):
    units = [FOLD, FOLD, "attack/rtt/fold0-lr0.001"]
    for unit in set(units):
        shutil.rmtree(began / unit)
    command = [sys.executable, "-m", "hf_unlearn", "jobs", str(recipe), "--output-dir", str(began), "--only"]
    started = [subprocess.Popen([*command, unit], stderr=subprocess.PIPE, text=True) for unit in units]
    errors = [process.communicate(timeout=900)[1] for process in started]
    codes = [process.returncode for process in started]
    assert codes[2] == 0, errors[2]
    # The second one for the same unit finds it in hand, or finished if it was that late.
    assert 0 in codes[:2] and set(codes[:2]) <= {0, 2}, errors
    for process, code, other in ((0, codes[0], 1), (1, codes[1], 0)):
        assert code == 0 or f"is being made by process {started[other].pid} on " in errors[process]
    for unit in set(units):
        assert content_of(began / unit) == content_of(finished / unit)
