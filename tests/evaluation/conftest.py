"""A tiny Llama with a tokenizer that has years as single tokens, and rows for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn.data.example import Example

YEARS = (" 1901", " 1934", " 1977", " 1988")


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = "Ada was born in the year of a long river ran by the old town and"
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words + "".join(YEARS)] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )


def random_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A random Llama; keyword arguments change its config, ``seed`` its weights."""
    return lambda **changes: random_llama(**{"vocab_size": len(tokenizer), **changes})


@pytest.fixture(scope="session")
def model(make_model) -> LlamaForCausalLM:
    return make_model()


@pytest.fixture(scope="session")
def save(tokenizer):
    """Write a model and the tokenizer to a folder."""

    def write(model, folder: Path) -> Path:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def folder(model, save, tmp_path_factory) -> Path:
    return save(model, tmp_path_factory.mktemp("model"))


def _row(name: str, prompt: str, answer: str, choices: tuple[str, ...] = (), fact: str | None = None) -> Example:
    return Example(name, prompt, answer, fact or name, fact or name, choices, origin=f"rows.jsonl:{name}")


@pytest.fixture(scope="session")
def make_row():
    return _row


@pytest.fixture(scope="session")
def sets() -> dict[str, tuple[Example, ...]]:
    """Single-token and longer options, rows without options, of several lengths; two rows say the same fact."""
    return {
        "forget": (
            _row("f0", "Ada was born in the year", " 1934", YEARS, "ada"),
            _row("f1", "In the old town, Ada was born in the year", " 1934", YEARS, "ada"),
            _row("f2", "Bo was born in the year", " 1901", YEARS, "bo"),
        ),
        "retain": (
            _row(
                "r0", "Where does the river run?", " by the old town", (" by the old town", " nowhere", " in a year")
            ),
            _row("r1", "A long river", " ran by the old town and the year of 1977 was long"),
            _row("r2", "", "The old town by the river."),
        ),
    }
