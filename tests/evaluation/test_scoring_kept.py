"""What the pass keeps beside log-probabilities: statistics over the vocabulary, layers, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.gradients import gradient_norms
from hf_unlearn.evaluation.scoring import score_rows, vocabulary_statistics
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import export_format

PLAIN = TextFormat()


def scored(model, tokenizer, sets, *needs):
    return score_rows(model, tokenizer, sets, PLAIN, needs=dict.fromkeys(sets, frozenset(needs)))


def encoded_rows(tokenizer, sets):
    return [encode_row(row, tokenizer, PLAIN, eos=False) for members in sets.values() for row in members]


def test_vocabulary_statistics_are_those_of_each_answer_token(model, tokenizer, sets):
    records = scored(model, tokenizer, sets, "vocabulary", "options")
    for encoded, record in zip(encoded_rows(tokenizer, sets), records, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([encoded.input_ids])).logits[0, encoded.n_prompt - 1 : -1].double()
        for row, mean, variance in zip(logits.tolist(), record.vocab_means, record.vocab_variances, strict=True):
            total = math.log(sum(math.exp(score) for score in row))
            logps = [score - total for score in row]
            expected = sum(math.exp(logp) * logp for logp in logps)
            assert mean == pytest.approx(expected, abs=1e-5)
            spread = sum(math.exp(logp) * (logp - expected) ** 2 for logp in logps)
            assert variance == pytest.approx(spread, abs=1e-5)


def test_vocabulary_statistics_of_extreme_logits():
    """Where sum p log p squared minus a square would cancel, and where a token has no probability at all."""
    even = torch.full((1, 50_000), -math.log(50_000))
    mean, variance = vocabulary_statistics(even)
    assert mean.item() == pytest.approx(-math.log(50_000), rel=1e-6)
    assert 0 <= variance.item() < 1e-9
    sure = torch.tensor([[0.0, float("-inf"), float("-inf")]])
    assert [item.item() for item in vocabulary_statistics(sure)] == [0.0, 0.0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_are_seen_through_the_final_norm_and_the_head(family, model, tokenizer, sets):
    if family == "gpt2":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=3, n_head=2)).eval()
    norm = model.model.norm if family == "llama" else model.transformer.ln_f
    records = scored(model, tokenizer, sets, "layers")
    for encoded, record in zip(encoded_rows(tokenizer, sets), records, strict=True):
        labels = torch.tensor(encoded.input_ids[encoded.n_prompt :])
        expected = []
        with torch.no_grad():
            output = model(torch.tensor([encoded.input_ids]), output_hidden_states=True)
            *inner, last = output.hidden_states[1:]  # the last one has been through the norm
            for states in (*(norm(states) for states in inner), last):
                logps = model.lm_head(states[0, encoded.n_prompt - 1 : -1]).log_softmax(-1)
                expected.append(logps.gather(-1, labels[:, None]).mean().item())
        assert record.layer_logps == pytest.approx(expected, abs=1e-5)
        assert record.layer_logps[-1] == pytest.approx(sum(record.logps) / len(record.logps), abs=1e-5)
        assert len(set(record.layer_logps)) == len(record.layer_logps) == model.config.num_hidden_layers


def test_one_forward_gives_everything(model, tokenizer, sets):
    """Of the backbone, two to try it out, one for the lens, and one per batch whatever is kept."""
    calls = {}
    for needs in ((), ("vocabulary", "layers", "text")):
        seen = []
        hook = model.model.layers[0].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        scored(model, tokenizer, {"retain": sets["retain"]}, *needs)
        hook.remove()
        calls[needs] = len(seen)
    assert calls[()] == 3 and calls["vocabulary", "layers", "text"] == 4


def test_families_whose_layers_are_not_known_are_refused(model, tokenizer, sets, monkeypatch):
    monkeypatch.setattr("hf_unlearn.models.decoder._FINAL_NORMS", ("unheard of",))
    with pytest.raises(RequestError, match="does not know the final norm of LlamaForCausalLM"):
        scored(model, tokenizer, sets, "layers")


def test_lens_of_a_recurrent_family(tokenizer, sets):
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    model = MambaForCausalLM(MambaConfig(**size)).eval()
    for record in scored(model, tokenizer, sets, "layers"):
        assert record.layer_logps[-1] == pytest.approx(sum(record.logps) / len(record.logps), abs=1e-5)


def test_gradient_norm_is_that_of_the_rows_mean_loss(make_model, tokenizer, sets):
    model = make_model(tie_word_embeddings=True)
    model.model.embed_tokens.weight.requires_grad_(False)
    encoded = encoded_rows(tokenizer, sets)
    norms = gradient_norms(model, encoded, Passes(4096))
    assert not model.model.embed_tokens.weight.requires_grad, "who takes part is put back"
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(True)
    for row, norm in zip(encoded, norms, strict=True):
        labels = torch.tensor([[-100] * row.n_prompt + list(row.input_ids[row.n_prompt :])])
        model.zero_grad()
        model(torch.tensor([row.input_ids]), labels=labels).loss.backward()
        expected = math.sqrt(sum(float(parameter.grad.double().pow(2).sum()) for parameter in model.parameters()))
        assert norm == pytest.approx(expected, rel=1e-4)
    assert len(set(norms)) == len(norms)


@pytest.mark.parametrize("name", ["bnb-nf4", "rtn-int4-g32"])
def test_quantized_weights_have_no_gradient(name, folder, tokenizer, sets, tmp_path):
    export_format(name, folder, tmp_path / "out")
    quantized = load_model(tmp_path / "out")
    with pytest.raises(RequestError, match=r"quantized .* score it in bf16"):
        gradient_norms(quantized, encoded_rows(tokenizer, sets), Passes(4096))


def test_gradients_that_are_not_finite_name_the_row(make_model, tokenizer, sets):
    broken = make_model()
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(RequestError, match="gradient on row f0 is not finite"):
        gradient_norms(broken, encoded_rows(tokenizer, sets)[:1], Passes(4096))
