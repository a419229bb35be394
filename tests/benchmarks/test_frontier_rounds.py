"""What training wrote down round by round, read back from the cells of a study."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.frontier.rounds import main, read_rounds, rounds_figure


def cell(runs, name, **told):
    folder = runs / name / "run" / "train" / "auto"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"parts": {"auto": {"rounds": 3, **told}}}))


def test_a_line_for_each_seed_of_each_kind(tmp_path):
    cell(tmp_path, "years-0", brought_back=[2.0, 1.0, -0.5])
    cell(tmp_path, "years-3", brought_back=[1.5, 0.0])
    cell(tmp_path, "tofu-1", brought_back=[1.0])
    cell(tmp_path, "years-drawn-0", brought_back=[9.0])  # another condition, not another seed
    cell(tmp_path, "trades-0")  # made without looking
    found = read_rounds(tmp_path)
    assert found == {"years": {"0": [2.0, 1.0, -0.5], "3": [1.5, 0.0]}, "tofu": {"1": [1.0]}}
    years, tofu = rounds_figure(found).axes
    assert [len(line.get_xdata()) for line in years.lines[:2]] == [3, 2]
    assert (years.get_title(), tofu.get_title()) == ("years", "tofu")


def test_nothing_to_read_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rounds", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "holds no cell of years, trades, tofu with auto: run benchmarks.frontier first" in capsys.readouterr().err
