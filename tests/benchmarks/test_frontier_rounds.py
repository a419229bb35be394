"""What training and scoring wrote down, read back from the cells of a study."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.frontier import levels
from benchmarks.frontier.rounds import main, page, read_rounds, rounds_figure


def trained(runs, name, method="auto", **told):
    folder = runs / name / "run" / "train" / method
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"parts": {"auto": {"rounds": 3, **told}}}))


def scored(runs, name, place, mean):
    folder = runs / name / "run" / place / "identity"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"forget": {"mc_accuracy": {"mean": mean}}}))


def test_rounds_are_told_by_kind_seed_and_method(tmp_path):
    trained(tmp_path, "years-0", brought_back=[2.0, 1.0, -0.5])
    trained(tmp_path, "years-3", brought_back=[1.5, 0.0])
    trained(tmp_path, "years-0", "auto-lora", brought_back=[3.0])
    trained(tmp_path, "years-drawn-0", brought_back=[9.0])  # another condition, not another seed
    trained(tmp_path, "trades-0")  # made without looking
    found = {method: read_rounds(tmp_path, method) for method in ("auto", "auto-lora")}
    assert found["auto"] == {"years": {"0": [2.0, 1.0, -0.5], "3": [1.5, 0.0]}, "years-drawn": {"0": [9.0]}}
    lines = page("Made by hand.", found).splitlines()
    assert "| years | auto | 3 (seed 0), 2 (seed 3) |" in lines
    assert "| years | auto-lora | 1 (seed 0) |" in lines
    years, drawn = rounds_figure(found["auto"]).axes
    assert [len(line.get_xdata()) for line in years.lines[:2]] == [3, 2]
    assert (years.get_title(), drawn.get_title()) == ("years", "years-drawn")


def test_nothing_to_read_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rounds", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "holds no cell that tells of rounds: run benchmarks.frontier first" in capsys.readouterr().err


def test_levels_are_means_over_the_seeds_of_a_kind(tmp_path):
    for seed, mean in ((0, 0.25), (1, 0.35)):
        scored(tmp_path, f"years-{seed}", "evaluate/auto", mean)
    scored(tmp_path, "years-drawn-0", "evaluate/auto", 0.9)
    scored(tmp_path, "years-0", "references/evaluate/never_knew", 0.26)
    assert levels.read_level(tmp_path, "years", "evaluate/auto") == (pytest.approx(0.3), 2)
    lines = levels.page("Made by hand.", tmp_path).splitlines()
    assert lines[-1] == "| years | – | 0.260 (1) | – | 0.300 (2) |"
