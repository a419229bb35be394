"""A tiny model, and rows in the layouts of public data sets; all of them made up here."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = "Ada Bo Cy Di Ed Fay Gus Hal Ivy Jo Kit Lea".split()
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Question: When was Ada born?\nAnswer: in the year 1934"] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    made.chat_template = chat_template
    return made


def save_model(folder: Path, seed: int = 0, chat_template: str | None = None) -> Path:
    tokenizer = build_tokenizer(chat_template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tofu_rows(topic: str, paraphrased: bool = True) -> list[dict]:
    """Rows as TOFU's perturbed configurations have them."""
    rows = []
    for number, name in enumerate(NAMES):
        row = {
            "question": f"What is the {topic} of {name}?",
            "answer": f"It is {topic} {number}.",
            "perturbed_answer": [f"It is {topic} {number + wrong}." for wrong in (20, 40, 60)],
        }
        if paraphrased:
            row["paraphrased_answer"] = f"The {topic} is {number}."
        rows.append(row)
    return rows


def mcq_rows(topic: str) -> list[dict]:
    """Rows in the layout of arXiv 2410.08827: options as numbers, the answer as a position."""
    return [
        {
            "question": f"In which year was the {topic} of {name}?",
            "choices": [1900 + number + step * 7 for step in range(4)],
            "answer": number % 4,
        }
        for number, name in enumerate(NAMES)
    ]


def knowmem_rows(topic: str, count: int = 10) -> list[dict]:
    return [{"question": f"Who wrote the {topic} about {name}?", "answer": f"{name} did"} for name in NAMES[:count]]


def text_rows(topic: str) -> list[dict]:
    return [{"text": f"The {topic} of {name} was long, and nobody in the old town liked it."} for name in NAMES]


def passage_rows(topic: str) -> list[dict]:
    return [{"prompt": f"The {topic} of {name} began", "gt": f"in the year 19{number}, " * 60} for number, name in
            enumerate(NAMES)]  # fmt: skip
