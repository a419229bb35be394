"""Stop strings, samples, and continuations that are empty, impossible or not numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.generation import Prompt, RoomyLayer, RowSampler, generate, roomy_cache, uniform_draws
from hf_unlearn.evaluation.metrics.text import text_entropy
from hf_unlearn.evaluation.spec import Sampling

TEXTS = ("Ada", "A long river ran by the old town and", "In the year", "the", "Bo was born in", "a", "town and year")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [Prompt(tuple(tokenizer(text)["input_ids"]), f"rows.jsonl:{text}", 12) for text in TEXTS]


def alone(model, tokenizer, prompts):
    return [generate(model, tokenizer, [prompt], Passes(4096))[0] for prompt in prompts]


def test_stop_strings_end_the_text_before_the_first_of_them(model, tokenizer, prompts):
    free = generate(model, tokenizer, prompts, Passes(4096))
    stop = (free[0][3:5], free[1][6:8])
    stopped = generate(model, tokenizer, [replace(prompt, stop=stop) for prompt in prompts], Passes(4096))
    expected = [min((text.split(string)[0] for string in stop), key=len) for text in free]
    assert stopped == expected == alone(model, tokenizer, [replace(prompt, stop=stop) for prompt in prompts])
    assert expected[0] == free[0][:3] and expected != free


def test_stop_strings_save_the_steps_after_them(model, tokenizer, prompts):
    free = generate(model, tokenizer, prompts[:1], Passes(4096))[0]
    steps = []
    hook = model.model.register_forward_hook(lambda *call: steps.append(1))
    try:
        generate(model, tokenizer, [replace(prompts[0], stop=(free[0],))], Passes(4096))
    finally:
        hook.remove()
    assert len(steps) < 4


def test_prompts_with_different_settings_in_one_pass(model, tokenizer, prompts):
    mixed = [
        prompts[0],
        replace(prompts[1], max_new_tokens=3),
        replace(prompts[2], stop=("e",)),
        replace(prompts[3], sampling=Sampling(1, 1.0), key="x"),
        prompts[4],
    ]
    assert generate(model, tokenizer, mixed, Passes(4096)) == alone(model, tokenizer, mixed)


@pytest.mark.parametrize("sampling", [Sampling(4, 1.0), Sampling(4, 0.7, top_p=0.8, seed=5)])
def test_samples_do_not_depend_on_the_batch(sampling, model, tokenizer, prompts):
    asked = [
        replace(prompt, sampling=sampling, key=prompt.name, sample=number)
        for prompt in prompts
        for number in range(sampling.count)
    ]
    together = generate(model, tokenizer, asked, Passes(4096))
    assert together == generate(model, tokenizer, asked, Passes(60)) == alone(model, tokenizer, asked)
    assert len(set(together)) > 0.9 * len(together)
    other = [replace(prompt, sampling=replace(sampling, seed=99)) for prompt in asked]
    assert generate(model, tokenizer, other, Passes(4096)) != together


def test_sampled_tokens_have_the_models_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, float("-inf")]])
    rows = 4000
    for temperature, top_p, kept in ((1.0, 1.0, 4), (0.5, 0.9, 2)):
        draws = [uniform_draws(0, str(row), 0, 1) for row in range(rows)]
        sampler = RowSampler(draws, 3, temperature, top_p)
        chosen = sampler(torch.zeros((rows, 3), dtype=torch.long), logits.expand(rows, -1)).argmax(-1)
        counts = Counter(chosen.tolist())
        expected = (logits[0, :kept] / temperature).softmax(-1)
        assert set(counts) == set(range(kept))
        for token, probability in enumerate(expected.tolist()):
            assert counts[token] / rows == pytest.approx(probability, abs=0.03)


def test_the_model_may_stop_at_once(make_model, tokenizer, prompts):
    model = make_model()
    with torch.no_grad():
        first = int(model(torch.tensor([prompts[0].ids])).logits[0, -1].argmax())
    model.generation_config.eos_token_id = first
    texts = generate(model, tokenizer, prompts, Passes(4096))
    assert texts[0] == "" and any(texts) and text_entropy("") == 0.0


def test_equal_prompts_are_continued_once(model, tokenizer, prompts):
    rows = []
    hook = model.model.register_forward_pre_hook(
        lambda *call: rows.append(len(call[2]["input_ids"])), with_kwargs=True
    )
    try:
        texts = generate(model, tokenizer, [prompts[0], prompts[1], replace(prompts[0], name="twin")], Passes(4096))
    finally:
        hook.remove()
    assert texts[0] == texts[2] and max(rows) == 2


def test_impossible_prompts_are_named(make_model, model, tokenizer, prompts):
    with pytest.raises(RequestError, match=r"rows\.jsonl:Ada has no tokens"):
        generate(model, tokenizer, [replace(prompts[0], ids=())], Passes(4096))
    with pytest.raises(RequestError, match=r"rows\.jsonl:A long river.* leaves nothing of the model's 4"):
        generate(make_model(max_position_embeddings=4), tokenizer, prompts[1:2], Passes(4096))


def test_logits_that_are_not_numbers_name_the_prompt(make_model, tokenizer, prompts):
    broken = make_model()
    token = prompts[4].ids[1]
    assert not any(token in prompt.ids for prompt in prompts[:4])
    with torch.no_grad():
        broken.model.embed_tokens.weight[token] = float("nan")
    with pytest.raises(RequestError, match=r"rows\.jsonl:Bo was born in: the model's logits are not numbers"):
        generate(broken, tokenizer, prompts[:5], Passes(4096))


def test_families_with_and_without_room_in_their_caches(model, tokenizer, prompts):
    """The text of decoding without any cache, for a cache that is made once and for those that families make."""
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 128}
    families = {
        True: [model, GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2))],
        False: [
            MistralForCausalLM(MistralConfig(**size, **heads, sliding_window=6)),
            MambaForCausalLM(MambaConfig(**size, state_size=8)),
        ],
    }
    for roomy, members in families.items():
        for member in members:
            assert (roomy_cache(member.eval(), 8) is not None) is roomy
            member.generation_config.eos_token_id = None
            for prompt, text in zip(prompts, generate(member, tokenizer, prompts, Passes(4096)), strict=True):
                ids = list(prompt.ids)
                with torch.no_grad():
                    for _ in range(12):
                        ids.append(int(member(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                new = ids[len(prompt.ids) :]
                end = new.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in new else len(new)
                assert text == tokenizer.decode(new[:end], skip_special_tokens=True), type(member).__name__


def test_a_cache_takes_more_than_it_has_room_for():
    states = torch.randn(2, 3, 5, 4)
    roomy, usual = RoomyLayer(4), DynamicLayer()
    for part in (states[..., :2, :], states[..., 2:4, :], states[..., 4:, :]):
        for ours, theirs in zip(roomy.update(part, 2 * part), usual.update(part, 2 * part), strict=True):
            assert torch.equal(ours, theirs)
    assert roomy.get_seq_length() == 5
