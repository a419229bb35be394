"""The tuned lens: its map and divergence by hand, and that it reads what the logit lens cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class
from transformers import LlamaConfig, LlamaForCausalLM

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.tuned_lens import TunedLens
from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.lens import LogitLens, Translator
from hf_unlearn.evaluation.logits import SelectedLogits
from hf_unlearn.evaluation.scoring import LabelledText, score_texts
from hf_unlearn.evaluation.tuned_lens import Fit, _divergence, fit_translators, named_layers

FIT = Fit(tokens=3000, steps=1500, batch=128, learning_rate=1e-2)


def turned(seed: int = 0, last=None) -> LlamaForCausalLM:
    """A model whose first layer's states are read well after a rotation, and badly before it.

    Layer 0 does nothing and layer 1 swaps the halves of every state, which is linear: the tuned lens can learn it.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.register_forward_hook(_nothing if layer is model.model.layers[0] else last or _swapped)
    return model.requires_grad_(False)


def _nothing(_module, inputs, _output):
    return inputs[0]


def _swapped(_module, inputs, _output):
    return torch.cat([inputs[0][..., 8:], inputs[0][..., :8]], dim=-1)


def texts(seed: int, count: int = 300) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(1, 20, (12,), generator=generator).tolist()) for _ in range(count)]


def test_the_divergence_is_that_of_the_models_distribution_from_the_lens():
    model = turned()
    lens = LogitLens(model, SelectedLogits(model))
    torch.manual_seed(1)
    states, last = torch.randn(5, 16), torch.randn(5, 16)
    translator = Translator(torch.randn(16, 16), torch.randn(16))
    wanted = 0.0
    for place in range(5):
        mapped = states[place] + translator.matrix @ states[place] + translator.shift
        model_says = model.lm_head(model.model.norm(last[place])).double().softmax(-1)
        lens_says = model.lm_head(model.model.norm(mapped)).double().softmax(-1)
        wanted += sum(float(p * (p / q).log()) for p, q in zip(model_says, lens_says, strict=True)) / 5
    assert float(_divergence(lens, translator, states, last)) == pytest.approx(wanted, abs=1e-4)


def test_what_a_later_layer_only_turns_around_is_read_before_it():
    model = turned()
    fitted = fit_translators(model, texts(0), FIT, Passes(4096))
    (translator,) = fitted.values()
    assert named_layers(fitted) == [1]
    rows = [LabelledText(EncodedRow(str(n), text, 4), layers=True) for n, text in enumerate(texts(1, 10))]
    plain = score_texts(model, rows, Passes(4096))
    tuned = score_texts(model, rows, Passes(4096), translators={0: translator})
    gap = [abs(one.layers[0] - one.layers[1]) for one in plain]
    left = [abs(one.layers[0] - one.layers[1]) for one in tuned]
    assert sum(left) < sum(gap) / 3
    for before, after in zip(plain, tuned, strict=True):
        assert after.layers[1] == before.layers[1] and after.logps == before.logps


def test_where_nothing_can_be_learned_it_stays_the_logit_lens():
    """The last layer does nothing, so every step does harm: the untouched map is kept."""
    wild = Fit(tokens=300, steps=3, batch=64, learning_rate=1.0)
    assert named_layers(fit_translators(turned(last=_nothing), texts(0, 40), wild, Passes(4096))) == []


def rows(prefix: str, count: int) -> RowSet:
    made = tuple(
        Example(f"{prefix}{n}", f"{prefix} {n}?", " yes", f"{prefix}{n}", f"{prefix}{n}") for n in range(count)
    )
    return RowSet(made, made)


def test_it_is_a_diagnosis_fitted_on_rows_without_a_forgotten_fact():
    assert_defaults_are_those_of_the_class(ATTACKS.get("tuned-lens"))
    attack, bundle = TunedLens(), DataBundle(rows("f", 4), rows("r", 9))
    assert attack.measures(("probability",)) == () and not attack.judged
    assert attack.plan(bundle) == ["layers"] and attack.budget(bundle)["rows_fitted"] == 9
    with pytest.raises(RequestError, match="give the retain set such rows"):
        attack.plan(DataBundle(rows("f", 4), rows("f", 4)))


@pytest.mark.parametrize("key", ["examples", "tokens", "steps"])
def test_settings_that_make_no_sense_are_refused_by_name(key, tmp_path: Path):
    with pytest.raises(RequestError, match=rf"tuned-lens\.{key}"):
        TunedLens(**{key: 0})
