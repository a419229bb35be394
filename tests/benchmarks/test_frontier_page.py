"""From a cell's report to the table of the study."""

from __future__ import annotations

import math

import pytest

from benchmarks.frontier.cells import NEVER
from benchmarks.frontier.kinds import FORMATS
from benchmarks.frontier.methods import METHODS, PLAIN
from benchmarks.frontier.outcome import JUDGED, outcome_of
from benchmarks.frontier.plot import frontier_figure
from benchmarks.frontier.summary import PAGE, filled, read_results, summary, write_results
from benchmarks.frontier.table import interval, kind_table, plain_costs, reaches, relative_cost
from hf_unlearn.reporting.words import show


def report_of(method, identity=0.02, packed=0.05, rtt=0.08, kept=0.98, fluency=0.99):
    shares = {"identity": identity, **dict.fromkeys(FORMATS, packed), "rtt": rtt}
    recovered = [
        {"model": method, "transform": transform, "metric": metric, "recovered_share": share, "ci95": [0.0, 0.2]}
        for transform, share in shares.items()
        for metric in JUDGED
    ]
    own = {"model": method, "metric": "probability", "kind": "retain_score"}
    utility = [
        {**own, "transform": "identity", "ratio": kept + 0.01},
        {**own, "transform": FORMATS[0], "ratio": kept},
        # Not asked: utility after the attack, and other metrics.
        {**own, "transform": "rtt", "ratio": 0.1},
        {**own, "transform": "identity", "metric": "mc_accuracy", "ratio": 0.2},
        {**own, "transform": "identity", "kind": "fluency", "metric": "fluency", "ratio": fluency},
    ]
    return {"recovered": recovered, "utility": utility}


def outcome(method=PLAIN, seed=0, operations=1e9, **scores):
    return outcome_of(report_of(method, **scores), {"floating_point_ops": operations}, "years", seed, method)


def test_an_outcome_is_read_from_the_report():
    one = outcome(packed=0.05, identity=0.02, kept=0.97, fluency=0.93)
    assert one.identity == dict.fromkeys(JUDGED, 0.02)
    assert one.formats == dict.fromkeys(JUDGED, 0.05)
    assert one.lowest == dict.fromkeys(JUDGED, 0.02)
    assert (one.utility, one.fluency, one.operations) == (0.97, 0.93, 1e9)


def test_a_model_that_was_not_scored_under_a_transform_has_no_outcome():
    report = report_of(PLAIN)
    report["recovered"] = [row for row in report["recovered"] if row["transform"] != "rtt"]
    with pytest.raises(KeyError):
        outcome_of(report, {}, "years", 0, PLAIN)


def test_a_share_that_could_not_be_told_is_no_outcome():
    report = report_of(PLAIN)
    report["recovered"][-1] |= {"recovered_share": None, "reason": "there are only 8 groups"}
    with pytest.raises(ValueError, match=rf"years 0: {PLAIN} has no .* under rtt: there are only 8 groups"):
        outcome_of(report, {}, "years", 0, PLAIN)


@pytest.mark.parametrize(
    ("scores", "cost"),
    [
        ({"rtt": 0.11}, 1.0),
        ({"packed": 0.11}, 1.0),
        ({"identity": 0.11}, 1.0),
        ({"identity": -0.16}, 1.0),
        ({"packed": -0.16}, 1.0),
        ({"kept": 0.96}, 1.0),
        ({"fluency": 0.94}, 1.0),
        ({}, 6.1),
    ],
)
def test_each_part_of_what_was_to_be_reached_counts(scores, cost):
    assert reaches(outcome(), 6.0)
    assert not reaches(outcome(**scores), cost)


def test_intervals_are_those_of_students_t():
    low, high = interval([0.1, 0.2, 0.3])
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # the 97.5 % quantile of two degrees of freedom
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half))
    assert interval([0.4]) == (0.4, 0.4)


def test_the_table_has_a_line_for_each_method_that_was_run():
    other = next(name for name in METHODS if name != PLAIN)
    found = [
        *(outcome(seed=seed) for seed in (0, 1)),
        *(outcome(other, seed, 3e9, rtt=rtt) for seed, rtt in ((0, 0.05), (1, 0.25))),
        *(outcome(NEVER, seed, 1.5e9) for seed in (0, 1)),
    ]
    costs = plain_costs(found)
    assert relative_cost(found[2], costs) == 3.0
    lines = kind_table(found, NEVER).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [PLAIN, other, NEVER]
    assert lines[3].endswith("| 3.0 | 1 of 2 |")
    assert "0.15 [-1.12, 1.42]" in lines[3]
    assert lines[4].endswith("| 1.5 |  |")  # what training anew costs; it reaches nothing


def test_the_plot_has_a_panel_for_each_kind_and_shades_what_was_to_be_reached():
    figure = frontier_figure([outcome(seed=seed) for seed in (0, 1)])
    (panel,) = figure.axes
    assert panel.get_title() == "years"
    assert len(panel.patches) == 1


def test_the_summary_has_means_over_seeds_and_what_they_cost():
    other = next(name for name in METHODS if name != PLAIN)
    found = [
        *(outcome(seed=seed, rtt=0.4 + seed / 5) for seed in (0, 1)),
        *(outcome(other, seed=seed, operations=3e9, kept=0.9) for seed in (0, 1)),
        outcome(NEVER, operations=2e9),
    ]
    lines = summary("Made by hand.", found).splitlines()
    assert lines[0] == "Made by hand."
    assert f"| {PLAIN} | 0.50 / 0.50 (2) | 0.98 | 1.0 |" in lines
    assert f"| {other} | 0.08 / 0.08 (2) | 0.90 | 3.0 |" in lines
    assert f"| {NEVER} | 0.08 / 0.08 (1) | 0.98 | 2.0 |" in lines


def test_results_are_read_as_they_were_written(tmp_path):
    found = [outcome(seed=seed) for seed in (0, 1)]
    write_results("Made by hand.", found, tmp_path / "results.json")
    made, again = read_results(tmp_path / "results.json")
    assert made == "Made by hand." and [one.identity for one in again] == [one.identity for one in found]


def test_the_page_shows_the_results_that_are_there():
    text = PAGE.read_text(encoding="utf-8")
    assert "<!-- frontier -->" in text
    assert filled(text, summary(*read_results())) == text


def test_the_page_on_drawn_texts_tells_what_was_kept():
    page = (PAGE.parent.parent / "docs" / "drawn-texts.md").read_text(encoding="utf-8")
    _, outcomes = read_results()
    found = {(one.kind, one.method): one for one in outcomes}
    kinds = {("a tenth", ""): "years-tenth", ("a tenth", " with self-generated texts"): "years-drawn"}
    kinds |= {("none", ""): "years-generic", ("none", " with self-generated texts"): "years-generic-drawn"}
    for name, method in (("`auto`", "auto"), ("NPO + KL", PLAIN)):
        for (at_hand, drawn), kind in kinds.items():
            one = found[kind, method]
            shares = (one.utility, *(one.rtt[metric] for metric in JUDGED))
            cells = [name + drawn, at_hand, *(show(share, 2) for share in shares)]
            assert f"| {' | '.join(cells)} |" in page
