from __future__ import annotations

import pytest
import torch

from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.generation import generate_greedy


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = [
        "Ada",
        "A long river ran by the old town and",
        "In the year",
        "the",
        "Bo was born in",
        "a",
        "town and year",
    ]
    return [tokenizer(text)["input_ids"] for text in texts]


def tokens_by_hand(model, tokenizer, prompt: list[int], length: int) -> list[int]:
    """Greedy decoding without cache, padding or generate()."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return ids[len(prompt) :]


def by_hand(model, tokenizer, prompt: list[int], length: int) -> str:
    return tokenizer.decode(tokens_by_hand(model, tokenizer, prompt, length), skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_give_the_text_of_decoding_by_hand(model, tokenizer, prompts, batch_size):
    texts = generate_greedy(model, tokenizer, prompts, 12, batch_size)
    assert texts == [by_hand(model, tokenizer, prompt, 12) for prompt in prompts]
    assert len(set(texts)) == len(texts), "the prompts must lead to different texts for this to test anything"


def test_stops_at_each_stop_token_of_the_model(make_model, tokenizer, prompts):
    model = make_model(seed=3)
    free = [tokens_by_hand(model, tokenizer, prompt, 12) for prompt in prompts]
    stops = {free[0][2], free[1][4]}
    model.generation_config.eos_token_id = sorted(stops)
    expected = [tokens[: next((i for i, token in enumerate(tokens) if token in stops), 12)] for tokens in free]
    assert {len(tokens) for tokens in expected} != {12}
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
    assert generate_greedy(model, tokenizer, prompts, 12) == texts


def test_settings_that_come_with_a_model_are_not_used_and_stay(make_model, tokenizer, prompts):
    model = make_model()
    expected = generate_greedy(model, tokenizer, prompts, 8)
    own = model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature, own.no_repeat_ngram_size = 5.0, True, 3.0, 1
    assert generate_greedy(model, tokenizer, prompts, 8) == expected
    assert model.generation_config is own and own.repetition_penalty == 5.0


def test_context_is_never_left(make_model, tokenizer, prompts):
    """Each prompt gets what the context leaves it, whatever prompts are beside it."""
    limit = max(map(len, prompts)) + 2
    model = make_model(max_position_embeddings=limit)
    texts = generate_greedy(model, tokenizer, prompts, 12)
    assert texts == [by_hand(model, tokenizer, prompt, min(12, limit - len(prompt))) for prompt in prompts]
    with pytest.raises(RequestError, match="leaves nothing of the model's 4"):
        generate_greedy(make_model(max_position_embeddings=4), tokenizer, prompts, 12)


def test_empty_prompts_and_no_prompts(model, tokenizer, prompts):
    assert generate_greedy(model, tokenizer, [], 4) == []
    with pytest.raises(RequestError, match="prompt 1 has no tokens"):
        generate_greedy(model, tokenizer, [prompts[0], []], 4)
