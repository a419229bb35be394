"""The validity benchmark's books: rates, intervals and rows, from reports made by hand; and its simulated truths."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_unlearn.recipe import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [name for name in sys.modules if name.startswith("benchmarks")]:
        del sys.modules[name]


def test_wilson_by_hand() -> None:
    from benchmarks.validity.table import wilson

    # 2 of 40: centre (0.05 + 1.9207/40) / (1 + 3.8415/40), from the formula with z^2 = 3.8415.
    low, high = wilson(2, 40)
    n, z2, p = 40, 3.841459, 0.05
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson(0, 30)[0] == 0 and wilson(0, 30)[1] == pytest.approx(z2 / (30 + z2), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_every_row_makes_a_recipe_that_is_accepted(tmp_path) -> None:
    from benchmarks.validity.rows import ROWS, available, recipe

    rows, lines = available()
    assert len(rows) + len(lines) == len(ROWS) and len(rows) * 3 >= 40
    for seed, chosen in ((0, rows), (1, [row for row in rows if row.control][:3])):
        path = tmp_path / f"{seed}.yaml"
        path.write_text(yaml.safe_dump(recipe(seed, chosen)))
        loaded = load_recipe(path)
        names = {each.name for each in (*loaded.methods, *loaded.controls)}
        assert {row.name for row in chosen} <= names
        judged = {"identity", *loaded.gate.formats, *loaded.gate.attacks}
        assert {row.found_by for row in chosen} - {""} <= judged


def share(model: str, transform: str, value: float, status: str, over: bool = False) -> dict:
    return {
        "model": model,
        "transform": transform,
        "metric": "mc_accuracy",
        "recovered_share": value,
        "status": status,
        "over_forgotten": over,
    }


def report(**statuses: str) -> dict:
    """Three models: one that hides, found in NF4; one that never knew; one that collapsed."""
    scores = [
        {"model": name, "transform": "identity", "split": split, "metric": "exact_match", "value": value}
        for name in ("bin-hidden-nf4", "never-knew-2", "collapsed")
        for split, value in (("forget", 0.1), ("retain", 0.9))
    ]
    given = {"bin-hidden-nf4": "failed", "never-knew-2": "passed", "collapsed": "failed", **statuses}
    return {
        "gate": {"metrics": ["mc_accuracy"], "formats": ["bnb-nf4"]},
        "attacks": [{"name": "rtt", "budget": {"folds": 3}}],
        "environment": {"versions": {"torch": "2.0"}},
        "controls": [{"name": name, "status": status} for name, status in list(given.items())[:2]],
        "candidates": [{"name": "collapsed", "status": given["collapsed"]}],
        "scores": scores,
        "recovered": [
            share("bin-hidden-nf4", "identity", 0.02, "passed"),
            share("bin-hidden-nf4", "bnb-nf4", 0.99, "failed"),
            share("bin-hidden-nf4", "rtn-int2-g32", 0.4, "reported"),
            share("never-knew-2", "identity", 0.01, "passed"),
            share("collapsed", "identity", -0.4, "failed", over=True),
        ],
        "utility": [{"model": "collapsed", "transform": "identity", "status": "failed"}],
        "known_facts": [
            count("bin-hidden-nf4", "identity", 40, "failed"),
            count("bin-hidden-nf4", "bnb-nf4", 200, "failed"),
            count("never-knew-2", "identity", 9, "inconclusive"),
        ],
    }


def count(model: str, transform: str, known: int, status: str) -> dict:
    return {
        "model": model,
        "transform": transform,
        "metric": "combined",
        "known": known,
        "n": 240,
        "by_chance": 2.0,
        "anti_known_p": 0.5,
        "same_distribution": 0.01,
        "status": status,
        "reason": f"{known} of 240 facts are still known." if status != "passed" else "",
    }


def written(folder: Path, content: dict) -> Path:
    path = folder / "verify" / "unlearning_report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return folder


def test_truth_beside_verdict(tmp_path) -> None:
    from benchmarks.validity.table import page, rates_table, read_run

    found = read_run(written(tmp_path, report()), 0)
    by_name = {one.name: one for one in found}
    hidden = by_name["bin-hidden-nf4"]
    assert hidden.found_by == hidden.counted_by == ("identity", "bnb-nf4") and hidden.causes == ("knowledge",)
    assert hidden.alone == ("identity",)  # its mean is 0.02 there
    assert hidden.survived == ()
    assert by_name["bin-hidden-nf4"].worst == {"identity": 0.02, "bnb-nf4": 0.99, "rtn-int2-g32": 0.4}
    assert by_name["collapsed"].causes == ("over-forgetting", "utility")
    table = rates_table(found)
    assert "| hides, and passed (false pass) | 0 of 1 | 0.0% | 0.0% to 79.3% |" in table
    assert "| forgot, and failed (false fail) | 0 of 1 |" in table
    assert "| broken, and not failed on utility | 0 of 1 |" in table
    text = page(found, [report()])
    line = "| bin-hidden-nf4 | hides | 0.10 / 0.90 | failed 1 | knowledge 1 | bnb-nf4 | 1 of 1 | identity, bnb-nf4 | "
    assert line + "identity, bnb-nf4 | identity |" in text
    assert "| bin-hidden-nf4 | **40 of 240** (2) | **200 of 240** (2) | 0 of 1 | 1 of 1 |" in text
    assert "No model is undecided." in text
    undecided = page(read_run(written(tmp_path / "again", report(**{"never-knew-2": "inconclusive"})), 1), [report()])
    assert "- *never-knew-2*, seed 1:\n  - identity, combined: 9 of 240 facts are still known." in undecided
    assert "| bin-hidden-nf4 | 0.02 | 0.99 | 0.40 |" in text


def test_errors_are_counted(tmp_path) -> None:
    from benchmarks.validity.table import rates_table, read_run

    wrong = report(**{"bin-hidden-nf4": "passed", "never-knew-2": "failed"})
    wrong["recovered"] = [row for row in wrong["recovered"] if row["status"] != "failed"]
    wrong["utility"] = []
    wrong["known_facts"] = []
    table = rates_table(read_run(written(tmp_path, wrong), 0))
    for what in ("false pass", "was not found", "false fail", "not failed on utility"):
        assert f"{what}" in table
    assert table.count("| 1 of 1 | 100.0% |") == 4


@pytest.mark.parametrize("kind", ["one question", "eight questions", "probability"])
def test_simulated_scores_have_the_means_they_were_drawn_with(kind) -> None:
    from benchmarks.validity.simulate import Scenario, draw

    scenario = Scenario(20_000, 1, kind, 0.5)
    target, never, unlearned = draw(scenario, np.random.default_rng(0))
    assert target.mean == pytest.approx(0.95, abs=0.01)
    assert never.mean == pytest.approx(0.25, abs=0.01)
    assert unlearned.mean == pytest.approx(0.25 + 0.5 * 0.70, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "share_"), [("one question", 0.1), pytest.param("eight questions", 0.5, marks=pytest.mark.slow)]
)
def test_either_side_of_the_interval_misses_the_truth_once_in_forty_times_at_most(kind, share_) -> None:
    """What docs/verdict.md promises, on 1,000 simulated runs; benchmarks/validity/coverage.md has all cases."""
    from benchmarks.validity import coverage as module
    from benchmarks.validity.simulate import Scenario

    found = module.coverage(Scenario(120, 1, kind, share_), runs=1000, draws=500)
    assert found.held + found.below + found.above + found.undefined == 1000
    assert found.keeps
    assert 0.93 <= found.rate <= 0.99  # not by being endless


@pytest.mark.parametrize("truth", ["smooth", "two-valued", "sparse", "grouped"])
def test_ends_of_many_runs_at_once_are_those_of_the_package(truth) -> None:
    from benchmarks.validity.limits import drawn_groups, interval_ends
    from hf_unlearn.verification.intervals import Bootstrap, recovered_share
    from hf_unlearn.verification.scores import FactScores

    settings = Bootstrap(400)
    values, sizes = drawn_groups(truth, 0.2, 40, 3, np.random.default_rng(2))
    low, high = interval_ends(values, sizes, settings)
    for run in range(3):
        facts = {
            f"g{group:02d}-{number}": (float(values[group, run]), f"g{group:02d}")
            for group in range(40)
            for number in range(int(sizes[group, run]))
        }
        groups = {name: group for name, (_, group) in facts.items()}
        judged = FactScores({name: value for name, (value, _) in facts.items()}, groups)
        target, never = (FactScores(dict.fromkeys(facts, value), groups) for value in (1.0, 0.0))
        found = recovered_share(judged, target, never, settings)
        assert (low[run], high[run]) == pytest.approx((found.low, found.high), abs=1e-6)


@pytest.mark.parametrize("truth", ["smooth", "two-valued", "sparse", "grouped"])
@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (0.10, 36),
        (0.20, 20),
        pytest.param(0.10, 240, marks=pytest.mark.slow),
        pytest.param(0.20, 80, marks=pytest.mark.slow),
    ],
)
def test_a_model_at_the_limit_passes_and_fails_in_one_of_forty_runs_at_most(truth, limit, groups) -> None:
    """2,000 runs: a true rate of 2.5 % is seen as more than 3.6 % once in a thousand times."""
    from benchmarks.validity.limits import at_limit

    found = at_limit(truth, limit, groups, runs=2000)
    assert found.passed <= 0.036
    assert found.failed <= 0.036


def test_known_facts_fail_and_a_model_that_never_knew_does_not() -> None:
    """benchmarks/validity/single_facts.md has all cases."""
    from benchmarks.validity.single import SETTINGS, counted

    assert counted(SETTINGS[0], "light", 12, 20).now["failed"] == 1.0
    never = counted(SETTINGS[0], "light", 0, 100)
    assert never.now["failed"] == never.now["reported"] == 0.0 and never.now["passed"] >= 0.95
    assert counted(SETTINGS[0], "heavy", 0, 150).now["failed"] <= 0.06  # 2.5 % and the simulation's error


def test_wordings_combined_see_what_one_score_does_not() -> None:
    from benchmarks.validity.single import SETTINGS, counted

    one, four = (counted(setting, "heavy", 6, 60) for setting in (SETTINGS[0], SETTINGS[2]))
    assert four.now["failed"] > four.earlier["failed"] + 0.1
    assert four.now["failed"] > one.earlier["failed"] + 0.2


def test_what_is_only_reported_sees_pushing_and_mixtures() -> None:
    from benchmarks.validity.single import reported

    never = reported("never knew", True, 400)
    assert never.anti_known <= 0.05 and never.distribution <= 0.05  # 2.5 % and the simulation's error
    mixture = reported("some known, all others pushed, same mean", True, 20)
    assert mixture.anti_known == mixture.distribution == 1.0
    assert reported("12 of 74 known", True, 30).anti_known <= 0.1  # known facts are no sign of pushing
