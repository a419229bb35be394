"""Recipes for real models, run at tiny size: their own settings, on local rows that stand in for the Hub's."""

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn.recipe import builtin_recipes, load_recipe
from hf_unlearn.stages.data import load_bundle, load_data
from hf_unlearn.stages.train import train_method

REAL = [
    *("tofu-1b", "tofu-3b", "tofu-8b", "muse-news", "muse-books", "wmdp", "rtt-years"),
    *("lume-1b", "lkf", "years", "knowundo"),
]
WORDS = [f"w{number}" for number in range(60)]
CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
LAYERS = 8  # RMU of the WMDP recipe looks at layer 7


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama with as many layers as the recipes speak of."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 6,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "user", "assistant", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", chat_template=CHAT
    ).save_pretrained(folder)
    return folder


def stand_in(source, path, seed, rows=20):
    """Rows with the columns that the recipe's source has on the Hub."""
    draw = random.Random(seed)

    def words(count):
        return " ".join(draw.choice(WORDS) for _ in range(count))

    lines = []
    for number in range(rows):
        row = {"question": words(6), "answer": words(4)}
        if source.text:
            row = {"text": words(40)}
        elif source.choices == "choices" or source.layout:
            row = {"question": words(6), "choices": [words(2) for _ in range(4)], "answer": draw.randrange(4)}
        elif source.choices:
            row[source.choices] = [words(4) for _ in range(3)]
        if source.group:
            row[source.group] = f"g{number // 4}"
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines), encoding="utf-8")


def few_steps(settings):
    """As many as the method needs to do anything: two rounds of ``auto``, two steps of the others."""
    return 40 if settings.get("robust") == "auto" else 2


def tiny(name, folder, model, method):
    """Overrides: local models and rows, few steps, no GPU; one method of the recipe."""
    recipe = load_recipe(name)
    given = ["model.dtype=float32", "evaluate.metrics=[probability,mc_accuracy]"]
    given += [f"model.target={model}"] if recipe.model.scratch is None else [f"model.scratch.base={model}"]
    if "probability" not in recipe.gate.metrics:
        given[1] = "evaluate.metrics=[mc_accuracy]"
    else:
        given.append("gate.metrics=[probability]")
    if recipe.model.never_knew:
        given.append(f"model.never_knew={model}")
    data = recipe.data
    sources = {"forget": data.forget, "retain": data.retain}
    sources |= {"holdout": data.holdout} if data.holdout is not None else {}
    sources |= {f"score.{key}": source for key, source in data.score.items()}
    sources |= {f"extra.{key}": source for key, source in data.extra.items()}
    for number, (key, source) in enumerate(sources.items()):
        file = folder / f"{key}.jsonl"
        stand_in(source, file, number)
        given.append(f"data.{key}.path={file}")
        if source.layout:  # the files of that data set are the user's own
            plain = {"layout": "null", "splits": "[]", "train_on": "sentences", "choices": "choices"}
            given += [f"data.{key}.{field}={value}" for field, value in plain.items()]
        if source.rows_per_group:
            given.append(f"data.{key}.rows_per_group=4")
    settings = recipe.methods[method].settings
    changed = {
        "max_steps": few_steps(settings),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "save_steps": 10,
    }
    # Paged optimizers and those of 8 bits want a GPU.
    changed |= {"optim": "adamw_torch"} if "optim" in settings else {}
    changed |= {"warmup_steps": 0} if "warmup_steps" in settings else {}
    given += [f"methods.{method}.{key}={value}" for key, value in changed.items()]
    return load_recipe(name, given)


def trains(name, folder, model, number):
    """Train one method of a recipe as its train stage does."""
    recipe, bundle = load_data(tiny(name, folder, model, number))
    out = folder / "out"
    form = recipe.data.format.text_format()
    made = train_method(model, out, folder / "work", bundle, form, recipe.methods[number].settings, 0)
    assert made["steps"] == few_steps(recipe.methods[number].settings)
    losses = [value for key, value in made.items() if key.startswith("loss/")]  # of the last steps: auto ends healing
    assert losses and all(math.isfinite(loss) and loss != 0 for loss in losses)
    before, after = (load_file(path / "model.safetensors") for path in (model, out))
    assert before.keys() == after.keys() and any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", REAL)
def test_the_first_method_trains(name, tmp_path, model):
    trains(name, tmp_path, model, 0)


OTHERS = [(name, number) for name in REAL for number in range(1, len(load_recipe(name).methods))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), OTHERS)
def test_the_other_methods_train(name, number, tmp_path, model):
    trains(name, tmp_path, model, number)


def test_what_is_scored_can_be_other_rows_than_what_is_trained_on(tmp_path, model):
    bundle = load_bundle(tiny("wmdp", tmp_path, model, 0))
    assert all(not row.prompt and len(row.answer.split()) == 40 for row in bundle.forget.train)
    assert all(row.prompt and len(row.choices) == 4 for row in bundle.forget.score)


@pytest.mark.parametrize("name", REAL)
def test_every_key_of_the_first_method_says_what_it_is(name):
    text = builtin_recipes()[name].read_text(encoding="utf-8")
    first = text.split("\nmethods:\n")[1].split("\n  - name: ")[0:2]
    lines = [line for line in "\n".join(first).splitlines() if re.match(r"    \w+: ", line)]
    known = {line.split(":")[0].strip() for line in lines if "#" in line}
    plain = {"loss_type", "beta", "loss_kwargs", "retain_loss_kwargs"}
    unexplained = [line for line in lines if line.split(":")[0].strip() not in known | plain]
    # The schedule "constant" explains itself.
    assert [line for line in unexplained if "lr_scheduler_type: constant" not in line] == []


ACCELERATE = sorted(Path(builtin_recipes()["quickstart"]).parent.glob("accelerate/*.yaml"))


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.stem)
def test_accelerate_reads_the_file(file):
    from accelerate.commands.config.config_args import load_config_from_file

    text = file.read_text(encoding="utf-8")
    config = load_config_from_file(str(file))
    sharded = yaml.safe_load(text)
    assert config.use_cpu is False and f"recipes/accelerate/{file.name}" in text
    if sharded.get("fsdp_config"):
        assert (config.distributed_type.value, config.fsdp_config["fsdp_version"]) == ("FSDP", 2)
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    if sharded.get("deepspeed_config"):
        assert config.distributed_type.value == "DEEPSPEED"
        stage = config.deepspeed_config["zero_stage"]
        assert config.deepspeed_config["zero3_save_16bit_model"] is (stage == 3)


def test_there_is_a_file_for_each_way_of_launching():
    stems = {file.stem for file in ACCELERATE}
    assert stems == {"one_gpu", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2", "multi_node"}
