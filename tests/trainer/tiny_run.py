"""The smallest run there is: a word-level tokenizer, a two-layer Llama, rows of uneven length."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn.data.example import Example
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer

WORDS = [f"w{number}" for number in range(40)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_model(seed: int = 0, tie: bool = False, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tie,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
        **settings,
    )
    return LlamaForCausalLM(config)


def tiny_rows(name: str, count: int, seed: int = 0) -> tuple[Example, ...]:
    draw = random.Random(f"{name}-{seed}")

    def words(least: int, most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))

    return tuple(
        Example(f"{name}-{n}", words(1, 6), " " + words(1, 5), f"{name}-{n}", f"{name}-{n}", origin=f"{name}:{n}")
        for n in range(count)
    )


def tiny_trainer(folder: Path | str, model: Any = None, **settings: Any) -> UnlearnTrainer:
    given = {
        key: settings.pop(key)
        for key in (
            *("peft_config", "ref_model", "forget_dataset", "retain_dataset", "eval_dataset", "compute_metrics"),
            *("preprocess_logits_for_metrics", "callbacks"),
        )
        if key in settings
    }
    defaults = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 4,
        "end": "always",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return UnlearnTrainer(
        model=tiny_model() if model is None else model,
        args=UnlearnConfig(output_dir=str(folder), **{**defaults, **settings}),
        processing_class=tiny_tokenizer(),
        **{"forget_dataset": tiny_rows("forget", 8), "retain_dataset": tiny_rows("retain", 12), **given},
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def logged(trainer: UnlearnTrainer) -> list[dict[str, float]]:
    """What was logged during training, one entry per log."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]
