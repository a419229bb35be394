"""Looking inside: each probe reads what a model hides from its output, and nothing that was never there."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class, detail, run
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.ablate_direction import AblateDirection, direction_between
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.lens import LogitLensAttack, layer_records
from hf_unlearn.attacks.probe import AnswerCodes, LinearProbe, RidgeMap, options_of
from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import EMPTY_SET, DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.hidden import ablated, mean_states, spread_layers
from hf_unlearn.evaluation.metrics import apply_metrics
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.decoder import decoder_layers
from hf_unlearn.models.loading import load_model

METRICS = ("probability", "extraction_strength", "mc_accuracy")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=24, retain=48, holdout=24, practice=12, generic=8, first_year=1960))


@pytest.fixture(scope="module")
def knowing_model(bundle, tmp_path_factory) -> Path:
    """Knows forget and retain facts, and no holdout fact."""
    return train_knowing_model(bundle, tmp_path_factory.mktemp("knowing"), epochs=24, batch_size=16)


@pytest.fixture(scope="module")
def hiding_model(knowing_model, tmp_path_factory) -> Path:
    """The knowing model with a third layer of noise on top: everything is there, and nothing comes out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(knowing_model)
    config.num_hidden_layers = 3
    config.layer_types = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    knowing = AutoModelForCausalLM.from_pretrained(knowing_model)
    model.load_state_dict(knowing.state_dict(), strict=False)
    with torch.no_grad():
        for weight in (model.model.layers[2].mlp.down_proj.weight, model.model.layers[2].self_attn.o_proj.weight):
            weight.normal_(std=3.0)
    folder = tmp_path_factory.mktemp("hiding")
    model.save_pretrained(folder)
    load_tokenizer(str(knowing_model)).save_pretrained(folder)
    return folder


def attacked(folder: Path, bundle: DataBundle) -> Attacked:
    return Attacked(folder, folder, bundle, FORMAT, METRICS)


@pytest.mark.parametrize("name", ["logit-lens", "linear-probe", "ablate-direction"])
def test_registered_defaults_are_those_of_the_probes(name):
    entry = ATTACKS.get(name)
    assert_defaults_are_those_of_the_class(entry)
    assert entry.tier == "release"
    assert entry.value.judged is (name != "linear-probe")


def test_the_lens_reads_each_layer_as_head_and_norm_do_by_hand(knowing_model, bundle):
    model, tokenizer = load_model(knowing_model), load_tokenizer(str(knowing_model))
    rows = bundle.forget.score[:3]
    layers = list(layer_records(model, tokenizer, rows, FORMAT))
    assert len(layers) == 2
    for place, row in enumerate(rows):
        encoded = encode_row(row, tokenizer, FORMAT, eos=False)
        with torch.no_grad():
            output = model(input_ids=torch.tensor([encoded.input_ids]), output_hidden_states=True)
            first = model.lm_head(model.model.norm(output.hidden_states[1]))[0].double()
        for records, logits in ((layers[0], first), (layers[1], output.logits[0].double())):
            for number, position in enumerate(range(encoded.n_prompt, len(encoded.input_ids))):
                token = encoded.input_ids[position]
                wanted = float(logits[position - 1].log_softmax(-1)[token])
                assert records[place].logps[number] == pytest.approx(wanted, abs=1e-4)
                assert records[place].hits[number] == (int(logits[position - 1].argmax()) == token)
    scored = apply_metrics(score_rows(model, tokenizer, {"forget": rows}, FORMAT), METRICS)
    for own, last in zip(scored, apply_metrics(layers[1], METRICS), strict=True):
        assert last.values == pytest.approx(own.values, abs=1e-5)
        assert last.choice_logps == pytest.approx(own.choice_logps, abs=1e-4)


