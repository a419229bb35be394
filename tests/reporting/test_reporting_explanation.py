"""Weights compared with the target's: the same numbers in terminal, plots and page, or nothing at all."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.reporting.explanation import (
    calibration_words,
    came_back_sentences,
    explained,
    formats_table,
    magnitude_label,
    pooled_sentence,
)
from hf_unlearn.reporting.html import render_html
from hf_unlearn.reporting.plot_explanation import explanation_figure, layers_figure
from hf_unlearn.reporting.plots import write_plots
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.terminal import print_results
from hf_unlearn.reporting.words import SPACE, percent

GRIDS = {"bnb-nf4": "nf4", "bnb-int8": "int8"}


def on_grid(codes: float, scales: float = 0.01, steps: float = 0.2) -> dict[str, float]:
    return {"codes_changed": codes, "scales_changed": scales, "update_over_step": steps}


def model(name: str, nf4: float, int8: float) -> dict[str, Any]:
    whole = {"moved": 0.75, "mean_update": 1e-4, "lost_in_bf16": 0.123}
    grids = {"nf4": on_grid(nf4), "int8": on_grid(int8, steps=3.5)}
    layers = [
        {"layer": str(number), "weights": 50, **whole, "grids": {"nf4": on_grid(nf4 / 2), "int8": on_grid(int8)}}
        for number in range(2)
    ]
    magnitudes = [
        {"from": None, "to": 2.0**-12, "weights": 0.25, "moved": 1.0, "mean_update": 1e-4},
        {"from": 2.0**-12, "to": 2.0**-11, "weights": 0.75, "moved": 0.5, "mean_update": 1e-4},
    ]
    return {"model": name, "weights": 100, **whole, "grids": grids, "layers": layers, "magnitudes": magnitudes}


@pytest.fixture
def report(sample_report: dict[str, Any]) -> dict[str, Any]:
    noise = {"model": "bin-hidden", "format": "bnb-nf4", "grid": "nf4", "recovered_share": 0.99}
    saved = {"dtype": "bfloat16", "moved": 0.5, "lost": 0.25}
    return {
        **sample_report,
        "formats": [
            {"format": "bnb-nf4", "library": "bitsandbytes", "version": "0.50", "bits": 4, "bytes": 2_500_000}
            | {"quantized_share": 0.8, "reload_error": 0.012, "calibration": None}
        ],
        "pooled": [
            {"transform": name, "retention": value, "methods": ["npo-kl", "ga"], "metrics": ["probability"]}
            for name, value in (("identity", 0.214), ("bnb-nf4", 0.827), ("noise-nf4-1", 0.3))
        ],
        "explanation": {
            "grids": GRIDS,
            "models": [
                {**model("npo-kl", 0.05, 0.61), "saved": saved},
                model("bin-hidden", 0.0, 0.9),
                {"model": "ga", "reason": "lm.weight has another shape"},
            ],
            "noise": [
                {**noise, "metric": metric, "noise_share": 0.04, "noise_range": [0.02, 0.06], "draws": 3}
                for metric in sample_report["gate"]["metrics"]
            ],
        },
    }


@pytest.fixture
def quick_to_draw(report: dict[str, Any], small_report: dict[str, Any]) -> dict[str, Any]:
    """All that this file is about, and few models beside it."""
    return {**small_report, **{key: report[key] for key in ("formats", "pooled", "explanation")}}


def printed(report: dict[str, Any], encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_results(report, Console(file=file, width=100, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_rows_are_those_of_the_report(report):
    rows = {row.model: row for row in explained(Results(report))}
    assert list(rows) == ["npo-kl", "ga", "bin-hidden"]  # in the order models are shown
    assert rows["ga"].reason and not rows["ga"].formats
    hidden = {on.format: on for on in rows["bin-hidden"].formats}
    assert list(hidden) == ["bnb-int8", "bnb-nf4"]  # in the order of the gate
    assert hidden["bnb-nf4"].weights.codes_changed == 0
    assert hidden["bnb-nf4"].noise_share == 0.04 and hidden["bnb-nf4"].share.recovered_share > 0.9
    assert hidden["bnb-int8"].noise is None
    assert {name: on.codes_changed for name, on in rows["npo-kl"].layers[1].grids.items()} == {
        "nf4": 0.025,
        "int8": 0.61,
    }
    assert [magnitude_label(bucket) for bucket in rows["npo-kl"].magnitudes] == ["under 0.00024", "0.00024 to 0.00049"]


def test_what_came_back_is_set_beside_noise(report):
    results = Results(report)
    rows = {row.model: row for row in explained(results)}
    (sentence,) = came_back_sentences(results, rows["bin-hidden"])
    assert "bnb-nf4" in sentence and "0.04 under noise" in sentence and "0.02 to 0.06 over 3 draws" in sentence
    assert came_back_sentences(results, rows["npo-kl"]) == []  # nothing came back


def test_pooled_retention_in_words(report):
    sentence = pooled_sentence(Results(report)).replace(SPACE, " ")
    assert "2 methods (npo-kl, ga)" in sentence
    assert sentence.endswith("as is 21 %, bnb-nf4 83 %.")
    assert pooled_sentence(Results({**report, "pooled": []})) == ""


def test_terminal(report):
    text = printed(report).replace(SPACE, " ")
    (row,) = [line for line in text.splitlines() if line.startswith("bin-hidden") and "75 %" in line]
    assert row.split("%")[0].split()[-1] == "75"
    assert "12 %" in row and "90 %" in row and " 0 %" in row
    assert "Pooled retention" in text
    printed(report, encoding="ascii").encode("ascii")


def test_page(quick_to_draw):
    page = render_html(quick_to_draw).replace(SPACE, " ")
    assert "Weights on the grids" in page
    assert "ga could not be compared: lm.weight has another shape" in page
    assert "25 % of the changes vanish if saved in bf16" in page
    assert "bitsandbytes 0.50" in page and "2.5 MB" in page
    assert 'id="plot-grids-title"' in page and 'id="plot-layers-title"' in page
    assert "Pooled retention" in page


def test_figures_draw_the_numbers(report, quick_to_draw, tmp_path):
    figure = explanation_figure(Results(report))
    assert len(figure.axes) == 6  # two models, three panels
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.61, 0.05]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [1.0, 0.2]  # 3.5 steps end at the edge
    assert "3.500" in [text.get_text() for text in figure.axes[1].texts]
    layers = layers_figure(Results(report))
    assert [list(line.get_ydata()) for line in layers.axes[0].lines] == [[0.61, 0.61], [0.025, 0.025]]
    assert [bar.get_height() for bar in layers.axes[1].patches] == [0.25, 0.75]
    written = {path.name for path in write_plots(quick_to_draw, tmp_path, formats=("png",))}
    assert {"explanation.png", "explanation_layers.png"} <= written


def test_a_report_without_all_this(sample_report, small_report, page_text):
    """Reports of version 1.0."""
    assert explained(Results(sample_report)) == ()
    assert explanation_figure(Results(sample_report)) is None
    assert layers_figure(Results(sample_report)) is None
    assert formats_table(Results(sample_report)) == []
    assert "Weights on the grids" not in page_text
    assert "Weights compared with" not in printed(sample_report)
    assert "Weights on the grids" not in render_html({**small_report, "explanation": None})


@pytest.mark.parametrize(
    ("share", "words"),
    [
        *[(0.0, "0 %"), (1.0, "100 %"), (0.5, "50 %"), (0.04, "4.0 %"), (0.003, "0.30 %"), (1e-6, "< 0.01 %")],
        *[(0.999999, "> 99.99 %"), (0.98, "98.0 %"), (None, "–")],
    ],
)
def test_percentages(share, words):
    assert percent(share).replace(SPACE, " ") == words


def test_calibration_in_one_line():
    assert calibration_words(None) == "none"
    words = calibration_words({"text": "wikitext", "tokens": 4096, "revision": None, "overlaps": {"forget": 0}})
    assert words == "text wikitext, tokens 4096"
