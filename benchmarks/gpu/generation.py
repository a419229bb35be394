"""Greedy continuations in batches and one prompt at a time, on this device."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch

from benchmarks.gpu.models import config_of, planted, random_model
from hf_unlearn.data.encoding import TextFormat, encode_prompt
from hf_unlearn.evaluation.generation import generate_greedy


def main() -> None:
    """Print new tokens a second of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    bundle, tokenizer = planted(8 if tiny else 128)
    model = random_model(config_of("tiny" if tiny else "1b"), torch.bfloat16).eval()
    with torch.no_grad():  # never the likeliest token: each continuation has its whole length
        model.get_output_embeddings().weight[tokenizer.eos_token_id] = 0
    prompts = [list(encode_prompt(row, tokenizer, TextFormat())) for row in bundle.forget.train if row.prompt]
    prompts = list({tuple(prompt): prompt for prompt in prompts}.values())[: 8 if tiny else 256]
    tokens = 8 if tiny else 64
    generate_greedy(model, tokenizer, prompts[:2], tokens, 2)
    batches = rate(model, tokenizer, prompts, tokens, 64)
    single = rate(model, tokenizer, prompts[: max(2, len(prompts) // 16)], tokens, 1)
    print(json.dumps({"batches": batches, "one_at_a_time": single, "prompts": len(prompts), "new_tokens": tokens}))


def rate(model: torch.nn.Module, tokenizer: object, prompts: Sequence[Sequence[int]], tokens: int, most: int) -> float:
    """New tokens a second."""
    began = time.perf_counter()
    generate_greedy(model, tokenizer, prompts, tokens, most)  # type: ignore[arg-type]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(prompts) * tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
