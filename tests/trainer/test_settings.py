"""Every setting of transformers is honoured or refused; none does nothing."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig
from tiny_run import tiny_model, tiny_tokenizer, tiny_trainer
from transformers import TrainingArguments

from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.trainer import UnlearnConfig
from hf_unlearn.trainer.inherited import REFUSED_FIELDS, idle_values

INHERITED = [field for field in fields(TrainingArguments) if field.init]
OTHER_VALUES = {
    "include_num_input_tokens_seen": "all",
    "include_for_metrics": ["loss"],
    "label_names": ["labels"],
    "length_column_name": "size",
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "parallelism_config": {"tp_size": 2},
}
# What train() is for; and what launchers still hand over, and no version of transformers here reads.
SAID_BY_THE_CALL = {"do_train", "local_rank"}
FINDS = "(auto_find_learning_rate=True finds one)"


def other_value(name):
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    default = idle_values()[name]
    return not default if isinstance(default, bool) else default + 1


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_what_would_do_nothing_is_refused_by_name(tmp_path, name):
    assert name in {field.name for field in INHERITED}
    with pytest.raises(RequestError, match=f"^{name} is .*, which would do nothing"):
        UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, **{name: other_value(name)})


def test_what_is_refused_may_be_written_with_its_usual_value(tmp_path):
    config = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, include_num_input_tokens_seen=False)
    UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, **{name: getattr(config, name) for name in REFUSED_FIELDS})


def test_every_other_setting_is_read(tmp_path, monkeypatch):
    """By the run below, or, for what needs other machines, in the text of what reads it."""
    read = set()
    usual = UnlearnConfig.__getattribute__

    def watched(self, name):
        if inspect.currentframe().f_back.f_code.co_name not in ("__post_init__", "to_dict", "__repr__"):
            read.add(name)
        return usual(self, name)

    monkeypatch.setattr(UnlearnConfig, "__getattribute__", watched)
    tiny_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1).train()
    folder = Path(transformers.__file__).parent
    files = (*folder.glob("train*.py"), folder / "integrations" / "integration_utils.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    ways = ("args.{}", "self.{}", 'getattr(args, "{}"', '("{}", "')
    told = {field.name for field in INHERITED if any(way.format(field.name) in text for way in ways)}
    ours = {field.name for field in INHERITED} - set(REFUSED_FIELDS) - SAID_BY_THE_CALL
    assert ours - read - told == set()


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_both_names_of_the_precision_are_honoured(tmp_path, name):
    start = tmp_path / "start"
    tiny_model().save_pretrained(start)
    tiny_tokenizer().save_pretrained(start)
    trainer = tiny_trainer(tmp_path, model=str(start), model_init_kwargs={name: "bfloat16"})
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}
    made = make_config({"model_init_kwargs": {name: "bfloat16"}}, tmp_path, 0)
    assert made.model_init_kwargs == {"dtype": "bfloat16"}


def test_two_names_with_two_values_are_refused(tmp_path):
    with pytest.raises(RequestError, match="old name of dtype"):
        make_config({"model_init_kwargs": {"torch_dtype": "bfloat16", "dtype": "float32"}}, tmp_path, 0)


def test_no_complete_batch_is_an_error(tmp_path):
    settings = {"dataloader_drop_last": True, "max_steps": -1, "num_train_epochs": 1}
    with pytest.raises(RequestError, match="8 forget rows do not fill one of 9, so training would make 0 steps"):
        tiny_trainer(tmp_path, per_device_train_batch_size=9, **settings)
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=8, **settings)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_run_without_a_step_is_an_error(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path)
    monkeypatch.setattr(transformers.Trainer, "train", lambda *_: None)
    with pytest.raises(RequestError, match="training made no step"):
        trainer.train()


def test_the_checkpoint_of_the_settings_is_gone_on_from(tmp_path):
    tiny_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    trainer = tiny_trainer(tmp_path, max_steps=2, resume_from_checkpoint=checkpoint)
    loaded = []
    usual = trainer._load_from_checkpoint
    trainer._load_from_checkpoint = lambda *given: (loaded.append(given[0]), usual(*given))
    trainer.train()
    assert str(trainer.resumed_from) == checkpoint and loaded == [checkpoint] and trainer.state.global_step == 2


def test_save_strategy_best_is_refused(tmp_path):
    with pytest.raises(RequestError, match="save_strategy is 'best', which would save nothing"):
        UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, save_strategy="best")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": "auto"}, f"learning_rate is 'auto', it must be a number {FINDS}"),
        ({"learning_rate": "abc"}, f"learning_rate is 'abc', it must be a number {FINDS}"),
        ({"max_steps": "many"}, "max_steps is 'many', it must be a number"),
        ({"per_device_train_batch_size": 16.5}, "per_device_train_batch_size is 16.5, it must be a whole number"),
        ({"beta": "small"}, "beta is 'small', it must be a number"),
        ({"bf16": "false"}, "bf16 is 'false', it must be true or false"),
        ({"num_train_epochs": None}, "num_train_epochs has no value: give it one or leave it out"),
        ({"loss_type": 5}, "loss_type is 5, it must be text"),
        ({"robust": 5}, "robust is 5, it must be a list, as in [a, b]"),
        ({"loss_kwargs": 5}, "the parameters of forget loss 'npo' must be a mapping, not 5"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path, settings, said):
    with pytest.raises(RequestError) as refused:
        UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert str(refused.value) == said


def test_all_bad_values_are_told_at_once(tmp_path):
    with pytest.raises(RequestError, match="2 things are in the way") as refused:
        UnlearnConfig(output_dir=str(tmp_path), per_device_train_batch_size=16.5, num_train_epochs=-3, use_cpu=True)
    told = (
        "per_device_train_batch_size is 16.5, it must be a whole number",
        "num_train_epochs is -3, it must be above 0",
    )
    assert all(sentence in str(refused.value) for sentence in told)


def test_numbers_written_as_text_are_numbers(tmp_path):
    config = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, learning_rate="1e-5", max_steps="3", max_length=8.0)
    assert (config.learning_rate, config.max_steps, config.max_length) == (1e-5, 3, 8)
    assert isinstance(config.max_length, int)


def test_adapters_are_named_in_one_place(tmp_path):
    with pytest.raises(RequestError, match="peft_config and the peft of args both name adapters"):
        tiny_trainer(tmp_path, peft={"r": 2}, peft_config=LoraConfig(r=4))


@pytest.mark.parametrize("settings", [{"attn_implementation": "eager"}, {"dtype": "bfloat16"}])
def test_settings_for_loading_need_something_to_load(tmp_path, settings):
    (key,) = settings
    with pytest.raises(RequestError, match=f"model_init_kwargs has {key} .*, which would do nothing: the model is lo"):
        tiny_trainer(tmp_path, tiny_model(), model_init_kwargs=settings)
    tiny_trainer(tmp_path, tiny_model(), model_init_kwargs={"dtype": torch.float32})
