"""Answers that share a prompt: fed as one tree of tokens, with the numbers of separate forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from hf_unlearn.data.encoding import TextFormat, encode_answer
from hf_unlearn.evaluation.batch import grow_trees, tree_batch
from hf_unlearn.evaluation.logits import SelectedLogits
from hf_unlearn.evaluation.scoring import score_rows

PLAIN = TextFormat()
NEEDS = {"options", "variants:paraphrased", "variants:perturbed", "prior", "vocabulary", "layers", "text"}


@pytest.fixture(scope="module")
def rows(make_row):
    """Questions with options that share beginnings, variants, a prior prompt, and two rows that are the same."""
    first = make_row(
        "q0",
        "In the old town, where does the long river run?",
        " by the town of the old year",
        (" by the town of the old year", " by the town of Ada", " nowhere", " in a year and a town"),
    )
    variants = (
        ("paraphrased", (" along the town of the old year",)),
        ("perturbed", (" by the year of the old town", " born in the year", " a long river ran by")),
    )
    first = replace(first, variants=variants, prior_prompt="Where?")
    second = replace(
        make_row("q1", "Ada", " was born in the old town", ()), variants=(("perturbed", (" ran", " was old")),)
    )
    return (
        first,
        second,
        replace(first, id="q0 again", fact="again"),
        make_row("q3", "", "The old town by the river."),
    )


def alone(model, tokenizer, row, answer: str) -> tuple[list[float], list[bool]]:
    """Log-probabilities and hits of one answer in a forward of its own, from the model's whole logits."""
    encoded = encode_answer(row, answer, tokenizer, PLAIN)
    with torch.no_grad():
        logps = model(torch.tensor([encoded.input_ids])).logits[0].double().log_softmax(-1)
    places = range(encoded.n_prompt - 1, len(encoded.input_ids) - 1)
    labels = encoded.input_ids[encoded.n_prompt :]
    hits = [int(logps[place].argmax()) == label for place, label in zip(places, labels, strict=True)]
    return [float(logps[place, label]) for place, label in zip(places, labels, strict=True)], hits


def check(model, tokenizer, rows, records, tolerance: float = 1e-5) -> None:
    for row, record in zip(rows, records, strict=True):
        logps, hits = alone(model, tokenizer, row, row.answer)
        assert record.logps == pytest.approx(logps, abs=tolerance)
        assert list(record.hits) == hits
        for option, logp, length in zip(row.choices, record.choice_logps, record.choice_lengths, strict=True):
            logps, _ = alone(model, tokenizer, row, option)
            assert length == len(logps) and logp == pytest.approx(sum(logps), abs=tolerance * length)
        assert set(record.variants) == {kind for kind, _ in row.variants}
        for kind, answers in row.variants:
            for answer, score in zip(answers, record.variants[kind], strict=True):
                logps, _ = alone(model, tokenizer, row, answer)
                assert score.tokens == len(logps) and score.logp == pytest.approx(sum(logps), abs=tolerance * 9)
        without = replace(row, prompt=row.prior_prompt)
        for option, logp in zip(row.choices, record.prior_logps, strict=bool(row.prior_prompt)):
            assert logp == pytest.approx(sum(alone(model, tokenizer, without, option)[0]), abs=tolerance * 9)


def fed_shapes(model, call) -> list[tuple[int, ...]]:
    """Shapes of the inputs of every forward of the model's backbone."""
    shapes = []
    hook = model.get_decoder().register_forward_hook(
        lambda *seen: shapes.append(tuple(seen[2]["input_ids"].shape)), with_kwargs=True
    )
    try:
        call()
    finally:
        hook.remove()
    return shapes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_equals_separate_forwards(attention, batch_tokens, make_model, tokenizer, rows):
    model = make_model(attn_implementation=attention)
    assert SelectedLogits(model).longest_branching > 64
    records = score_rows(model, tokenizer, {"a": rows}, PLAIN, batch_tokens=batch_tokens, needs={"a": NEEDS})
    check(model, tokenizer, rows, records)
    assert records[0].logps == records[2].logps and records[0].choice_logps == records[2].choice_logps


def test_under_autocast_prompts_are_shared_too(model, tokenizer, rows):
    """What is computed in bfloat16 is held against its own precision, not against that of the weights."""
    with torch.autocast("cpu", torch.bfloat16):
        selected = SelectedLogits(model)
        records = score_rows(model, tokenizer, {"a": rows}, PLAIN, needs={"a": NEEDS})
    assert selected.longest_branching > 64 and not selected.whole
    for own, whole in zip(records, score_rows(model, tokenizer, {"a": rows}, PLAIN, needs={"a": NEEDS}), strict=True):
        assert own.logps == pytest.approx(whole.logps, abs=0.15) and own.logps != whole.logps


