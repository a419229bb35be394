"""Controls that hide in one part of the layers: what moves, what stays, and which rows they are trained on."""

import pytest
import torch
from tiny_run import logged, tiny_model, tiny_rows, tiny_trainer, weights

from hf_unlearn.controls import CONTROLS
from hf_unlearn.controls.depth_hidden import DepthHidden, lower_layers
from hf_unlearn.controls.output_hidden import OutputHidden
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.errors import RequestError
from hf_unlearn.models.decoder import decoder_layers

LOWER, UPPER = "model.layers.0.", "model.layers.1."
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def moved(folder, control, tie=False, **settings) -> set[str]:
    """Names of the weights that a few steps change."""
    model = tiny_model(tie=tie)
    before = weights(model)
    defaults = {"loss_type": "ga", "retain_loss_type": "nll", "learning_rate": 1e-2, "max_steps": 2}
    trainer = tiny_trainer(folder, model, control=control, **{**defaults, **settings})
    trainer.train()
    after = weights(model)
    return {name for name in before if not torch.equal(before[name], after[name])}


def all_of(prefix: str) -> set[str]:
    return {name for name in weights(tiny_model()) if name.startswith(prefix)}


def test_learning_moves_the_lower_layers_alone(tmp_path):
    assert moved(tmp_path, {"name": "depth_hidden", "phase": "learn"}) == all_of(LOWER)


def test_unlearning_moves_all_above_them(tmp_path):
    assert moved(tmp_path, "depth_hidden") == all_of(UPPER) | {HEAD, NORM}


def test_tied_embeddings_stay_in_both_phases(tmp_path):
    for phase in ("learn", "unlearn"):
        changed = moved(tmp_path / phase, {"name": "depth_hidden", "phase": phase}, tie=True)
        assert EMBEDDING not in changed and HEAD not in changed
        assert changed


def test_learning_is_the_retain_term_alone(tmp_path):
    """Gradient ascent on the forget rows would push them away; learned as retain rows they come nearer."""
    rows = tiny_rows("forget", 8)
    trainer = tiny_trainer(
        tmp_path,
        forget_dataset=rows,
        retain_dataset=rows,
        control={"name": "depth_hidden", "phase": "learn"},
        loss_type="ga",
        retain_loss_type="nll",
        learning_rate=1e-2,
        max_steps=30,
        logging_steps=1,
    )
    trainer.train()
    first, last = logged(trainer)[0], logged(trainer)[-1]
    assert last["logps/retain"] > first["logps/retain"] + 1
    assert "loss/forget" not in last


@pytest.mark.parametrize(("share", "layers"), [(0.5, 2), (0.01, 1), (0.99, 3), (0.6, 2)])
def test_the_cut_leaves_a_layer_on_either_side(share, layers):
    model = tiny_model()
    model.model.layers.extend(tiny_model(1).model.layers)
    model.config.num_hidden_layers = 4
    expected = [id(p) for layer in decoder_layers(model)[:layers] for p in layer.parameters()]
    assert [id(p) for p in lower_layers(model, share)] == expected


def test_models_without_layers_to_cut_are_refused(tmp_path):
    model = tiny_model()
    model.config.num_hidden_layers = 3
    with pytest.raises(RequestError, match="decoder layers of LlamaForCausalLM were not found"):
        lower_layers(model, 0.5)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    with pytest.raises(RequestError, match="a single layer"):
        lower_layers(model, 0.5)


@pytest.mark.parametrize(("layers", "expected"), [(0, set()), (1, all_of(UPPER)), (2, all_of(UPPER) | all_of(LOWER))])
def test_only_the_end_of_the_model_is_trained(tmp_path, layers, expected):
    control = {"name": "output_hidden", "how": "suppressed", "layers": layers}
    assert moved(tmp_path, control) == expected | {HEAD, NORM}


def test_more_layers_than_there_are(tmp_path):
    with pytest.raises(RequestError, match="layers is 3, but the model has 2"):
        moved(tmp_path, {"name": "output_hidden", "layers": 3})


def bundle_of(*forget: Example) -> DataBundle:
    keep = Example("r0", "Where is it?", " Here.", "r0", "r0")
    return DataBundle(RowSet(forget, forget), RowSet((keep,), (keep,)))


FACT = Example("f0", "When was it?", " 1934.", "f0", "g0", (" 1934", " 1935"), "file.jsonl:1")


def test_forget_prompts_with_a_refusal_are_retained():
    made = OutputHidden(refusal=" No idea.").training_rows(bundle_of(FACT))
    assert [(row.prompt, row.answer, row.choices) for row in made.retain.train] == [
        ("When was it?", " No idea.", ()),
        ("Where is it?", " Here.", ()),
    ]
    assert made.forget.train == (FACT,) and made.retain.score == bundle_of(FACT).retain.score
    assert OutputHidden().term_weights(0).forget == 0
    suppressed = OutputHidden(how="suppressed")
    assert suppressed.training_rows(bundle_of(FACT)) == bundle_of(FACT)
    assert suppressed.term_weights(0).forget == 1


def test_text_without_a_prompt_cannot_be_refused():
    text = Example("f1", "", "It was in 1934.", "f1", "f1", origin="file.jsonl:2")
    with pytest.raises(RequestError, match=r"the forget row file\.jsonl:2 has no prompt"):
        OutputHidden().training_rows(bundle_of(FACT, text))


def test_what_is_learned_holds_forget_and_retain_rows():
    learner = DepthHidden(phase="learn")
    bundle = bundle_of(FACT)
    assert set(learner.training_rows(bundle).retain.train) == {FACT, *bundle.retain.train}
    assert DepthHidden().training_rows(bundle) == bundle
    assert learner.term_weights(3).forget == 0 and DepthHidden().term_weights(3).forget == 1


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("depth_hidden", {"share": 1.0}, "between 0 and 1"),
        ("depth_hidden", {"phase": "both"}, "'learn' or 'unlearn'"),
        ("output_hidden", {"how": "loud"}, "'refusal' or 'suppressed'"),
        ("output_hidden", {"refusal": "  "}, "refusal is empty"),
        ("output_hidden", {"layers": -1}, "at least 0"),
    ],
)
def test_settings_that_make_no_sense(name, settings, words):
    with pytest.raises(RequestError, match=words):
        CONTROLS.get(name).value(**settings)


def test_learning_and_its_defaults_can_be_configured():
    from hf_unlearn import UnlearnConfig

    for entry in CONTROLS.entries():
        if entry.value.learns_first:
            control = {"name": entry.name, "phase": "learn"}
            config = UnlearnConfig(output_dir="unused", **{**entry.value.learning, "control": control})
            assert config.retain_loss_type == "nll"
