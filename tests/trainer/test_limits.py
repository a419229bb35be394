"""Rows that the model cannot read are refused by name before anything is scored; padding may be any token."""

import pytest
import torch
from tiny_run import WORDS, assert_same, tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer, weights
from transformers import GPT2Config, GPT2LMHeadModel

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.limits import padding_id
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer


def with_learned_positions():
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS) + 4, "n_positions": 12, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


def never(*_, **__):
    raise AssertionError("a row was put through the model")


LONG = Example("long", "w1 " * 12, " w2", "long", "long", origin="rows.jsonl:7")


@pytest.mark.parametrize("name", ["forget", "retain"])
@pytest.mark.parametrize("end", ["auto", "always"])
def test_a_row_longer_than_the_positions(tmp_path, name, end):
    model = with_learned_positions()
    model.forward = never
    sets = {"forget_dataset": tiny_rows("forget", 8), "retain_dataset": tiny_rows("retain", 12)}
    short = {key: [row for row in rows if len(f"{row.prompt}{row.answer}".split()) < 9] for key, rows in sets.items()}
    short[f"{name}_dataset"].append(LONG)
    with pytest.raises(
        RequestError, match=r"(rows\.jsonl:7|long): prompt and answer have 1\d tokens, more than the 12"
    ):
        tiny_trainer(tmp_path, model, end=end, **short)


@pytest.mark.parametrize("end", ["auto", "always"])
def test_a_row_with_tokens_beyond_the_vocabulary(tmp_path, end):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.add_tokens(["new"])
    model.forward = never
    row = Example("odd", "w1 new", " w2", "odd", "odd", origin="rows.jsonl:7")
    args = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, end=end, max_steps=1)
    sets = ([*tiny_rows("forget", 4), row], tiny_rows("retain", 8))
    with pytest.raises(RequestError, match=r"rows\.jsonl:7: its token 44 is beyond the 44 of the model's vocabulary"):
        UnlearnTrainer(model, args, *sets, processing_class=tokenizer)
    with pytest.raises(RequestError, match=r"rows\.jsonl:7: its token 44 is beyond the 44"):
        score_rows(model, tokenizer, {"forget": sets[0]}, TextFormat())


def without_pad(tokenizer):
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    return tokenizer.eos_token_id


def beyond_the_vocabulary(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<filling>"})
    assert tokenizer.pad_token_id == 44
    return 0


@pytest.mark.parametrize("change", [beyond_the_vocabulary, without_pad])
def test_a_padding_token_that_is_missing_or_unknown_changes_nothing(tmp_path, change):
    """Usual states: a padding token was added and the model was not resized, or the tokenizer has none."""
    results = []
    for changed in (False, True):
        model, tokenizer = tiny_model(), tiny_tokenizer()
        assert padding_id(tokenizer, model) == 0
        if changed:
            assert change(tokenizer) == padding_id(tokenizer, model)
        args = UnlearnConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True
        )
        rows = (tiny_rows("forget", 8), tiny_rows("retain", 8))
        trainer = UnlearnTrainer(model, args, *rows, processing_class=tokenizer)
        trainer.train()
        results.append(weights(trainer.model))
    assert_same(*results)
