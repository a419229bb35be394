"""Plots: what is drawn is what is in the report, and the same report gives the same bytes."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn.reporting.figures import PALETTE, inline_svg, save, svg_text
from hf_unlearn.reporting.plots import forget_figure, recovered_figure, retain_figure, write_plots
from hf_unlearn.reporting.results import Results


def points(ax: Any, marker: str) -> list[float]:
    """Positions of all single points with this marker, from the top row down."""
    lines = [line for line in ax.lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return [float(line.get_xdata()[0]) for line in sorted(lines, key=lambda line: line.get_ydata()[0])]


def intervals(ax: Any) -> set[tuple[float, float]]:
    """Ends of all lines with end marks."""
    lines = [line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata()) == 2]
    return {(float(line.get_xdata()[0]), float(line.get_xdata()[1])) for line in lines}


def panel(figure: Any, title: str) -> Any:
    """The panel with this title."""
    return next(ax for ax in figure.axes if ax.get_title(loc="left") == title)


def scores(report: dict[str, Any], model: str, split: str, key: str = "value") -> list[Any]:
    """Headline scores of a model in the order of the transforms."""
    return [
        row[key]
        for row in report["scores"]
        if (row["model"], row["split"], row["metric"]) == (model, split, "probability")
    ]


def test_forget_figure_draws_the_scores_of_the_report(sample_report: dict[str, Any]) -> None:
    figure = forget_figure(Results(sample_report))
    assert figure is not None
    assert len(figure.axes) == 6
    ax = panel(figure, "bin-hidden")
    assert points(ax, "o") == scores(sample_report, "bin-hidden", "forget")
    assert points(ax, "|") == scores(sample_report, "target", "forget")
    assert points(ax, "D") == scores(sample_report, "never_knew", "forget")
    wanted = {
        tuple(ends) for model in ("bin-hidden", "target") for ends in scores(sample_report, model, "forget", "ci95")
    }
    assert wanted <= intervals(ax)
    assert ax.get_yticklabels()[0].get_text() == "as is"


def test_recovered_figure_draws_shares_and_limits(sample_report: dict[str, Any]) -> None:
    results = Results(sample_report)
    figure = recovered_figure(results, results.controls)
    assert figure is not None
    assert len(figure.axes) == 9
    assert [text.get_text() for ax in figure.axes for text in ax.texts if text.get_weight() == "bold"] == [
        "bin-hidden",
        "output-hidden",
        "never-knew-2",
    ]
    ax = panel(figure, "answer probability")
    rows = [r for r in sample_report["recovered"] if (r["model"], r["metric"]) == ("bin-hidden", "probability")]
    drawn = sorted(points(ax, "o") + points(ax, "X") + points(ax, "s"))
    assert drawn == sorted(row["recovered_share"] for row in rows)
    assert points(ax, "X") == [row["recovered_share"] for row in rows if row["status"] == "failed"]
    assert {tuple(row["ci95"]) for row in rows} == intervals(ax)
    upright = {(line.get_xdata()[0], *line.get_ydata()) for line in ax.lines if len(set(line.get_xdata())) == 1}
    assert {(0.10, -0.5, 6.5), (0.20, 6.5, 7.5), (-0.15, -0.5, 6.5)} <= upright


def test_a_share_out_of_range_is_an_arrow_at_the_edge(small_report: dict[str, Any]) -> None:
    small_report["recovered"][0]["recovered_share"] = 4.2
    small_report["recovered"][3]["recovered_share"] = -3.1
    figure = recovered_figure(Results(small_report))
    assert figure is not None
    ax = panel(figure, "extraction strength")
    assert (points(ax, ">"), points(ax, "<")) == ([1.3], [-0.5])
    assert {"4.20", "-3.10"} <= {text.get_text() for text in ax.texts}


def test_retain_figure_draws_both_scores_and_the_least_allowed(small_report: dict[str, Any]) -> None:
    figure = retain_figure(Results(small_report))
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes][-1] == "rtn-int4-g32"
    ax = panel(figure, "bnb-nf4")
    models = ("target", "never_knew", "npo-kl")
    assert points(ax, "o") == [scores(small_report, model, "retain")[3] for model in models]
    assert points(ax, "D") == [scores(small_report, model, "forget")[3] for model in models]
    least = 0.9 * scores(small_report, "target", "retain")[3]
    assert any(math.isclose(line.get_xdata()[0], least) for line in ax.lines if line.get_linestyle() == "--")


def test_files_are_the_same_bytes_each_time_and_bear_no_date(small_report: dict[str, Any], tmp_path: Path) -> None:
    first = write_plots(small_report, tmp_path / "a")
    assert [path.name for path in first] == [
        f"{name}.{suffix}" for name in ("forget_score", "recovered_share", "retain_score") for suffix in ("svg", "png")
    ]
    for one in first:
        assert b"dc:date" not in one.read_bytes()
        if one.suffix == ".svg":
            ElementTree.parse(one)
    again = forget_figure(Results(small_report))
    assert again is not None
    for one in first[:2]:
        save(again, tmp_path / one.name)
        assert (tmp_path / one.name).read_bytes() == one.read_bytes()


def test_names_are_text_not_formulas_and_not_markup(small_report: dict[str, Any]) -> None:
    name = "a$x^2$ <b>&\"it's"
    for key in ("scores", "recovered"):
        small_report[key] = [{**row, "model": row["model"].replace("npo-kl", name)} for row in small_report[key]]
    small_report["candidates"] = [{"name": name, "status": "failed", "reasons": []}]
    small_report["verdict"]["candidate"] = name
    figure = forget_figure(Results(small_report))
    assert figure is not None
    tree = ElementTree.fromstring(inline_svg(figure, key="k", title=name))
    texts = ["".join(node.itertext()) for node in tree.iter()]
    assert texts.count(name) >= 2


def test_a_plot_in_a_page_follows_the_theme_and_keeps_its_ids_apart(small_report: dict[str, Any]) -> None:
    figure = retain_figure(Results(small_report))
    assert figure is not None
    text = inline_svg(figure, key="one", title="title")
    assert not any(tone.light in text for tone in PALETTE.values())
    assert "var(--blue)" in text
    assert "<style" not in text
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= ids


def test_the_users_own_settings_change_nothing(small_report: dict[str, Any]) -> None:
    import matplotlib

    figure = forget_figure(Results(small_report))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        other = forget_figure(Results(small_report))
        assert figure is not None and other is not None
        changed = svg_text(other)
    assert svg_text(figure) == changed


def test_missing_parts_are_left_out(audit_report: dict[str, Any], tmp_path: Path) -> None:
    written = write_plots(audit_report, tmp_path, formats=("svg",))
    assert [path.name for path in written] == ["forget_score.svg", "recovered_share.svg", "retain_score.svg"]
    assert "never-knew" not in written[0].read_text(encoding="utf-8")
    audit_report["recovered"] = []
    audit_report["scores"] = [row for row in audit_report["scores"] if row["split"] == "forget"]
    assert [path.name for path in write_plots(audit_report, tmp_path / "b", formats=("svg",))] == ["forget_score.svg"]
    assert write_plots({}, tmp_path / "c") == []


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_any_number_of_models_has_its_panels(small_report: dict[str, Any], count: int) -> None:
    rows = [row for row in small_report["scores"] if row["model"] == "npo-kl"]
    for i in range(1, count):
        small_report["scores"] += [{**row, "model": f"other-{i}"} for row in rows]
    figure = forget_figure(Results(small_report))
    assert figure is not None
    assert len(figure.axes) == count
