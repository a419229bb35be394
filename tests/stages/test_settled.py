"""What a recipe leaves to the target, with a tiny chat model of bfloat16 weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.other_form import OtherForm
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.models.own_dtype import own_dtype
from hf_unlearn.models.own_tokenizer import tokenizer_source, with_tokenizer
from hf_unlearn.recipe import Recipe, load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.context import RunContext
from hf_unlearn.stages.data import load_data
from hf_unlearn.stages.models import base_models
from hf_unlearn.stages.report_inputs import model_info
from hf_unlearn.stages.run import Run
from hf_unlearn.stages.train import train_stage
from hf_unlearn.stages.units import RUN_FILE, begun_recipe

CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
WORDS = [f"w{number}" for number in range(80)]
TRAINING = {"name": "npo", "max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}


def save_tokenizer(folder: Path, template: str | None, *, first: str = "<pad>") -> Path:
    special = {"pad_token": first, "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = {word: number for number, word in enumerate([*special.values(), "user", "assistant", *WORDS, "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, eos_token_id=1
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return save_tokenizer(folder, CHAT)


def write(path: Path, prompt: str, start: int) -> Path:
    rows = [{"prompt": prompt.format(f"w{start + n}"), "completion": f" w{n % 7}"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tmp_path, target):
    """A function that loads a recipe on the target: questions, unless told otherwise."""

    def load(prompt: str = "w1 {} ?", **sections) -> Recipe:
        sets = ("forget", "retain", "holdout")
        data = {name: {"path": str(write(tmp_path / f"{name}.jsonl", prompt, 20 * n))} for n, name in enumerate(sets)}
        whole = {
            "name": "settled",
            "model": {"target": str(target), **sections.pop("model", {})},
            "data": {**data, "max_length": 16, **sections.pop("data", {})},
            "methods": [TRAINING],
            "export": {"formats": ["bnb-nf4"]},
            "gate": {"metrics": ["probability"], "max_recovered_share_formats": 0.5, **sections.pop("gate", {})},
            **sections,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        return load_recipe(path)

    return load


def test_a_chat_model_that_is_asked_questions(recipe):
    settled, bundle = load_data(recipe())
    assert (settled.data.format.kind, settled.model.dtype) == ("chat", "bfloat16")
    assert list(settled.attack) == ["other-form"] == list(settled.gate.attacks)
    told = " ".join(bundle.notes)
    for part in ("20 of 20 prompts of the forget set ask", "saved in bfloat16 (model.dtype: auto)", "other form too"):
        assert part in told
    again, same = load_data(settled)  # nothing is left open: it stays, and nothing is said twice
    assert again == settled and "auto" not in " ".join(same.notes)


def test_sentences_to_go_on_with_stay_plain_and_are_asked_in_a_conversation_too(recipe):
    settled, bundle = load_data(recipe("w1 {}"))
    assert settled.data.format.kind == "plain" and "other-form" in settled.gate.attacks
    assert any("0 of 20 prompts" in note for note in bundle.notes)


def test_what_the_recipe_says_stays(recipe):
    said = recipe(model={"dtype": "float32"}, data={"format": {"kind": "plain"}}, attack={"other-form": False})
    settled, bundle = load_data(said)
    assert settled == said and not bundle.notes
    assert load_recipe_again(said) == said


def load_recipe_again(recipe: Recipe) -> Recipe:
    from hf_unlearn.recipe.loading import parse_recipe
    from hf_unlearn.runtime.strict_yaml import Located

    def located(value):
        if isinstance(value, dict):
            value = {key: located(item) for key, item in value.items()}
        elif isinstance(value, list):
            value = [located(item) for item in value]
        return Located(value, "here")

    return parse_recipe(located(recipe.to_dict()))


def test_a_settled_recipe_reads_back_as_it_is(recipe):
    settled, _ = load_data(recipe())
    assert load_recipe_again(settled) == settled


def test_a_gate_that_names_its_attacks_is_left_as_it_is(recipe):
    settled, _ = load_data(recipe(attack={"prune": {}, "noise": {}}, gate={"attacks": ["prune"]}))
    assert list(settled.attack) == ["other-form", "prune", "noise"] and settled.gate.attacks == ("prune",)
    settled, _ = load_data(recipe(attack={"prune": {}}))
    assert settled.gate.attacks == ("other-form", "prune")
    own_name = {"mine": {"attack": "other-form", "template": "w1 {prompt}"}}
    settled, _ = load_data(recipe(attack=own_name))
    assert list(settled.attack) == ["mine"]
    settled, _ = load_data(recipe(attack={"tier": "quick", "other-form": False}))
    assert "other-form" not in settled.attack


def test_another_attack_of_no_tier_cannot_be_left_out(recipe):
    with pytest.raises(RequestError, match=r"attack\.prune is left out with false, and no tier is set"):
        recipe(attack={"prune": False})


def test_a_folder_keeps_what_it_was_begun_with(recipe, tmp_path):
    """A run that an earlier version began goes on as plain text in float32, without a further attack."""
    before = recipe(model={"dtype": "float32"}, data={"format": {"kind": "plain"}}).to_dict()
    settled, bundle = load_data(recipe(), begun=before)
    assert settled.to_dict() == before
    assert any("as plain text" in note and "part of this run that is there" in note for note in bundle.notes)
    begun = load_data(recipe())[0]
    assert load_data(recipe(), begun=begun.to_dict())[0] == begun
    folder = tmp_path / "run"
    folder.mkdir()
    assert begun_recipe(folder) == {}
    (folder / RUN_FILE).write_text(json.dumps({"name": "settled", "recipe": before}))
    assert begun_recipe(folder) == {}  # nothing is made yet: the request may be mended
    (folder / "train").mkdir()
    assert begun_recipe(folder) == before


def test_models_built_from_the_data_have_no_template_and_float32():
    settled = load_recipe("quickstart", ["model.dtype=auto", "data.format.kind=auto"])
    assert settled == load_recipe("quickstart")
    assert (settled.data.format.kind, settled.model.dtype) == ("plain", "float32")


@pytest.mark.parametrize(("named", "own"), [("bfloat16", "bfloat16"), ("float32", "float32"), (None, "bfloat16")])
def test_the_type_of_a_checkpoint(target, tmp_path, named, own):
    """As ``from_pretrained(dtype="auto")`` has it: config.json's, or that of the files."""
    for file in target.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((target / "config.json").read_text()), "dtype": named}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert own_dtype(tmp_path) == own
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert str(loaded.dtype) == f"torch.{own}"


