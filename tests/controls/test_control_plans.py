"""Controls in a recipe: what is refused at once, and what a run makes of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.models import scratch
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages import train as train_stage
from hf_unlearn.stages.plans import METRICS_FILE, TrainingPlan
from hf_unlearn.stages.units import Unit

RECIPE = """\
name: plans
model:
  min_known: 0.9
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 4, heads: 2, kv_heads: 1, vocab_size: 600,
            epochs: 40, batch_size: 32, learning_rate: 4.0e-3}
data:
  max_length: 64
  planted: {forget: 24, retain: 24, holdout: 0, practice: 24, generic: 16, first_year: 1950}
methods: [{name: npo, loss_type: npo, max_steps: 1, per_device_train_batch_size: 4}]
controls:
CONTROLS
export: {formats: [bnb-nf4]}
evaluate: {max_new_tokens: 3, fluency_tokens: 4, generate_limit: 0}
gate: {max_recovered_share_formats: 0.20}
"""
DEPTH = """\
  - name: deep
    kind: depth_hidden
    expected: failed
    parameters: {share: 0.75}
    learn: {max_steps: LEARN, learning_rate: 5.0e-3, per_device_train_batch_size: 8, save_strategy: "no"}
    settings: {loss_type: npo, retain_loss_type: kl, max_steps: 2, per_device_train_batch_size: 4}
"""
OTHERS = """\
  - {name: untouched, kind: target, expected: failed}
  - name: refusal
    kind: output_hidden
    expected: failed
    settings: {retain_loss_type: nll, max_steps: 2, per_device_train_batch_size: 4}
"""


def write(folder: Path, controls: str) -> Path:
    path = folder / "plans.yaml"
    path.write_text(RECIPE.replace("CONTROLS\n", controls))
    return path


def train(recipe: Path, out: Path) -> int:
    return main(["train", str(recipe), "--output-dir", str(out), "--workers", "0"])


@pytest.mark.slow
def test_a_control_that_learns_first_starts_from_what_it_learned(tmp_path):
    recipe = write(tmp_path, DEPTH.replace("LEARN", "200") + OTHERS)
    assert train(recipe, tmp_path / "out") == 0
    references = tmp_path / "out" / "references"
    learned = json.loads((references / "own-target" / "deep" / "training.json").read_text())
    assert learned["steps"] == 200 and "loss/forget" not in learned
    assert json.loads((references / "train" / "deep" / "training.json").read_text())["steps"] == 2
    refused = json.loads((references / "train" / "refusal" / "training.json").read_text())
    assert refused["steps"] == 2 and "loss/forget" not in refused
    assert not (references / "train" / "untouched").exists()
    from transformers import AutoModelForCausalLM

    own, hidden = (
        AutoModelForCausalLM.from_pretrained(references / stage / "deep").state_dict()
        for stage in ("own-target", "train")
    )
    for name, tensor in own.items():
        same = bool((tensor == hidden[name]).all())
        assert same == (
            name.startswith(("model.layers.0.", "model.layers.1.", "model.layers.2.", "model.embed_tokens."))
        ), name
    # A second run repeats nothing.
    written = {path: path.stat().st_mtime_ns for path in references.rglob("*.safetensors")}
    assert train(recipe, tmp_path / "out") == 0
    assert written == {path: path.stat().st_mtime_ns for path in references.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_run_with_a_control_that_learned_nothing_ends(tmp_path, capsys):
    assert train(write(tmp_path, DEPTH.replace("LEARN", "1")), tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the control deep hides nothing" in error and "under 'learn' of that control" in error


@pytest.mark.parametrize("learned", [0.0, 0.8])
def test_a_control_that_learned_nothing_hides_nothing(tmp_path, monkeypatch, learned):
    """Training is left out: what counts is what the models are found to know, and what is trained after that."""
    bundle, fmt, trained = make_planted(PlantedSpec(forget=4, retain=4, generic=4)), TextFormat(), []
    units = [Unit(tmp_path / name, {}) for name in ("own", "hidden")]
    first = TrainingPlan("deep", units[0], tmp_path / "never", bundle, {})
    plan = TrainingPlan("deep", units[1], units[0].path, bundle, {}, first)

    def train_nothing(unit, *_):
        trained.append(unit)
        unit.path.mkdir()
        (unit.path / METRICS_FILE).write_text("{}")

    monkeypatch.setattr(train_stage, "train_job", train_nothing)
    known = {units[0].path: learned, tmp_path / "target": 0.9}
    monkeypatch.setattr(scratch, "knows", lambda model, rows, fmt: known[model])
    if learned:
        assert train_stage.plan_job(plan, tmp_path / "target", fmt, 0, "float32") == ""
        assert trained == units
        return
    with pytest.raises(RequestError, match=r"the control deep hides nothing: .* answers 0\.0% .* under 'learn' of"):
        train_stage.plan_job(plan, tmp_path / "target", fmt, 0, "float32")
    assert trained == units[:1]


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        (DEPTH.replace("LEARN", "many"), r"plans\.yaml:15: controls\.0\.learn: max_steps is 'many'"),
        (DEPTH.replace("LEARN", "3, steps: 4"), r"plans\.yaml:15: unknown key 'controls\.0\.learn\.steps'"),
        (DEPTH.replace("LEARN", "3").replace("share: 0.75", "phase: learn"), "phase is given by the run"),
        (OTHERS + "    learn: {max_steps: 3}\n", "controls.1.learn: a control of kind output_hidden learns nothing"),
        ("  - {name: t, kind: target, expected: passed}\n", "the model that was never unlearned: use failed"),
        ("  - {name: t, kind: target, expected: failed, learn: {max_steps: 3}}\n", "learn are only for controls"),
        ("  - {name: t, kind: depth, expected: failed}\n", "did you mean 'depth_hidden'"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(tmp_path, controls, words):
    with pytest.raises(RequestError, match=words):
        load_recipe(write(tmp_path, controls))


def test_learning_needs_a_model_that_never_knew(tmp_path):
    text = RECIPE.replace("CONTROLS\n", DEPTH.replace("LEARN", "3"))
    start, end = text.index("model:"), text.index("data:")
    path = tmp_path / "plans.yaml"
    path.write_text(text[:start] + "model: {target: some/model}\n" + text[end:])
    with pytest.raises(RequestError, match=r"controls\.0.*learns the facts from a never-knew model"):
        load_recipe(path)
