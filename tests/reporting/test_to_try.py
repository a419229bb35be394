"""Advice fits what was done: nobody is told to use what was used, or to train longer where nothing was trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_unlearn.recipe.method_settings import completed
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.to_try import what_to_try
from hf_unlearn.stages.report_inputs import method_settings

FOUND = {"auto_find_learning_rate": True, "found_learning_rate": 3e-4}


def advice(report: dict[str, Any], cause: str, settings: dict[str, Any]) -> str:
    """What is said of a model that failed for one cause."""
    outcome = {"transform": "identity", "kind": "format", "status": "failed", "causes": [cause]}
    verdict = report["verdict"] | {"status": "failed", "outcomes": [outcome | {"worst_share": None, "budget": {}}]}
    controls = [control | {"ok": True} for control in report["controls"]]
    method = {"name": "m", "settings": settings}
    (sentence,) = what_to_try(Results(report | {"verdict": verdict, "controls": controls, "method": method}))
    return sentence


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"loss_type": "npo", "learning_rate": 3e-4},
            "`robust: auto`; or up to three times the learning rate (0.0003 was used: learning_rate 0.0009), or more "
            "passes (num_train_epochs).",
        ),
        (
            {"robust": ["auto"], "learning_rate": 1e-3},
            "up to three times the learning rate (0.001 was used: learning_rate 0.003), or longer rehearsals "
            "(rehearse_passes of auto).",
        ),
        (
            {"robust": [{"name": "auto", "level": False}], **FOUND},
            "up to three times the learning rate (0.0003 was found: learning_rate 0.0009), or longer rehearsals "
            "(rehearse_passes of auto).",
        ),
        (
            {"robust": ["auto"], "auto_find_learning_rate": True},
            "up to three times the learning rate (found by a search, see training.json), or longer rehearsals "
            "(rehearse_passes of auto).",
        ),
        (
            {"loss_type": "npo", "robust": [{"name": "cycles", "rounds": 2}]},
            "`robust: auto`; or up to three times the ",
        ),
        ({}, "where this model was made, unlearn more; or unlearn the target anew with `robust: auto` "),
        ({"checkpoint": "owner/model", "revision": None}, "where this model was made, unlearn more; or unlearn the "),
    ],
)
def test_left_knowledge(sample_report: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    text = advice(sample_report, "knowledge", settings)
    assert text.startswith(f"Knowledge is left or comes back: {said}"), text


@pytest.mark.parametrize("cause", ["over-forgetting", "utility"])
def test_a_lower_rate_is_a_number(sample_report: dict[str, Any], cause: str) -> None:
    assert "a third of the learning rate (0.0003 was found: learning_rate 0.0001)" in advice(
        sample_report, cause, {"robust": ["auto"], **FOUND}
    )


@pytest.mark.parametrize("cause", ["knowledge", "over-forgetting", "utility", "marked rows"])
def test_where_nothing_was_trained_no_setting_of_a_training_is_named(
    sample_report: dict[str, Any], cause: str
) -> None:
    text = advice(sample_report, cause, {"checkpoint": "owner/model"})
    assert "made" in text
    assert not any(name in text for name in ("num_train_epochs", "retain_weight", "keep_drawn", "times", "third"))


def test_the_rate_that_was_found_is_in_the_report(tmp_path: Path) -> None:
    given = {"robust": "auto", "learning_rate": "auto"}
    context: Any = SimpleNamespace(
        folder=lambda stage, name: tmp_path,
        recipe=SimpleNamespace(method=lambda name: SimpleNamespace(settings=given, checkpoint=None, revision=None)),
    )
    training = {"steps": 40, "stepping": "fp32", "learning_rate": {"rate": 3e-4, "tried": {"0.0003": 0.98}}}
    (tmp_path / "training.json").write_text(json.dumps(training))
    told = method_settings(context, "auto")
    assert told == {**completed(given), "steps_taken": 40, "stepping": "fp32", "found_learning_rate": 3e-4}
    del training["learning_rate"]
    (tmp_path / "training.json").write_text(json.dumps(training))
    assert "found_learning_rate" not in method_settings(context, "auto")