def test_what_is_trained_has_the_targets_type_and_the_named_tokenizer(recipe, target, tmp_path):
    """Steps are in float32; the saved folder has the target's type, and the tokenizer that the recipe names."""
    other = save_tokenizer(tmp_path / "other", CHAT, first="<other>")
    settled, bundle = load_data(recipe(model={"tokenizer": str(other)}))
    context = RunContext(settled, tmp_path / "run", bundle, Workers(0), Progress(Console(quiet=True)))
    subject, _ = base_models(context)
    assert AutoTokenizer.from_pretrained(subject.folder).pad_token == "<other>"
    assert (subject.folder / "model.safetensors").samefile(target / "model.safetensors")
    told = model_info(context, subject)
    assert told.description == "local model with another, local tokenizer"
    context.settle_format(replace(context.text_format, end="chat"))
    run = Run(context, subject, None)
    train_stage(run)
    made = tmp_path / "run" / "train"
    metrics = json.loads((made / "training.json").read_text())
    assert metrics["stepping"] == "fp32" and metrics["saved"]["dtype"] == "bfloat16"
    assert 0 < metrics["saved"]["moved"] <= 1 and metrics["saved"]["lost"] is not None
    model = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(made).pad_token == "<other>"
    attacked = Attacked(made, subject.folder, bundle.with_floor(), context.text_format, ("probability",))
    OtherForm().run_job("form1", attacked, tmp_path)
    assert len(read_records(tmp_path / "records.jsonl")) == 40


def test_a_tokenizer_that_is_not_there(recipe, target, tmp_path):
    with pytest.raises(RequestError, match=r"^model\.tokenizer: .*none' holds no tokenizer"):
        load_data(recipe(model={"tokenizer": str(tmp_path / "none")}))
    with pytest.raises(RequestError, match=r"model\.tokenizer_revision is given without model\.tokenizer"):
        recipe(model={"tokenizer_revision": "main"})
    folder = with_tokenizer(target, str(target))
    assert with_tokenizer(target, str(target)) == folder and tokenizer_source(target) is None
    assert tokenizer_source(folder).model == target.name
