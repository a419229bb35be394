"""``check`` on what is no published model, and ``list``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn.cli.listing import LISTS
from hf_unlearn.cli.main import main
from hf_unlearn.recipe import load_recipe
from hf_unlearn.version import __version__


def test_check_of_what_is_no_published_model(finished, refused, tmp_path):
    assert "holds no published model (neither unlearning_report.json nor config.json)" in refused(2, "check", tmp_path)
    sentence = refused(2, "check", finished)
    assert sentence.endswith(f": a run publishes to {finished / 'publish'}")
    missing = tmp_path / "none"
    assert refused(2, "check", missing) == f"{missing} is neither a folder nor an id on the Hub"
    assert "it has no revision 'main'" in refused(2, "check", finished / "publish", "--revision", "main")


def test_check_of_a_model_without_report(finished, capsys):
    assert main(["check", str(finished / "train")]) == 1
    assert "unlearning_report.json: is missing" in capsys.readouterr().err


def test_check_of_a_repository_without_the_hub(refused):
    sentence = refused(3, "check", "owner/model")
    assert sentence.startswith("owner/model is not a folder here and could not be fetched from the Hub: ")


def test_check_says_the_verdict_by_its_exit_code(finished, capsys):
    assert main(["check", str(finished / "publish")]) == 1
    assert "every byte is what was verified; verdict: failed" in capsys.readouterr().out
    assert main(["check", str(finished / "publish"), "--integrity-only"]) == 0


def test_what_is_published_does_not_say_how_it_was_loaded_here(finished):
    for name in ("publish", "publish-bnb-nf4"):
        saved = json.loads((finished / name / "tokenizer_config.json").read_text())
        assert not {"local_files_only", "is_local"} & saved.keys()


@pytest.mark.parametrize("what", LISTS)
def test_lists_are_arrays_of_objects_with_names(what, capsys):
    assert main(["list", what, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert isinstance(entries, list) and entries
    assert all(isinstance(entry["name"], str) and entry["summary"] for entry in entries)
    assert main(["list", what]) == 0
    table, _, missing = capsys.readouterr().out.partition("\n\n")
    lines = table.splitlines()
    assert lines[0].startswith("name")
    assert [line.split()[0] for line in lines[1:]] == [entry["name"] for entry in entries]
    assert missing.splitlines() == [entry["status"] for entry in entries if entry.get("installed") is False]


def test_lists_hold_what_the_first_release_promises(capsys):
    wanted = {
        "losses": {"ga", "npo", "none", "nll", "kl"},
        "robust": {"sure"},
        "formats": {"bf16", "bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32"},
        "attacks": {"rtt"},
        "metrics": {"probability", "extraction_strength", "exact_match", "rouge_l", "mc_accuracy"},
        "recipes": {"quickstart", "tofu-small"},
    }
    for what, names in wanted.items():
        main(["list", what, "--json"])
        assert names <= {entry["name"] for entry in json.loads(capsys.readouterr().out)}


def test_a_reader_that_goes_away(tmp_path):
    """As with ``| head -0``: it ends without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        command = [sys.executable, "-m", "hf_unlearn", "list", "recipes"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_the_bare_command_says_where_to_start(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "hf-unlearn run recipe.yaml" in said and "accelerate-config" in said and "--help" in said


def test_the_bare_list_names_everything(capsys):
    assert main(["list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert list(names) == list(LISTS) and "npo" in names["losses"] and "bnb-nf4" in names["formats"]
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for found in names.values() for name in found)


def test_a_launcher_file_is_found_by_its_name(capsys):
    assert main(["accelerate-config"]) == 0
    names = capsys.readouterr().out.split()
    assert "zero3" in names
    assert main(["accelerate-config", "zero3"]) == 0
    assert "deepspeed_config" in Path(capsys.readouterr().out.strip()).read_text()


def test_the_printed_recipe_reads_back_as_the_same(capsys, tmp_path):
    assert main(["run", "quickstart", "seed=7", "--print-config"]) == 0
    path = tmp_path / "recipe.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_recipe(path) == load_recipe("quickstart", ["seed=7"])


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hf_unlearn {__version__}\n"


@pytest.mark.parametrize(("command", "second"), [("evaluate", "MODEL --suite"), ("publish", "RUN --repo-id")])
def test_help_shows_each_use_of_a_command(command, second, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert f"hf-unlearn {command} RECIPE" in said and f"hf-unlearn {command} {second}" in said
