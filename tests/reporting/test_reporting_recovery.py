"""Steps to recover on the page, in plots and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_unlearn.reporting.html import render_html
from hf_unlearn.reporting.plot_recovery import recovery_figure
from hf_unlearn.reporting.plots import write_plots
from hf_unlearn.reporting.recovery import recovery_sentences, recovery_tables
from hf_unlearn.reporting.results import Results
from hf_unlearn.verification.build_report import recovery_of
from hf_unlearn.verification.recovery import RecoveryCurve
from hf_unlearn.verification.report import AttackRun
from hf_unlearn.verification.typed_json import to_json

NAME = "steps-to-recover"
STEPS = (0, 1, 2, 4, 8, 16, 32, 64)
# Model: how many steps until it is halfway at the fastest rate; none that knows nothing at any.
HALFWAY = {"target": 0.2, "never_knew": None, "npo-kl": 3.0, "npo-kl-sure": 20.0, "bin-hidden": 1.0}


def curves_of(halfway: float | None) -> tuple[RecoveryCurve, ...]:
    """Two rates, whole weights and adapters, on some facts and on all; the slower rate takes four times as long."""
    found = []
    for taught in ("part", "all"):
        for tuning in ("full", "lora"):
            for rate, slower in ((1e-3, 1.0), (1e-4, 4.0)):
                wait = slower * (2.0 if tuning == "lora" else 1.0)
                if halfway is None:
                    forget = tuple(0.02 + (0.01 * step if taught == "all" else 0.0) for step in STEPS)
                else:
                    forget = tuple((0.9 * step + 0.02 * halfway * wait) / (step + halfway * wait) for step in STEPS)
                    if halfway < 1:
                        forget = tuple(0.95 for _ in STEPS)
                retained = tuple(1 - step / 200 for step in STEPS)
                lost = rate == 1e-3 and halfway is None
                known = [(STEPS[:5], forget[:5], retained[:5], "retain lost")] if lost else []
                for steps, values, kept, ended in known or [(STEPS, forget, retained, "steps")]:
                    found.append(RecoveryCurve("probability", taught, tuning, rate, steps, values, (), kept, ended))
    return tuple(found)


@pytest.fixture
def report(sample_report: dict[str, Any]) -> dict[str, Any]:
    runs = [AttackRun(NAME, model, 1, {"max_steps": 64}, (), curves_of(half)) for model, half in HALFWAY.items()]
    sample_report["attacks"] = [*sample_report["attacks"], *map(to_json, runs)]
    sample_report["recovery"] = to_json(recovery_of(runs))
    return sample_report


def test_the_table_says_steps_and_never_within_them(report: dict[str, Any]) -> None:
    (table,) = recovery_tables(Results(report))
    assert (table.attack, table.metrics) == (NAME, ["probability"])
    cells = {(model, tuning, taught): cell["probability"] for model, taught, tuning, cell in table.rows}
    # Half of 0.95: npo-kl is there after 4 steps at rate 1e-3, for (0.9 * 4 + 0.06) / 7 is 0.52 and 0.372 after 2.
    own = cells["npo-kl", "all weights", "some facts, asked the others"]
    assert own.steps == "4 steps"
    assert own.note == "not yet after 2, rate 0.001, never-knew never, half is 0.47"
    never = cells["never-knew", "all weights", "some facts, asked the others"]
    assert never.steps == "never within 64 steps"
    taught = cells["npo-kl", "all weights", "all facts, asked the same"]
    assert taught.note == "not yet after 2, rate 0.001, never-knew 64 steps, half is 0.47"
    assert cells["target", "adapters", "all facts, asked the same"].steps == "there before the attack"


def test_a_curve_that_ends_early_says_why(report: dict[str, Any]) -> None:
    report["recovery"][0] |= {
        "outcome": "never",
        "steps": None,
        "more_than": None,
        "within": 8,
        "ended": "retain lost",
    }
    model = report["recovery"][0]["model"]
    (table,) = recovery_tables(Results(report))
    found = [cell["probability"].steps for name, *_, cell in table.rows if name in (model, "target")]
    assert "never within 8 steps, when the retain set was lost" in found


def test_the_plot_draws_what_was_measured(report: dict[str, Any]) -> None:
    figure = recovery_figure(Results(report), NAME)
    assert figure is not None
    assert len(figure.axes) == 3 * 4
    ax = figure.axes[0]
    fastest = next(line for line in ax.lines if line.get_linewidth() == 1.8)
    curve = next(
        each
        for run in report["attacks"]
        if (run["name"], run["model"]) == (NAME, "npo-kl")
        for each in run["curves"]
        if (each["taught"], each["tuning"], each["learning_rate"]) == ("part", "full", 1e-3)
    )
    assert list(fastest.get_ydata()) == curve["forget"]
    assert list(fastest.get_xdata()) == [0.5, *curve["steps"][1:]]
    (ring,) = [line for line in ax.lines if line.get_markersize() == 8]
    assert list(ring.get_xdata()) == [4]
    (half,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(half.get_ydata()) == [pytest.approx(0.475)] * 2
    assert recovery_figure(Results(report), NAME, "mc_accuracy") is None
    assert recovery_figure(Results(report), "rtt") is None


def test_the_page_and_the_files_have_it(report: dict[str, Any], tmp_path: Path) -> None:
    page = render_html(report)
    assert '<h2 id="recovery">Steps to recover</h2>' in page
    assert "plot-recovery-0" in page and "never within 64 steps" in page
    names = {path.name for path in write_plots(report, tmp_path, ["svg"])}
    assert f"recovery_{NAME}.svg" in names


def test_reports_without_curves_have_no_such_section(sample_report: dict[str, Any], tmp_path: Path) -> None:
    assert "recover</h2>" not in render_html(sample_report)
    assert not [path for path in write_plots(sample_report, tmp_path, ["svg"]) if "recovery_" in path.name]


def test_a_terminal_gets_a_line_for_each_model_but_the_references(report: dict[str, Any]) -> None:
    lines = recovery_sentences(Results(report).report.recovery or ())
    assert len(lines) == 3 * 4
    assert lines[0] == (
        f"{NAME}, npo-kl, probability, all weights, some facts, asked the others: 4 steps (not yet after 2, "
        "rate 0.001, never-knew never, half is 0.47)"
    )
