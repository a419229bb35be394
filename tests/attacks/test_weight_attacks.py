"""Noise, interpolation and merging: what each does to weights, by hand, and what may not be mixed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class, detail, run
from knowing_model import FEW, train_on_few
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attack, Attacked, AttackResult
from hf_unlearn.attacks.edits import mix
from hf_unlearn.attacks.interpolate import Interpolate
from hf_unlearn.attacks.merge import Merge
from hf_unlearn.attacks.model_cache import borrowed
from hf_unlearn.attacks.noise import Noise, add_noise
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import EMPTY_SET, DataBundle
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records

METRICS = ("probability", "rouge_l")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(FEW)


@pytest.fixture(scope="module")
def target(made_once) -> Path:
    return made_once("knowing-few", train_on_few)


@pytest.fixture(scope="module")
def moved(target, tmp_path_factory) -> Path:
    """The target with its output head turned away: it answers nothing, and the way back is a straight line."""
    folder = tmp_path_factory.mktemp("moved")
    model = AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        model.lm_head.weight.mul_(-0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(target).save_pretrained(folder)
    return folder


def attack(settings: Attack, folder: Path, target: Path, bundle: DataBundle, out: Path) -> AttackResult:
    return run(settings, Attacked(folder, target, bundle, FORMAT, METRICS), out)


@pytest.mark.parametrize("name", ["noise", "interpolate", "merge", "prune"])
def test_registered_defaults_are_those_of_the_dataclass(name):
    assert_defaults_are_those_of_the_class(ATTACKS.get(name))


def test_noise_has_the_size_that_was_asked_for_in_every_row():
    weight = torch.randn(3, 20_000, dtype=torch.float64) * torch.tensor([[0.01], [1.0], [40.0]], dtype=torch.float64)
    before = weight.clone()
    add_noise(weight, 0.1, "layer-1")
    for row, old in zip((weight - before).tolist(), before.tolist(), strict=True):
        rms = math.sqrt(sum(value * value for value in old) / len(old))
        got = math.sqrt(sum(value * value for value in row) / len(row))
        assert got == pytest.approx(0.1 * rms, rel=0.03)


def test_a_draw_is_the_same_noise_for_every_model_and_only_its_size_differs():
    first, second = torch.ones(4, 8, dtype=torch.float64), torch.ones(4, 8, dtype=torch.float64)
    add_noise(first, 0.1, "0-1-layer")
    add_noise(second, 0.2, "0-1-layer")
    assert torch.allclose(2 * (first - 1), second - 1)
    other = torch.ones(4, 8, dtype=torch.float64)
    add_noise(other, 0.1, "0-2-layer")
    assert not torch.allclose(first, other)


def test_mixing_is_a_straight_line_that_may_lead_away():
    own, others = [0.5, -2.0, 4.0], [1.5, 2.0, -4.0]
    for share in (0.25, 0.9, -0.5):
        weights = {"w": torch.tensor(own, dtype=torch.float64)}
        mix(weights, {"w": torch.tensor(others)}, share)
        expected = [(1 - share) * a + share * b for a, b in zip(own, others, strict=True)]
        assert weights["w"].tolist() == pytest.approx(expected, rel=1e-12)


def test_noise_names_its_best_amount_and_draw_and_leaves_the_model_as_it_was(moved, target, bundle, tmp_path):
    with borrowed(moved) as cached:
        before = {name: weight.clone() for name, weight in cached.model.named_parameters()}
    result = attack(Noise(amounts=(0.05, 5.0), draws=2), moved, target, bundle, tmp_path)
    with borrowed(moved) as cached:
        assert all(torch.equal(weight, before[name]) for name, weight in cached.model.named_parameters())
    found = detail(result)
    assert set(found) >= {"amount", "draw", "before", "after"} and "epoch" not in found
    assert found["after"] >= found["before"]
    assert "rouge_l" not in result.scores
    jobs = {path.name for path in tmp_path.iterdir()}
    assert jobs == {f"amount{amount}-draw{draw}" for amount in (0.05, 5.0) for draw in (1, 2)}
    records = [read_records(tmp_path / job / "epoch1.jsonl")[0].logps for job in sorted(jobs)]
    assert len({tuple(logps) for logps in records}) == 4


def test_the_way_back_to_the_target_is_found(moved, target, bundle, tmp_path):
    result = attack(Interpolate(shares=(-0.2, 0.9)), moved, target, bundle, tmp_path)
    found = detail(result)
    assert found["before"] < 0.01
    assert found["after"] > 0.5
    assert found["share"] == 0.9


@pytest.mark.parametrize("given", [True, False])
def test_merging_brings_in_what_the_other_fine_tune_knows(given, moved, target, bundle, tmp_path):
    settings = Merge(shares=(0.1, 0.9), sibling=str(target) if given else None, learning_rate=1e-5)
    result = attack(settings, moved, target, bundle, tmp_path)
    found = detail(result)
    assert (found["share"], found["before"] < 0.01, found["after"] > 0.5) == (0.9, True, True)
    budget = settings.budget(bundle)
    assert ("steps" in budget) is not given
    assert settings.cost(bundle).steps == (0 if given else budget["steps"])


def test_a_sibling_that_diverges_is_a_result(moved, target, bundle, tmp_path):
    result = attack(Merge(learning_rate=1e30, epochs=3), moved, target, bundle, tmp_path)
    assert (tmp_path / "merged" / "diverged.json").exists()
    assert detail(result)["epoch"] == 0


@pytest.mark.parametrize("kind", [Interpolate, Merge])
def test_weights_that_do_not_fit_are_refused_before_anything_is_loaded(kind, target, bundle, tmp_path):
    config = LlamaConfig.from_pretrained(target, intermediate_size=192)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    attacked = Attacked(target, tmp_path / "wide", bundle, FORMAT, METRICS)
    for file in (tmp_path / "wide").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(RequestError, match=r"the target has other weights .*mlp\.gate_proj"):
        kind().check(attacked)
    kind().check(replace(attacked, target=target))


def test_merging_needs_rows_to_make_a_sibling_of(bundle, target):
    without = replace(bundle, generic=EMPTY_SET)
    with pytest.raises(RequestError, match=r"generic set, and there is none: name data\.generic, or .*merge\.sibling"):
        Merge(trained_on="generic").plan(without)
    assert Merge(trained_on="generic", sibling=str(target)).plan(without) == ["merged"]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Noise(amounts=()), r"noise\.amounts"),
        (lambda: Noise(amounts=(-0.1,)), r"noise\.amounts"),
        (lambda: Noise(draws=0), r"noise\.draws is 0"),
        (lambda: Interpolate(shares=(1.0,)), r"interpolate\.shares"),
        (lambda: Interpolate(shares=(0.0,)), r"interpolate\.shares names 0"),
        (lambda: Interpolate(shares=(0.5, 0.5)), r"interpolate\.shares.*twice"),
        (lambda: Merge(shares=(0.0,)), r"merge\.shares"),
        (lambda: Merge(learning_rate=0.0), r"merge\.learning_rate is 0"),
        (lambda: Merge(sibling="/nowhere"), r"merge\.sibling is '/nowhere', which holds no model"),
        (lambda: Prune(shares=()), r"prune\.shares"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()