def test_a_prompt_is_fed_once_and_rows_that_are_the_same_once(model, tokenizer, rows):
    """Tokens in the tree of a question: its prompt, and of each answer what no other begins with; no last tokens."""
    answers = [rows[0].answer, *rows[0].choices, *(text for _, texts in rows[0].variants for text in texts)]
    fed = {encode_answer(rows[0], answer, tokenizer, PLAIN).input_ids[:-1] for answer in answers}
    distinct = {text[: end + 1] for text in fed for end in range(len(text))}
    needs = {"a": NEEDS - {"prior", "layers"}}
    shapes = fed_shapes(model, lambda: score_rows(model, tokenizer, {"a": rows[:1] * 2}, PLAIN, needs=needs))
    assert shapes[-1] == (1, len(distinct))
    assert len(distinct) < sum(len(text) for text in fed) / 3, "there is something to share in this test"


def test_only_what_is_needed_is_computed(model, tokenizer, rows):
    record = score_rows(model, tokenizer, {"a": rows}, PLAIN, needs={"a": frozenset()})[0]
    assert record.logps and record.hits
    assert not (record.choice_logps or record.variants or record.prior_logps or record.layer_logps or record.text)
    assert not (record.vocab_means or record.vocab_variances) and record.right_choice == -1
    both = score_rows(model, tokenizer, {"a": rows[:1], "b": rows[:1]}, PLAIN, needs={"a": NEEDS, "b": {"text"}})
    assert both[0].variants and not both[1].variants
    assert both[1].text == rows[0].prompt + rows[0].answer
    assert both[0].logps == both[1].logps


SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mistral", "moe", "bloom", "mamba"])
def test_families(family, tokenizer, rows):
    """Trees where they are exact; plain rows for recurrent layers and for windows shorter than a text."""
    torch.manual_seed(0)
    size = {**SIZE, "vocab_size": len(tokenizer), "initializer_range": 0.2, "pad_token_id": 0}
    decoder = {**size, "intermediate_size": 128, "num_key_value_heads": 1, "head_dim": 32}
    made = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**decoder, sliding_window=8)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**decoder, sliding_window=4096)),
        "moe": lambda: Qwen3MoeForCausalLM(
            Qwen3MoeConfig(**decoder, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=64, n_layer=2, n_head=2)),
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, state_size=8)
        ),
    }
    model = made[family]().eval()
    expected = {"gpt2": 2**31, "gemma2": 8, "mistral": 4096, "moe": 2**31, "bloom": 0, "mamba": 0}
    assert SelectedLogits(model).longest_branching == expected[family]
    needs = {"options", "variants:paraphrased", "variants:perturbed", "prior", "vocabulary"}
    records = score_rows(model, tokenizer, {"a": rows}, PLAIN, needs={"a": needs})
    check(model, tokenizer, rows, records, 2e-5)


def test_trees_hold_every_text_once():
    texts = [(1, 2, 3), (1, 2, 4, 5), (1, 2), (7,), (1, 2, 3)]
    trees = grow_trees(texts, ["a", "a", "a", "b", "a"], 10_000, 100)
    assert sorted(member for tree in trees for member in tree.members) == [0, 1, 2, 3, 4]
    for tree in trees:
        for member, path in zip(tree.members, tree.paths, strict=True):
            assert tuple(tree.tokens[node] for node in path) == texts[member]
            assert tuple(tree.depths[node] for node in path) == tuple(range(len(path)))
    assert [len(tree.tokens) for tree in trees] == [5, 1]
    batch = tree_batch(trees, torch.device("cpu"))
    assert batch.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_texts_share_only_where_it_pays():
    """A short beginning of long texts saves less than their attention to each other would cost."""
    long = [(1, 2, *range(10 * start, 10 * start + 300)) for start in (40, 80)]
    assert len(grow_trees(long, ["", ""], 64, 10**6)) == 2
    assert len(grow_trees(long, ["", ""], 10**6, 10**6)) == 1
    assert len(grow_trees(long, ["", ""], 10**6, 301)) == 2, "longer than what the model can branch on"
    chain = [(1, 2), (1, 2, 3), (1,)]
    assert len(grow_trees(chain, ["", "", ""], 1, 0)) == 1, "beginnings of one text cost nothing"
