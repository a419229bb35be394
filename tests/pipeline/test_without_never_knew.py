"""Models that are judged without a never-knew model: holdout facts, asked under the same attack, are the floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.cli.main import main
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.context import RunContext, Subject
from hf_unlearn.stages.data import load_bundle, load_data
from hf_unlearn.stages.models import base_models
from hf_unlearn.stages.verify import verify_unit

# Two models are built and several runs made: minutes. What they rest on is tested alone in test_floors and test_floor.
pytestmark = pytest.mark.slow

SUBJECT = Subject("model", "method", Path("model"), "digest")

DATA = """\
seed: 0
data:
  max_length: 64
  planted: {forget: 60, retain: 40, holdout: 60, practice: 16, generic: 24, option_draws: 2, first_year: 1950}
export: {formats: []}
evaluate: {max_new_tokens: 3, fluency_tokens: 8, generate_limit: 8}
"""

MADE = """\
name: made
model:
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 600,
            epochs: 40, batch_size: 32, learning_rate: 4.0e-3}
methods:
  - {name: npo-kl, loss_type: npo, retain_loss_type: kl, retain_weight: 5.0, per_device_train_batch_size: 8,
     max_steps: 24, learning_rate: 1.0e-3}
"""

JUDGED = """\
name: judged
model: {{target: {target}}}
methods:
  - {{name: never, checkpoint: {never}}}
  - {{name: hides, checkpoint: {hides}}}
attack:
  rtt: {{folds: 2, learning_rates: [1.0e-3], epochs: 4, batch_size: 16, warmup_steps: 2}}
  few-shot: {{shots: 2, draws: 1}}
  relearn-all: {{learning_rates: [1.0e-3]}}
gate: {{metrics: [probability, extraction_strength], max_generic_kl: 3}}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> dict[str, Any]:
    """Two models, judged beside nothing but their target: one that never knew, and one that only hides."""
    place = tmp_path_factory.mktemp("floor")
    (place / "made.yaml").write_text(MADE + DATA)
    assert main(["train", str(place / "made.yaml"), "--output-dir", str(place / "made"), "--workers", "0"]) == 0
    recipe = load_recipe(place / "made.yaml")
    quiet = Progress(Console(quiet=True))
    target, never = base_models(RunContext(recipe, place, load_bundle(recipe), Workers(0), quiet))
    assert never is not None
    judged = JUDGED.format(target=target.folder, never=never.folder, hides=place / "made" / "train")
    (place / "judged.yaml").write_text(judged + DATA)
    main(["audit", str(place / "judged.yaml"), "--output-dir", str(place / "out"), "--workers", "0"])
    found: dict[str, Any] = json.loads((place / "out" / "verify" / "unlearning_report.json").read_text())
    return found


def rows(report: dict[str, Any], key: str, model: str, transform: str) -> list[dict[str, Any]]:
    return [row for row in report[key] if (row["model"], row["transform"]) == (model, transform)]


@pytest.mark.parametrize("attack", ["rtt", "few-shot"])
def test_a_model_that_never_knew_passes_under_attacks(report, attack):
    shares = [row for row in rows(report, "recovered", "never", attack) if row["threshold"] is not None]
    assert [row["metric"] for row in shares] == ["probability", "extraction_strength"]
    assert {row["status"] for row in shares} == {"passed"}
    assert report["verdict"]["status"] == "passed"
    assert report["verdict"]["candidate"] == "never"


def test_a_model_that_only_hides_fails(report):
    shares = {row["metric"]: row for row in rows(report, "recovered", "hides", "rtt")}
    assert shares["probability"]["status"] == "failed"
    assert shares["probability"]["recovered_share"] > 0.3
    counted = {row["metric"]: row for row in rows(report, "known_facts", "hides", "rtt")}
    assert counted["probability"]["status"] == "failed"
    assert counted["probability"]["known"] > counted["probability"]["allowed"]


def test_every_attacked_model_is_asked_holdout_facts_beside_the_forget_set(report):
    for model in ("target", "never", "hides"):
        for attack in ("rtt", "few-shot", "relearn-all"):
            asked = {
                row["split"]: row for row in rows(report, "scores", model, attack) if row["metric"] == "probability"
            }
            assert {split: row["n"] for split, row in asked.items()} == {"forget": 60, "holdout": 60}
            assert asked["holdout"]["value"] < 0.1


def test_what_holdout_facts_say_nothing_of_is_not_judged_and_named(report):
    """Relearning on the facts themselves teaches them to anybody."""
    assert "relearn-all" not in report["gate"]["attacks"]
    for row in rows(report, "recovered", "never", "relearn-all"):
        assert (row["status"], row["recovered_share"]) == ("reported", None)
        assert "without a never-knew model it cannot be judged: it trains on the very facts" in row["reason"]
    assert any(note.startswith("relearn-all: without a never-knew model") for note in report["notes"])


def test_the_report_says_what_the_floor_is(report):
    (note,) = [note for note in report["notes"] if note.startswith("Under attacks")]
    assert "'never' on the holdout set after the same attack" in note and "stand-in" in note


@pytest.mark.parametrize(
    ("model", "asks"),
    [
        ("{scratch: {}}", False),
        ("{target: there, never_knew: here, dtype: float32}", False),
        ("{target: there, dtype: float32}", True),
    ],
)
def test_holdout_facts_are_asked_under_attacks_only_where_there_is_no_never_knew_model(tmp_path, model, asks):
    rest = f"{MADE[MADE.index('methods:') :]}{DATA}attack: {{other-form: false}}\n"  # nothing is asked of the target
    (tmp_path / "made.yaml").write_text(f"name: made\nmodel: {model}\n{rest}")
    recipe, bundle = load_data(load_recipe(tmp_path / "made.yaml"))
    context = RunContext(recipe, tmp_path, bundle, Workers(0), Progress(Console(quiet=True)))
    assert context.bundle.floor == (bundle.holdout.score if asks else ())
    assert (context.bundle == bundle) is not asks
    assert verify_unit(context, SUBJECT, [SUBJECT]).inputs.get("floor") == ("holdout" if asks else None)