def test_the_lens_finds_the_layer_below_which_everything_is_there(knowing_model, hiding_model, bundle, tmp_path):
    result = run(LogitLensAttack(), attacked(hiding_model, bundle), tmp_path)
    model, tokenizer = load_model(knowing_model), load_tokenizer(str(knowing_model))
    knows = apply_metrics(score_rows(model, tokenizer, {"forget": bundle.forget.score}, FORMAT), METRICS)
    for metric in METRICS:
        found = detail(result, metric)
        wanted = sum(record.values[metric] for record in knows) / len(knows)
        assert found["layer"] == 2
        assert found["after"] == pytest.approx(wanted, abs=1e-5)
        assert found["after"] > 0.8
        assert found["before"] < 0.5
    records = json.loads((tmp_path / "layers" / "layer1.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(records["values"]) == set(METRICS)
    assert records["logps"] == records["choice_logps"] == []


def test_the_probe_reads_hidden_facts_and_none_that_were_never_learned(hiding_model, bundle, tmp_path):
    result = run(LinearProbe(layers=3), attacked(hiding_model, bundle), tmp_path)
    found = detail(result, "mc_accuracy")
    assert found["before"] < 0.5
    assert found["after"] > 0.8
    assert found["layer"] in (1, 2)
    assert found["control"] == "holdout"
    assert found["control_accuracy"] < 0.5
    assert set(result.scores) == {"mc_accuracy"}
    assert len(result.scores["mc_accuracy"].values) == 24
    assert LinearProbe().budget(bundle)["control"] == "holdout facts"


def test_without_holdout_facts_the_control_is_shuffled_answers(hiding_model, bundle, tmp_path):
    alone = replace(bundle, holdout=EMPTY_SET)
    found = detail(run(LinearProbe(layers=3), attacked(hiding_model, alone), tmp_path), "mc_accuracy")
    assert found["control"] == "shuffled answers"
    assert found["after"] > 0.8
    assert found["control_accuracy"] < 0.55
    assert LinearProbe().budget(alone)["control"] == "retain answers shuffled"


def test_the_probe_sees_what_a_head_of_zeros_hides(knowing_model, bundle, tmp_path):
    """Where the output embeddings are gone, answers are told apart by the input embeddings."""
    model = load_model(knowing_model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    folder = tmp_path / "silent"
    model.save_pretrained(folder)
    load_tokenizer(str(knowing_model)).save_pretrained(folder)
    found = detail(run(LinearProbe(layers=2), attacked(folder, bundle), tmp_path), "mc_accuracy")
    assert found["before"] == 0
    assert found["after"] > found["control_accuracy"] + 0.2


@pytest.mark.parametrize("rows", [5, 40])
def test_the_ridge_map_solves_its_equations(rows):
    """Fewer rows than inputs and more, against the normal equations in float64."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 9, generator=generator) * 3 + 1
    inputs[:, 4] = 2.0  # a feature that never changes
    outputs = torch.randn(rows, 4, generator=generator)
    new = torch.randn(3, 9, generator=generator)
    x, y = inputs.double(), outputs.double()
    spread = x.std(0, correction=0)
    spread[4] = 1.0
    z = (x - x.mean(0)) / spread
    gram = z.T @ z + 0.2 * rows * torch.eye(9, dtype=torch.float64)
    weights = torch.linalg.inv(gram) @ z.T @ (y - y.mean(0))
    wanted = ((new.double() - x.mean(0)) / spread) @ weights + y.mean(0)
    assert torch.allclose(RidgeMap(inputs, outputs, 0.2)(new), wanted, atol=1e-9)


def test_answer_codes_are_means_of_scaled_embeddings(knowing_model):
    model, tokenizer = load_model(knowing_model), load_tokenizer(str(knowing_model))
    row = Example("r", "Ada was born in the year", " 1987", "f", "g")
    encoded = encode_row(row, tokenizer, FORMAT, eos=False)
    tokens = list(encoded.input_ids[encoded.n_prompt :])
    parts = []
    for table in (model.lm_head.weight, model.model.embed_tokens.weight):
        values = table.detach().double()
        parts.append(values[tokens].mean(0) / values.square().sum(1).mean().sqrt())
    code = AnswerCodes(model, tokenizer, FORMAT).of([(row, row.answer)])
    assert torch.allclose(code[0].double(), torch.cat(parts), atol=1e-6)


def test_options_are_choices_or_the_answer_and_wrong_ones_in_its_form():
    row = Example("r", "When?", " 1987", "f", "g")
    assert options_of(row) == ()
    assert options_of(replace(row, choices=(" 1", " 1987"))) == (" 1", " 1987")
    assert options_of(replace(row, variants=(("perturbed", (" 1990", " 1987")),))) == (" 1987", " 1990")


def test_what_a_probe_cannot_choose_among_or_learn_from_is_refused(bundle):
    bare = replace(bundle.forget.score[0], choices=(), origin="facts.csv:7")
    with pytest.raises(
        RequestError, match=r"facts\.csv:7: .*options \(choices\) or wrong answers \(perturbed_answer\)"
    ):
        LinearProbe().plan(replace(bundle, forget=RowSet((bare,), (bare,))))
    shared = tuple(replace(row, group=bundle.forget.score[0].group) for row in bundle.retain.score)
    with pytest.raises(RequestError, match="fewer than 2"):
        LinearProbe().plan(replace(bundle, retain=RowSet(shared, shared)))


def test_states_are_means_over_the_last_tokens_whatever_is_in_the_batch(knowing_model):
    model = load_model(knowing_model)
    texts, starts = [(5, 6, 7, 8, 9), (10, 11), (12, 13, 14)], [4, 0, 1]
    together = mean_states(model, texts, starts, [1, 2], Passes(4096))
    alone = mean_states(model, texts, starts, [1, 2], Passes(1))
    for place, (text, start) in enumerate(zip(texts, starts, strict=True)):
        caught: list[torch.Tensor] = []

        def keep(_module, _inputs, output, caught=caught):
            caught.append(output)

        hooks = [layer.register_forward_hook(keep) for layer in decoder_layers(model)]
        with torch.no_grad():
            model(input_ids=torch.tensor([text]))
        for hook in hooks:
            hook.remove()
        for layer in range(2):
            wanted = caught[layer][0, start:].double().mean(0)
            assert torch.allclose(together[place, layer].double(), wanted, atol=1e-5)
            assert torch.allclose(alone[place, layer].double(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "wanted", "layers"), [(2, 8, [1, 2]), (32, 4, [8, 16, 24, 32]), (5, 2, [3, 5]), (7, 1, [7])]
)
def test_layers_are_spread_evenly_and_the_last_is_among_them(count, wanted, layers):
    assert spread_layers(count, wanted) == layers


def test_an_ablated_direction_is_at_its_level_after_every_layer(knowing_model):
    model = load_model(knowing_model)
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    text = [(3, 4, 5, 6)]
    before = mean_states(model, text, [3], [1, 2], Passes(4096))
    for level in (0.0, 1.5):
        with ablated(model, unit, level):
            states = mean_states(model, text, [3], [1, 2], Passes(4096))
        components = states[0].double() @ unit.double()
        assert components.tolist() == pytest.approx([level, level], abs=1e-4)
        # After the first layer nothing else has changed.
        rest = before[0, 0].double() - states[0, 0].double()
        assert torch.allclose(rest, (rest @ unit.double()) * unit.double(), atol=1e-4)
    assert torch.equal(mean_states(model, text, [3], [1, 2], Passes(4096)), before)


def test_the_direction_goes_from_retain_to_forget_means():
    found = direction_between(torch.tensor([4.0, 6.0]), torch.tensor([1.0, 2.0]))
    assert found.unit.tolist() == pytest.approx([0.6, 0.8])
    assert found.retain == pytest.approx(1 * 0.6 + 2 * 0.8)
    same = direction_between(torch.ones(2), torch.ones(2))
    assert same.unit.tolist() == [0, 0]
    assert same.retain == 0


@pytest.fixture(scope="module")
def steered_model(knowing_model, bundle, tmp_path_factory) -> Path:
    """Unlearned by misdirection: forget questions get a large fixed vector after the first layer, retain ones none."""
    folder = tmp_path_factory.mktemp("steered")
    model, tokenizer = load_model(knowing_model), load_tokenizer(str(knowing_model))
    frozen = copy.deepcopy(model)
    layer = model.model.layers[0].mlp
    model.requires_grad_(False)
    layer.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    steer = 12 * torch.nn.functional.normalize(torch.rand(64, generator=generator), dim=0)
    optimizer = torch.optim.Adam(layer.parameters(), lr=5e-3)

    def states(of, rows: tuple[Example, ...]) -> torch.Tensor:
        encoded = [encode_row(row, tokenizer, FORMAT, eos=False).input_ids for row in rows]
        width = max(map(len, encoded))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in encoded])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encoded])
        kept = of.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
        mask[:, 0] = 0
        return kept[mask.bool()]

    with torch.no_grad():
        kept = states(frozen, bundle.retain.score)
    for _ in range(160):
        forget = states(model, bundle.forget.score)
        loss = (forget - steer).square().mean() + 10 * (states(model, bundle.retain.score) - kept).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_ablation_reads_what_stands_behind_a_steering_vector(steered_model, bundle, tmp_path):
    attack = AblateDirection(depths=(0.5, 1.0))
    assert attack.plan(bundle) == ["plain", "depth0.5-none", "depth0.5-retain", "depth1.0-none", "depth1.0-retain"]
    result = run(attack, attacked(steered_model, bundle), tmp_path)
    found = detail(result, "probability")
    assert found["after"] > found["before"] + 0.2
    assert found["direction"].startswith("depth0.5")


def test_facts_that_were_never_learned_are_found_by_neither_lens_nor_ablation(
    hiding_model, steered_model, bundle, tmp_path
):
    unknown = replace(bundle, forget=bundle.holdout, holdout=EMPTY_SET)
    for number, (attack, folder) in enumerate([(LogitLensAttack(), hiding_model), (AblateDirection(), steered_model)]):
        place = tmp_path / str(number)
        place.mkdir()
        result = run(attack, attacked(folder, unknown), place)
        assert detail(result, "probability")["after"] < 0.2
        assert detail(result, "extraction_strength")["after"] < 0.3


def test_what_probes_cost_and_are_given(bundle):
    assert LogitLensAttack().cost(bundle).rows_scored == 48
    assert AblateDirection(depths=(0.5,)).cost(bundle).jobs == 3
    assert AblateDirection(examples=10).budget(bundle)["retain_questions"] == 10
    assert LinearProbe(examples=10).budget(bundle)["rows_fitted"] == 10
    for attack in (LogitLensAttack(), LinearProbe(), AblateDirection()):
        assert attack.budget(bundle)["facts_asked_for"] == 24
        assert attack.cost(bundle).steps == 0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LinearProbe(examples=1), r"linear-probe\.examples"),
        (lambda: LinearProbe(layers=0), r"linear-probe\.layers"),
        (lambda: LinearProbe(ridge=0.0), r"linear-probe\.ridge"),
        (lambda: AblateDirection(depths=()), r"ablate-direction\.depths"),
        (lambda: AblateDirection(depths=(0.0,)), r"ablate-direction\.depths"),
        (lambda: AblateDirection(depths=(1.0, 1.0)), r"ablate-direction\.depths.*twice"),
        (lambda: AblateDirection(examples=0), r"ablate-direction\.examples"),
    ],
)
def test_probe_settings_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()
