"""What users of TRL write, taken as they mean it or refused in one sentence."""

import inspect
import json
from itertools import count
from pathlib import Path

import datasets
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_run import tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel, GPT2Config, T5Config, T5ForConditionalGeneration

from hf_unlearn.data.encoding import load_tokenizer
from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.robust import ROBUST
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_everything_but_the_model_and_the_forget_set_may_be_left_out():
    named = inspect.signature(UnlearnTrainer).parameters
    assert [name for name, each in named.items() if each.default is inspect.Parameter.empty] == ["model"]
    with pytest.raises(RequestError, match="forget_dataset is None"):
        UnlearnTrainer("nowhere")


def test_one_set_of_rows_is_answered_with_the_two_that_are_needed():
    with pytest.raises(RequestError, match="forgotten as forget_dataset= and what is to be kept as retain_dataset="):
        UnlearnTrainer("nowhere", train_dataset=[{"prompt": "w1", "completion": " w2"}])


def test_rows_are_as_long_as_the_model_reads_without_a_limit(tmp_path):
    long = [{"prompt": "w1 w2", "completion": " w3" * 50}]
    with pytest.raises(RequestError, match="longer than max_length=40"):
        tiny_trainer(tmp_path, forget_dataset=long, max_length=40)
    trainer = tiny_trainer(tmp_path, forget_dataset=long, max_length=None, end="auto", max_steps=1)
    assert len(trainer.train_dataset.forget[0].input_ids) > 50
    trainer.train()
    with pytest.raises(RequestError, match="more than the 64 of the model"):
        tiny_trainer(tmp_path, forget_dataset=[{"prompt": "w1", "completion": " w3" * 90}], max_length=None)


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        (T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8), T5ForConditionalGeneration, "t5"),
        (BertConfig(**SMALL), BertLMHeadModel, "bert"),
    ],
    ids=["t5", "bert"],
)
def test_models_that_do_not_continue_a_text_are_refused_by_name(tmp_path, config, model, said):
    kind = "an encoder-decoder model" if said == "t5" else "an encoder model"
    with pytest.raises(RequestError, match=rf"model: {model.__name__} is {kind} \({said}\)"):
        tiny_trainer(tmp_path, model(config))
    config.save_pretrained(tmp_path / said)
    with pytest.raises(RequestError, match=rf"model: .*{said} is {kind} \({said}\).*AutoModelForCausalLM"):
        tiny_trainer(tmp_path, str(tmp_path / said))


def test_a_decoder_of_an_encoders_family_is_a_decoder(tmp_path):
    tiny_trainer(tmp_path, BertLMHeadModel(BertConfig(**SMALL, vocab_size=44, is_decoder=True)))


def test_a_model_built_from_a_configuration_names_what_it_needs(tmp_path):
    args = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(RequestError, match=r"the LlamaForCausalLM was built .* give it as processing_class"):
        UnlearnTrainer(tiny_model(), args, tiny_rows("forget", 2), tiny_rows("retain", 2))


@pytest.mark.parametrize(("given", "said"), [(None, "model is None: give a folder"), (5, "model is 5: give a folder")])
def test_what_is_no_model_is_refused(tmp_path, given, said):
    args = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(RequestError, match=said):
        UnlearnTrainer(given, args, tiny_rows("forget", 2), tiny_rows("retain", 2))


def test_a_model_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    """Asked for once: transformers asks again and again for every file."""
    asked = []

    def without_a_connection(name, **given):
        asked.append((name, given["allow_patterns"]))
        raise LocalEntryNotFoundError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", without_a_connection)
    args = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True)
    sets = tiny_rows("forget", 2), tiny_rows("retain", 2)
    with pytest.raises(EnvironmentFailure, match="model: 'my-modl' is not a folder here and the Hub did not give it"):
        UnlearnTrainer("my-modl", args, *sets)
    with pytest.raises(EnvironmentFailure, match="ref_model: 'my-modl' is not a folder here"):
        UnlearnTrainer(tiny_model(), args, *sets, ref_model="my-modl", processing_class=tiny_tokenizer())
    assert asked == [("my-modl", ["config.json"])] * 2
    with pytest.raises(RequestError, match="model: '/no/such/model' is neither a folder here nor a Hub id"):
        monkeypatch.undo()
        UnlearnTrainer(Path("/no/such/model"), args, *sets)


def test_nothing_is_both_forgotten_and_kept(tmp_path):
    records = [{"prompt": row.prompt, "completion": row.answer} for row in tiny_rows("forget", 3)]
    with pytest.raises(RequestError, match=r"3 row\(s\) are in both .* at forget_dataset:1 and retain_dataset:1"):
        tiny_trainer(tmp_path, forget_dataset=records, retain_dataset=records)


