from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.generation import generate_greedy
from hf_unlearn.evaluation.generic import prefix, score_generic
from hf_unlearn.evaluation.metrics.text import text_entropy


@pytest.fixture(scope="module")
def rows(make_row):
    return [
        make_row("g0", "", "A long river ran by the old town."),
        make_row("g1", "", "The year of the town"),
        make_row("g2", "Where was it?", " By the old river and the town, in a long year."),
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_kl_is_from_the_reference_in_nats_per_label(make_model, model, tokenizer, rows, batch_tokens):
    other = make_model(seed=5)
    records = score_generic(other, model, tokenizer, rows, TextFormat(), max_new_tokens=4, batch_tokens=batch_tokens)
    for row, record in zip(rows, records, strict=True):
        encoded = encode_row(row, tokenizer, TextFormat(), eos=False)
        ids = torch.tensor([encoded.input_ids])
        with torch.no_grad():
            p, q = (softmax(item(ids).logits[0].double().numpy()) for item in (model, other))
        expected = np.mean(
            [(p[t] * np.log(p[t] / q[t])).sum() for t in range(encoded.n_prompt - 1, len(encoded.input_ids) - 1)]
        )
        assert record.values["kl_to_target"] == pytest.approx(expected, rel=1e-4)
        nll = -np.mean([np.log(q[t, encoded.input_ids[t + 1]]) for t in range(encoded.n_prompt - 1, len(q) - 1)])
        assert record.values["nll"] == pytest.approx(nll, rel=1e-4)
        assert (record.set, record.id) == ("generic", row.id)
        backwards = np.mean(
            [(q[t] * np.log(q[t] / p[t])).sum() for t in range(encoded.n_prompt - 1, len(encoded.input_ids) - 1)]
        )
        assert abs(backwards - expected) > 1e-3 * expected, "direction matters in this test"


def test_kl_of_equal_weights_is_zero(make_model, model, tokenizer, rows):
    for twin in (model, make_model()):
        records = score_generic(twin, model, tokenizer, rows, TextFormat(), max_new_tokens=2)
        assert [record.values["kl_to_target"] for record in records] == [0.0, 0.0, 0.0]


def test_fluency_is_that_of_the_continued_first_third(model, tokenizer, rows):
    records = score_generic(model, None, tokenizer, rows, TextFormat(), max_new_tokens=9)
    for row, record in zip(rows, records, strict=True):
        encoded = encode_row(row, tokenizer, TextFormat(), eos=False)
        start = prefix(encoded)
        assert start == encoded.input_ids[: encoded.n_prompt + (len(encoded.input_ids) - encoded.n_prompt) // 3]
        assert [record.generated] == generate_greedy(model, tokenizer, [start], 9)
        assert record.values["fluency"] == text_entropy(record.generated)
        assert record.values.keys() == {"fluency", "nll"}, "there is nothing to compare with"


def test_vocabularies_must_agree(make_model, model, tokenizer, rows):
    other = make_model(vocab_size=len(tokenizer) + 64)
    with pytest.raises(RequestError, match="their KL is not defined"):
        score_generic(other, model, tokenizer, rows, TextFormat())


def test_broken_weights_name_the_row(make_model, model, tokenizer, rows):
    broken = make_model()
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(RequestError, match="generic row g"):
        score_generic(broken, model, tokenizer, rows, TextFormat())
