from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
)

from hf_unlearn.data.encoding import TextFormat, encode_answer, encode_row
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import plan_batches
from hf_unlearn.evaluation.logits import SelectedLogits
from hf_unlearn.evaluation.scoring import score_labels, score_rows
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import export_format

PLAIN = TextFormat()


def one_by_one(model, encoded) -> tuple[list[float], list[bool]]:
    """Label log-probabilities and hits of one row: no padding, no sharing, whole logits, softmax in plain float64."""
    with torch.no_grad():
        logits = model(torch.tensor([encoded.input_ids])).logits[0].double()
    logps, hits = [], []
    for position in range(encoded.n_prompt, len(encoded.input_ids)):
        scores = logits[position - 1].tolist()
        greatest = max(scores)
        total = math.log(sum(math.exp(score - greatest) for score in scores)) + greatest
        logps.append(scores[encoded.input_ids[position]] - total)
        hits.append(scores.index(greatest) == encoded.input_ids[position])
    return logps, hits


def check(model, tokenizer, sets, records, tolerance: float) -> None:
    rows = [(name, row) for name, members in sets.items() for row in members]
    assert [(record.set, record.id) for record in records] == [(name, row.id) for name, row in rows]
    for (_, row), record in zip(rows, records, strict=True):
        logps, hits = one_by_one(model, encode_row(row, tokenizer, PLAIN, eos=False))
        assert record.logps == pytest.approx(logps, abs=tolerance)
        assert len(record.hits) == len(hits)
        if tolerance < 1e-3:
            assert list(record.hits) == hits
        assert len(record.choice_logps) == len(row.choices) == len(record.choice_lengths)
        for option, total, length in zip(row.choices, record.choice_logps, record.choice_lengths, strict=True):
            logps, _ = one_by_one(model, encode_answer(row, option, tokenizer, PLAIN))
            assert length == len(logps)
            assert total == pytest.approx(sum(logps), abs=tolerance * length)
        assert record.right_choice == (row.choices.index(row.answer) if row.choices else -1)


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_equals_rows_scored_one_by_one(model, tokenizer, sets, batch_tokens):
    records = score_rows(model, tokenizer, sets, PLAIN, batch_tokens=batch_tokens)
    check(model, tokenizer, sets, records, 2e-5)
    assert not SelectedLogits(model).whole
    assert len(records[0].logps) == 1 and len(records[4].logps) > 5, "both kinds of answers are in the data"


def test_single_token_options_are_read_from_the_prompts_own_position(model, tokenizer, sets):
    """One forwarded row per question, and bit for bit what forwarding each option alone in its place gives."""
    shapes = []
    rows = {"forget": sets["forget"]}
    hook = model.model.register_forward_hook(
        lambda *call: shapes.append(tuple(call[2]["input_ids"].shape)), with_kwargs=True
    )
    try:
        records = score_rows(model, tokenizer, rows, PLAIN)
    finally:
        hook.remove()
    longest = max(len(encode_row(row, tokenizer, PLAIN, eos=False).input_ids) for row in rows["forget"])
    assert shapes[-1] == (3, longest - 1), "the label itself is never fed"
    for place, row in enumerate(rows["forget"]):
        for option, total in zip(row.choices, records[place].choice_logps, strict=True):
            alone = [encode_answer(row, option, tokenizer, PLAIN)] + [
                encode_row(other, tokenizer, PLAIN, eos=False) for other in rows["forget"] if other is not row
            ]
            assert score_labels(model, alone)[0].logps == (total,)