@pytest.mark.parametrize("loss_type", ["dpo", "npo"])
def test_chosen_answers_are_the_other_answers_of_losses_that_need_some(tmp_path, loss_type):
    pairs = [{"prompt": f"w{n}", "chosen": f" w{n + 5}", "rejected": f" w{n + 9}"} for n in range(4)]
    trainer = tiny_trainer(tmp_path, forget_dataset=pairs, loss_type=loss_type, max_steps=1)
    said = [tiny_tokenizer().decode(row.input_ids[row.n_prompt : -1]) for row in trainer.train_dataset.alternates]
    assert said == ([f"w{n + 5}" for n in range(4)] if loss_type == "dpo" else [])
    forgotten = [tiny_tokenizer().decode(row.input_ids[row.n_prompt : -1]) for row in trainer.train_dataset.forget]
    assert forgotten == [f"w{n + 9}" for n in range(4)]
    trainer.train()


def test_alternates_that_were_set_come_before_chosen_answers(tmp_path):
    pairs = [{"prompt": f"w{n}", "chosen": f" w{n + 5}", "rejected": f" w{n + 9}"} for n in range(4)]
    settings = {"loss_type": "dpo", "alternates": {"name": "fixed-text", "text": "w1 w2"}}
    trainer = tiny_trainer(tmp_path, forget_dataset=pairs, **settings)
    assert {tiny_tokenizer().decode(row.input_ids[row.n_prompt : -1]) for row in trainer.train_dataset.alternates} == {
        "w1 w2"
    }


def endless():
    for number in count():
        yield {"prompt": f"w{number % 30}", "completion": f" w{number // 30} w1"}


def test_a_streamed_retain_set_is_read_as_far_as_the_run_deals(tmp_path):
    streamed = datasets.IterableDataset.from_generator(endless)
    trainer = tiny_trainer(tmp_path, retain_dataset=streamed, retain_per_forget=2, max_steps=3)
    # Three steps of 4 rows are an epoch and a half of 8; whole epochs are dealt.
    assert len(trainer.train_dataset.retain) == 2 * 8 * 2
    trainer.train()
    with pytest.raises(RequestError, match="forget_dataset is streamed, but all of it is gone through"):
        tiny_trainer(tmp_path, forget_dataset=streamed)
    whole = [entry.name for entry in ROBUST.entries() if entry.value.uses_retain_rows]
    assert whole == ["frag", "frp", "grom"]
    with pytest.raises(RequestError, match="retain_dataset is streamed, and a part of the method"):
        tiny_trainer(tmp_path, retain_dataset=streamed, robust=whole, max_steps=0)


def test_code_that_comes_with_a_model_runs_where_it_is_trusted_and_is_recorded(tmp_path):
    """A tokenizer and a model with code of their own, as they are on the Hub."""
    folder = tmp_path / "own"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "own_code.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    small = GPT2Config(vocab_size=44, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    from transformers import GPT2LMHeadModel

    GPT2LMHeadModel(small).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": code}))
    given = {"forget_dataset": tiny_rows("forget", 4), "retain_dataset": tiny_rows("retain", 4)}
    with pytest.raises(RequestError, match="asks for code that is not part of transformers"):
        UnlearnTrainer(str(folder), UnlearnConfig(output_dir=str(tmp_path / "run"), use_cpu=True), **given)
    for trusted in ({"trust_remote_code": True}, {"model_init_kwargs": {"trust_remote_code": True}}):
        args = UnlearnConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_steps=1, **trusted)
        trainer = UnlearnTrainer(str(folder), args, **given)
        assert type(trainer.model).__name__ == "OwnModel" and trainer.args.trust_remote_code
        trainer.create_model_card()
        assert "trust_remote_code" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(RequestError, match="'trust_remote_code': code that comes with a model never runs in a recipe"):
        make_config({"trust_remote_code": True}, tmp_path, 0)


def test_the_tokenizers_code_is_trusted_with_the_models(monkeypatch):
    asked = []
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **named: asked.append(named) or tiny_tokenizer())
    load_tokenizer("somewhere")
    load_tokenizer("somewhere", trust_remote_code=True)
    assert [named["trust_remote_code"] for named in asked] == [False, True]


def test_a_card_says_nothing_of_code_that_did_not_run(tmp_path):
    tiny_trainer(tmp_path).create_model_card()
    assert "trust_remote_code" not in (tmp_path / "README.md").read_text()
