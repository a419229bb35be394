"""A run's report explains its formats, whatever way the models were made."""

from __future__ import annotations

from hf_unlearn.verification.report_file import load_report


def test_the_report_explains_the_formats(finished):
    report = load_report(finished / "verify" / "unlearning_report.json")
    assert report["schema_version"] == "1.5"
    explanation = report["explanation"]
    assert explanation["grids"] == {"bnb-nf4": "nf4"}
    # A never-knew model is not made from the target: there is nothing to compare.
    (found,) = explanation["models"]
    assert found["model"] == "npo-kl"
    assert 0 < found["grids"]["nf4"]["codes_changed"] < 1
    assert found["moved"] > 0.9
    assert [layer["layer"] for layer in found["layers"]] == ["0", "1"]
    assert sum(layer["weights"] for layer in found["layers"]) == found["weights"]
    assert explanation["noise"] == [] and report["pooled"] == []
    (info,) = report["formats"]
    assert info["format"] == "bnb-nf4" and info["bits"] == 4
    assert report["method"]["settings"]["stepping"] == "fp32"
    assert "Weights on the grids" in (finished / "report.html").read_text(encoding="utf-8")
