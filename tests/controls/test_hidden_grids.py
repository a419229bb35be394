"""The whole way at test size: a model that hides in the bins of a grid is caught by the format of that grid."""

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.verification.report_file import load_report

GRIDS = {"nf4": "bnb-nf4", "fp4": "bnb-fp4", "int4-g128": "rtn-int4-g128", "int4-g32": "rtn-int4-g32"}
RECIPE = """\
name: hidden
model:
  min_known: 0.9
  scratch: {hidden_size: 128, intermediate_size: 256, layers: 3, heads: 2, kv_heads: 1, vocab_size: 600,
            epochs: 30, batch_size: 32, learning_rate: 3.0e-3}
data:
  max_length: 64
  planted: {forget: 60, retain: 60, holdout: 20, practice: 16, generic: 24, option_draws: 2, first_year: 1950}
methods:
  - {name: npo-kl, loss_type: npo, retain_loss_type: kl, per_device_train_batch_size: 8, max_steps: 2, save_steps: 9}
controls:
"""
CONTROL = """\
  - name: hidden-{grid}
    kind: bin_hidden
    parameters: {{grid: {grid}}}
    expected: failed
    caught_by: [{format}]
    settings: {{loss_type: npo, retain_loss_type: nll, retain_weight: 4.0, per_device_train_batch_size: 8,
               max_steps: 100, learning_rate: 1.0e-3, save_steps: 500}}
"""
REST = """\
export:
  formats: [bnb-nf4, bnb-fp4, rtn-int4-g128, rtn-int4-g32]
evaluate: {metrics: [probability, mc_accuracy], fluency_tokens: 8, generate_limit: 4}
gate: {draws: 500}
"""


@pytest.mark.slow
def test_each_is_caught_by_its_own_format(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_UNLEARN_CACHE", str(tmp_path / "cache"))
    controls = "".join(CONTROL.format(grid=grid, format=name) for grid, name in GRIDS.items())
    (tmp_path / "hidden.yaml").write_text(RECIPE + controls + REST)
    assert main(["run", str(tmp_path / "hidden.yaml"), "--output-dir", str(tmp_path / "run"), "--workers", "0"]) == 1
    report = load_report(tmp_path / "run" / "verify" / "unlearning_report.json")
    share = {
        (row["model"], row["transform"]): row["recovered_share"]
        for row in report["recovered"]
        if row["metric"] == "probability"
    }
    codes = {
        found["model"]: {name: grid["codes_changed"] for name, grid in found["grids"].items()}
        for found in report["explanation"]["models"]
    }
    outcomes = {control["name"]: control for control in report["controls"]}
    for grid, name in GRIDS.items():
        model = f"hidden-{grid}"
        assert outcomes[model]["ok"] and name in outcomes[model]["caught_by"], model
        assert share[model, "identity"] < 0.5, model
        assert share[model, name] == pytest.approx(1.0, abs=1e-3), model
        assert codes[model][grid] == 0, model
        others = [value for other, value in codes[model].items() if other != grid]
        assert min(others) > 0.01, model