@pytest.mark.parametrize("family", ["softcapped", "scaled", "absolute positions", "own head", "tied with biases"])
def test_other_families(family, tokenizer, sets, make_model):
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    whole = False
    if family == "softcapped":
        model = Gemma2ForCausalLM(
            Gemma2Config(
                **size, intermediate_size=128, num_key_value_heads=1, head_dim=32, final_logit_softcapping=2.0
            )
        )
    elif family == "scaled":
        model = GraniteForCausalLM(
            GraniteConfig(**size, intermediate_size=128, num_key_value_heads=1, logits_scaling=8.0)
        )
    elif family == "absolute positions":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5)
        )
    elif family == "own head":
        whole = True

        class Sharpened(LlamaForCausalLM):
            def forward(self, *args, **kwargs):
                output = super().forward(*args, **kwargs)
                output.logits = output.logits * 1.5
                return output

        model = make_model()
        model.__class__ = Sharpened
    else:
        model = make_model(attention_bias=True, tie_word_embeddings=True)
    model.eval()
    assert SelectedLogits(model).whole is whole
    check(model, tokenizer, sets, score_rows(model, tokenizer, sets, PLAIN), 2e-5)


@pytest.mark.parametrize(
    "name, tolerance", [("bf16", 2e-5), ("bnb-int8", 0.1), ("bnb-nf4", 0.1), ("rtn-int4-g32", 2e-5)]
)
def test_quantized_folders(name, tolerance, folder, tokenizer, sets, tmp_path):
    """The 4-bit CPU kernel picks its order of sums by batch, in bfloat16; int8 rounds activations to half first."""
    export_format(name, folder, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    records = score_rows(loaded, tokenizer, sets, PLAIN)
    assert not SelectedLogits(loaded).whole
    check(loaded, tokenizer, sets, records, tolerance)
    full = score_rows(load_model(folder), tokenizer, sets, PLAIN)
    assert [record.logps for record in full] != [record.logps for record in records]


def test_many_positions_are_projected_in_parts(model, tokenizer, sets, monkeypatch):
    expected = score_rows(model, tokenizer, sets, PLAIN)
    monkeypatch.setattr("hf_unlearn.evaluation.logits._LOGITS_AT_ONCE", {"cpu": 3 * len(tokenizer)})
    monkeypatch.setattr("hf_unlearn.evaluation.logits._LEAST_POSITIONS", 1)
    for record, other in zip(score_rows(model, tokenizer, sets, PLAIN), expected, strict=True):
        assert record.logps == pytest.approx(other.logps, abs=1e-5)
        assert record.choice_logps == pytest.approx(other.choice_logps, abs=1e-4)


def test_batches_hold_every_item_once_within_the_budget():
    sizes = [3, 9, 1, 4, 4, 2, 12, 30]
    kinds = ["a", "a", "a", "b", "a", "b", "a", "a"]
    batches = plan_batches(sizes, 12, kinds, most=3)
    assert sorted(member for batch in batches for member in batch) == list(range(8))
    for batch in batches:
        assert len(batch) == 1 or max(sizes[member] for member in batch) * len(batch) <= 12
        assert len(batch) <= 3 and len({kinds[member] for member in batch}) == 1
    assert (3, 5) in batches and (4, 0, 2) in batches and plan_batches([], 12) == []


def test_logits_that_are_not_finite_name_the_row(make_model, tokenizer, make_row):
    broken = make_model()
    good = make_row("good", "Ada was", " born")
    bad = make_row("bad", "Ada was", " in 1977")
    token = tokenizer(" in", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        broken.model.embed_tokens.weight[token[0]] = float("nan")
    score_rows(broken, tokenizer, {"forget": [good]}, PLAIN)
    with pytest.raises(RequestError, match="row bad are not finite"):
        score_rows(broken, tokenizer, {"forget": [good, bad]}, PLAIN)


@pytest.mark.parametrize(
    "answer, choices, message",
    [
        ("", (), "no answer token"),
        (" a" * 70, (), "more than the 64 of the model"),
        (" 1934", (" 1901", ""), "no answer token"),
        (" 1934", (" 1901", " 1977"), "not among the choices"),
    ],
)
def test_rows_that_cannot_be_scored_are_named_by_their_line(answer, choices, message, model, tokenizer, make_row):
    row = make_row("17", "Ada was born in the year", answer, choices)
    with pytest.raises(RequestError, match=f"rows.jsonl:17.*{message}"):
        score_rows(model, tokenizer, {"forget": [row]}, PLAIN)


def test_nothing_to_score(model, tokenizer):
    assert score_rows(model, tokenizer, {"forget": []}, PLAIN) == []
