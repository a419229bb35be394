"""The tables on narrow and wide terminals, and where there are only plain characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hf_unlearn.evaluation.suites.compare import compare_folders
from hf_unlearn.evaluation.suites.result import read_result
from hf_unlearn.reporting.single_models import print_comparison, print_evaluation


def printed(show, width, encoding="utf-8"):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show(Console(file=stream, width=width, highlight=False))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 120])
def test_every_number_is_whole(evaluated, width):
    result = read_result(evaluated)
    text = printed(lambda console: print_evaluation(result, "out", console), width)
    assert max(map(len, text.splitlines())) <= width
    for metrics in result["scores"].values():
        for metric, score in metrics.items():
            low, high = (f"{end:.3f}" for end in score["ci95"])
            line = next(line for line in text.splitlines() if line.split()[:2] == [metric, f"{score['mean']:.3f}"])
            assert f"{low} to {high}" in line
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_comparison_fits(evaluated, width):
    comparison = compare_folders(evaluated, evaluated)
    text = printed(lambda console: print_comparison(comparison, console), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for item in comparison.differences:
        if item.set:
            assert f"{item.first:.3f}" in text


def test_a_terminal_without_drawing_characters(evaluated):
    result = read_result(evaluated)
    text = printed(lambda console: print_evaluation(result, "out", console), 80, "ascii")
    assert "probability" in text


def test_markup_in_names_is_shown_as_it_stands(evaluated):
    result = read_result(evaluated)
    result["model"]["name"] = "[red]model[/red]\x1b[31m"
    text = printed(lambda console: print_evaluation(result, "out", console), 80)
    assert r"[red]model[/red]\x1b[31m" in text and "\x1b" not in text  # spelled out


def test_a_count_has_no_decimals(evaluated):
    result = read_result(evaluated)
    details = {"members": 40, "tpr_at_1_percent_fpr": 1.0}
    result["aggregates"] = {"mia_loss": {"value": 0.5, "n": 80, "ci95": None, "details": details}}
    lines = printed(lambda console: print_evaluation(result, "out", console), 80).splitlines()
    assert ["members", "40"] in [line.split() for line in lines]
    assert ["tpr_at_1_percent_fpr", "1.000"] in [line.split() for line in lines]
