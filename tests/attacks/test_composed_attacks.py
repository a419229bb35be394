"""Attacks under names of their own, on the weights of a quantized file, and quantized in their turn."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from knowing_model import FEW, train_on_few
from small_recipe import SMALL, recipe_of

from hf_unlearn.attacks import ATTACKS, model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.composed import ORDER_KEYS, OrderedAttack, after_of, bare, kind_of
from hf_unlearn.attacks.dequantize import is_quantized, plain_model, read_weight, write_dequantized
from hf_unlearn.attacks.noise import Noise
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import RelearnAll
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.scoring import score_attacked
from hf_unlearn.data.encoding import TextFormat, load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import export_format

METRICS = ("probability",)
FORMAT = TextFormat()
ATTACKED = SMALL + "export: {formats: [bnb-nf4, rtn-int4-g32]}\nattack:\n"


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(FEW)


@pytest.fixture(scope="module")
def model(made_once) -> Path:
    return made_once("knowing-few", train_on_few)


@pytest.fixture(scope="module")
def nf4(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nf4") / "it"
    export_format("bnb-nf4", model, folder)
    return folder


def test_attacks_get_names_of_their_own_and_an_order(tmp_path):
    text = ATTACKED + (
        "  rtt: {folds: 3}\n"
        "  rtt-nf4: {attack: rtt, after: bnb-nf4, folds: 4}\n"
        "  rtt-then-int4: {attack: rtt, then: rtn-int4-g32}\n"
        "  timid: {attack: rtt, learning_rates: [1.0e-6]}\n"
    )
    recipe = recipe_of(tmp_path, text)
    assert recipe.attack == {
        "rtt": RTT(folds=3),
        "rtt-nf4": OrderedAttack("rtt", RTT(folds=4), after="bnb-nf4"),
        "rtt-then-int4": OrderedAttack("rtt", RTT(), then="rtn-int4-g32"),
        "timid": OrderedAttack("rtt", RTT(learning_rates=(1e-6,))),
    }
    assert recipe.gate.attacks == ("rtt", "rtt-nf4", "rtt-then-int4", "timid")
    assert [kind_of(name, attack) for name, attack in recipe.attack.items()] == ["rtt"] * 4
    assert [after_of(attack) for attack in recipe.attack.values()] == [None, "bnb-nf4", None, None]
    assert bare(recipe.attack["timid"]) == RTT(learning_rates=(1e-6,))
    assert recipe_of(tmp_path, yaml.safe_dump(recipe.to_dict())) == recipe


def test_short_names_of_formats_become_full_ones(tmp_path):
    recipe = recipe_of(
        tmp_path, ATTACKED + "  p: {attack: prune, after: rtn-int4, then: rtn-int3}\n", "export.formats=[rtn-int4]"
    )
    assert recipe.attack["p"].order == {"attack": "prune", "after": "rtn-int4-g128", "then": "rtn-int3-g128"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  x: {attack: rttt}", r"r\.yaml:8: attack\.x: there is no attack called 'rttt': did you mean 'rtt'\?"),
        ("  rtt-x: {after: bnb-nf4}", r"attack\.rtt-x: there is no attack called 'rtt-x'.* as in attack: rtt"),
        ("  x: {attack: rtt, fold: 3}", r"unknown key 'attack\.x\.fold': did you mean 'folds'\?"),
        ("  x: {attack: rtt, folds: 1}", r"rtt\.folds is 1"),
        ("  x: {attack: rtt, after: bnb-nf5}", r"attack\.x\.after: there is no format called 'bnb-nf5'"),
        ("  x: {attack: rtt, after: bnb-int8}", r"attack\.x\.after names 'bnb-int8', .*add it to export\.formats"),
        ("  x: {attack: few-shot, then: bnb-nf4}", r"few-shot changes no weights, .*write after: bnb-nf4"),
        ("  x: {attack: rtt, then: gptq-int4}", r"then: gptq-int4-g128 is calibrated"),
        ("  x: {attack: rtt, then: [bnb-nf4]}", r"attack\.x\.then is \['bnb-nf4'\], it must be a name"),
        ("  prune: {attack: rtt}", r"the name 'prune' is already used for something else"),
        ("  bnb-fp4: {attack: rtt}", r"the name 'bnb-fp4' is already used for something else"),
        ("  identity: {attack: rtt}", r"the name 'identity' is already used for something else"),
        ("  ../x: {attack: rtt}", r"cannot name a folder"),
        ("  x: 3", r"attack\.x must be a mapping of keys to values"),
    ],
)
def test_bad_orders_are_refused_where_they_stand(tmp_path, line, message):
    with pytest.raises(RequestError, match=message):
        recipe_of(tmp_path, ATTACKED + line + "\n")


def test_no_attack_has_a_setting_that_is_about_the_order():
    for entry in ATTACKS.entries():
        assert not {field.name for field in dataclasses.fields(entry.value)} & {*ORDER_KEYS, "tier"}


def test_attacks_that_say_they_can_be_quantized_after_are_scored_so():
    """Where an attack claims to edit weights, the one function that quantizes in between is what scores it."""
    for entry in ATTACKS.entries():
        if entry.value.edits_weights:
            modules = {cls.__module__ for cls in entry.value.__mro__ if cls.__module__.startswith("hf_unlearn")}
            source = "".join(inspect.getsource(__import__(name, fromlist=["x"])) for name in modules)
            assert any(word in source for word in ("score_attacked", "retrain_and_score", "run_sweep_job")), entry.name


def test_the_budget_says_the_order(bundle):
    ordered = OrderedAttack("prune", Prune(), after="bnb-nf4", then="rtn-int4-g32")
    assert ordered.budget(bundle) == {
        "attack": "prune",
        "after": "bnb-nf4",
        "then": "rtn-int4-g32",
        **Prune().budget(bundle),
    }
    assert ordered.cost(bundle) == Prune().cost(bundle)
    assert ordered.plan(bundle) == Prune().plan(bundle)


def test_a_quantized_layer_is_read_as_what_it_multiplies_by(nf4):
    import bitsandbytes.functional as functional

    quantized = load_model(nf4)
    name = "model.layers.0.mlp.down_proj"
    layer = quantized.get_submodule(name)
    by_library = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    assert torch.allclose(read_weight(layer), by_library, rtol=0.02, atol=1e-4)
    assert torch.allclose(plain_model(quantized).get_submodule(name).weight, by_library, rtol=0.02, atol=1e-4)


def test_what_is_dequantized_is_a_plain_model_that_scores_like_the_file(model, nf4, bundle, tmp_path):
    assert (is_quantized(model), is_quantized(nf4)) == (False, True)
    write_dequantized(nf4, tmp_path)
    assert not is_quantized(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    scored = [
        score_rows(load_model(folder), tokenizer, {"forget": bundle.forget.score}, FORMAT)
        for folder in (nf4, tmp_path, model)
    ]
    gaps = [
        max(abs(a - b) for x, y in zip(scored[0], other, strict=True) for a, b in zip(x.logps, y.logps, strict=True))
        for other in scored[1:]
    ]
    assert gaps[0] < 0.25 * gaps[1]


def test_then_scores_the_very_file_that_quantizing_makes(model, nf4, bundle, tmp_path):
    out = tmp_path / "job"
    out.mkdir()
    attack = OrderedAttack("noise", Noise(amounts=(0.001,), draws=1), then="bnb-nf4")
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(model, model, bundle, FORMAT, METRICS), out)
    expected = score_rows(load_model(nf4), load_tokenizer(str(nf4)), {"forget": bundle.forget.score}, FORMAT)
    found = {record.id: record.logps for record in read_records(out / "epoch0.jsonl")}
    assert found == {record.id: pytest.approx(record.logps, abs=1e-5) for record in expected}


def test_adapters_are_merged_into_a_copy_before_it_is_quantized(model, bundle):
    from peft import LoraConfig, get_peft_model

    loaded, tokenizer = load_model(model), load_tokenizer(str(model))
    rows = bundle.forget.score[:4]
    torch.manual_seed(1)  # of what the adapters start with; how far they move the model depends on it
    adapted = get_peft_model(loaded, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    attacked = Attacked(model, model, bundle, FORMAT, METRICS)
    plain = score_attacked(adapted, tokenizer, rows, attacked)
    as_file = score_attacked(adapted, tokenizer, rows, dataclasses.replace(attacked, then="bf16"))
    again = score_attacked(adapted, tokenizer, rows, attacked)
    for first, second, third in zip(plain, as_file, again, strict=True):
        assert second.logps == pytest.approx(first.logps, abs=0.3)
        assert third.logps == first.logps
    untouched = score_rows(load_model(model), tokenizer, {"forget": rows}, FORMAT)
    assert any(
        abs(a - b) > 1.0
        for x, y in zip(untouched, as_file, strict=True)
        for a, b in zip(x.logps, y.logps, strict=True)
    )


def test_before_the_attack_adapters_change_nothing_in_the_file_either(model, bundle, tmp_path):
    attacked = Attacked(model, model, bundle, FORMAT, METRICS)
    before = []
    for tuning in ("full", "lora"):
        model_cache.release()
        settings = RelearnAll(learning_rates=(1e-4,), tuning=tuning, lora_rank=4)
        attack = OrderedAttack("relearn-all", settings, then="rtn-int4-g32")
        (job,) = attack.plan(bundle)
        out = tmp_path / tuning
        out.mkdir()
        attack.run_job(job, attacked, out)
        before.append((out / "epoch0.jsonl").read_text())
    assert before[0] == before[1]
