"""``push_to_hub`` from a trainer: in one commit, from a list, with a card that claims nothing."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from loopback import Hub
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.example import Example
from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.hub import from_trainer
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.from_trainer import UnverifiedCard, hub_base, render_unverified_card
from hf_unlearn.hub.metadata import card_problems
from hf_unlearn.recipe import load_recipe

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
PUSHED = MODEL_FILES | TOKENIZER_FILES | {"README.md"}


def rows(name: str) -> tuple[Example, ...]:
    prompt = "born born" if name == "forget" else "born"  # no row is both forgotten and kept
    return tuple(Example(f"{name}{n}", prompt, " born", f"{name}{n}", f"{name}{n}") for n in range(4))


@pytest.fixture
def train(exported, tmp_path: Path):
    """Makes a trainer of the tiny exported model."""

    def make(**settings: Any) -> UnlearnTrainer:
        defaults = {"max_steps": 3, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
        peft_config = settings.pop("peft_config", None)
        return UnlearnTrainer(
            model=str(exported.main),
            args=UnlearnConfig(output_dir=str(tmp_path / "unlearned"), **{**defaults, **settings}),
            forget_dataset=rows("forget"),
            retain_dataset=rows("retain"),
            peft_config=peft_config,
        )

    return make


def test_a_trainer_pushes_model_tokenizer_and_card(here: Hub, train, tmp_path: Path) -> None:
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed", logging_steps=1)
    assert here.repos["owner/pushed"].private, "what was not verified is private unless it is asked for"
    trainer.train()
    out = tmp_path / "unlearned"
    (out / "notes.txt").write_text("what was forgotten")
    (out / "training_args.bin").write_bytes(b"a pickle")
    (out / "optimizer.pt").write_bytes(b"another")
    (out / "checkpoint-9").mkdir()
    (out / "checkpoint-9" / "model.safetensors").write_bytes(b"old")
    done = trainer.push_to_hub(
        "done", license="mit", tags="mine", model_name="Tiny forgets", finetuned_from="own/base"
    )
    repo = here.repos["owner/pushed"]
    assert [commit.title for commit in repo.log()] == ["done"] and done.oid == repo.branches["main"]
    files = repo.files()
    assert set(files) == PUSHED
    assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert here.validated[-1] == files["README.md"].decode(), "the Hub has seen the card that was pushed"
    assert card.text.strip().startswith("**Unlearning verdict: none.** Nothing was verified")
    data = card.data.to_dict()
    assert data["tags"] == ["unlearning", "hf_unlearn", "unlearning-verdict:none", "mine"]
    assert (data["license"], data["base_model"], data["base_model_relation"]) == ("mit", "own/base", "finetune")
    assert "hf-unlearn audit recipe.yaml" in card.text and "# Tiny forgets" in card.text
    assert "| `loss_type` | npo |" in card.text and "Rows: forget 4, retain 4." in card.text
    assert "`loss/forget`" in card.text and "hub_" not in card.text and str(tmp_path) not in card.text
    for token in here.tokens:
        assert all(token.encode() not in content for content in files.values())


def test_what_was_pushed_loads(here: Hub, train, tmp_path: Path) -> None:
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed")
    trainer.train()
    trainer.push_to_hub()
    folder = tmp_path / "fetched"
    for name, content in here.repos["owner/pushed"].files().items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    expected = trainer.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<pad>"
    assert check_folder(folder).problems == ("unlearning_report.json: is missing",), "and does not pass for verified"


def test_a_card_whose_base_is_a_folder_names_none(here: Hub, train, exported) -> None:
    trainer = train(hub_model_id="owner/pushed")
    trainer.create_model_card()
    text = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "base_model" not in ModelCard(text).data.to_dict() and "made from a local model" in text
    assert str(exported.main) not in text
    assert hub_base("owner/base") == "owner/base" and hub_base(str(exported.main)) is None


def test_pushing_without_having_asked_for_it_in_the_settings(here: Hub, train) -> None:
    """As with any trainer the repository is then named after the output folder."""
    train().push_to_hub(private=False)
    repo = here.repos["owner/unlearned"]
    assert set(repo.files()) == PUSHED and not repo.private


def test_save_model_pushes_too_and_a_branch_can_be_named(here: Hub, train) -> None:
    repo = here.create("owner/pushed", {"a.txt": b"a"})
    repo.branches["trial"] = repo.branches["main"]
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed", hub_revision="trial")
    trainer.save_model()
    assert set(repo.files()) == {"a.txt"}
    assert set(repo.files("trial")) == PUSHED | {"a.txt"}
    assert repo.log("trial")[0].title == "Model save"


@pytest.mark.parametrize("always", [False, True])
def test_every_save_pushes_models_and_no_checkpoint(here: Hub, train, always: bool) -> None:
    trainer = train(
        push_to_hub=True,
        hub_model_id="owner/pushed",
        hub_strategy="every_save",
        hub_always_push=always,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
    )
    trainer.train()
    last = Path(trainer.args.output_dir) / "checkpoint-3"
    assert (last / "optimizer.pt").is_file(), "otherwise this shows nothing"
    trainer.push_to_hub()
    repo = here.repos["owner/pushed"]
    titles = [commit.title for commit in reversed(repo.log())]
    assert titles[0] == "Training in progress, step 1"
    if always:
        assert titles[:3] == [f"Training in progress, step {step}" for step in (1, 2, 3)]
    for commit in repo.log():
        assert set(commit.files) - {".gitattributes"} == PUSHED
    assert not list(Path(trainer.args.output_dir).glob("_push*"))


def test_not_waiting_for_the_upload(here: Hub, train) -> None:
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed")
    future = trainer.push_to_hub(blocking=False)
    assert future.result(60).oid == here.repos["owner/pushed"].branches["main"]
    assert set(here.repos["owner/pushed"].files()) == PUSHED


def test_pushes_in_the_background_keep_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    ended = []

    def push(repo_id: str, folder: Path, card: str, message: str, **settings: Any) -> str:
        time.sleep(0.5 if message == "first" else 0)
        ended.append(message)
        return message

    monkeypatch.setattr(from_trainer, "push_folder", push)
    futures = [from_trainer.push_later("owner/pushed", tmp_path, "", message) for message in ("first", "second")]
    assert [future.result(10) for future in futures] == ended == ["first", "second"]


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategies_that_publish_optimizer_states_are_refused(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"hub_strategy is '{strategy}', which would publish the optimizer's state"):
        UnlearnConfig(output_dir=str(tmp_path), hub_strategy=strategy)


def test_adapters_are_pushed_as_adapters(here: Hub, train) -> None:
    from peft import LoraConfig

    trainer = train(
        push_to_hub=True,
        hub_model_id="owner/pushed",
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
    )
    trainer.train()
    trainer.push_to_hub(finetuned_from="own/base")
    files = here.repos["owner/pushed"].files()
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "README.md"} | TOKENIZER_FILES
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model_relation == "adapter" and card.data.library_name == "peft"
    assert "without them it answers as before" in card.text


def test_tokens_that_may_not_write(here: Hub, train, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in (here.read_token, here.expired_token):
        monkeypatch.setenv("HF_TOKEN", token)
        here.fault("POST /api/repos/create", status=403 if token == here.read_token else 401, echo=True)
        with pytest.raises(EnvironmentFailure, match="could not make owner/pushed: the") as raised:
            train(push_to_hub=True, hub_model_id="owner/pushed")
        assert token not in str(raised.value) and raised.value.__suppress_context__
    assert not here.repos
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RequestError, match="there is no token for the Hub"):
        train(push_to_hub=True, hub_model_id="owner/pushed")


def test_a_push_that_fails_leaves_nothing_and_can_be_repeated(here: Hub, train) -> None:
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed", hub_token=here.write_token)
    here.fault("POST .*/commit/", status=403, echo=True)
    with pytest.raises(EnvironmentFailure, match="could not push to owner/pushed") as raised:
        trainer.push_to_hub()
    assert here.write_token not in str(raised.value)
    assert here.repos["owner/pushed"].files() == {}
    trainer.push_to_hub()
    assert set(here.repos["owner/pushed"].files()) == PUSHED
    assert here.write_token not in (Path(trainer.args.output_dir) / "README.md").read_text()


def test_a_push_that_fails_in_the_background_is_told(here: Hub, train, caplog: pytest.LogCaptureFixture) -> None:
    trainer = train(
        push_to_hub=True, hub_model_id="owner/pushed", hub_strategy="every_save", save_strategy="steps", save_steps=3
    )
    here.fault("POST .*/commit/", status=403, echo=True)
    with caplog.at_level(logging.WARNING, logger="hf_unlearn"):
        trainer.train()
        trainer._finish_current_push()
        # A future wakes those who wait for it before it makes its calls.
        deadline = time.monotonic() + 10
        while not caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "could not push to owner/pushed" in caplog.text and here.write_token not in caplog.text


def test_weights_that_are_not_finite_are_not_pushed(here: Hub, train) -> None:
    trainer = train(push_to_hub=True, hub_model_id="owner/pushed")
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(RequestError, match="not finite"):
        trainer.push_to_hub()
    assert here.repos["owner/pushed"].files() == {}


def test_a_license_that_the_hub_refuses(here: Hub, train) -> None:
    with pytest.raises(RequestError, match="license: 'My License'"):
        train(hub_model_id="owner/pushed").create_model_card(license="My License")


def test_the_smallest_card_is_one() -> None:
    assert card_problems(render_unverified_card(UnverifiedCard("x"))) == []


@pytest.mark.parametrize("card", [UnverifiedCard("x", "own/x", "own/base"), UnverifiedCard("x", adapters=True)])
def test_the_recipe_on_the_card_is_one(card: UnverifiedCard, tmp_path: Path) -> None:
    text = render_unverified_card(card).split("```yaml\n")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(text)
    for name in ("forget", "retain", "holdout"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.model.target == (card.base or "PATH/TO/THE/MODEL/THAT/KNOWS")
    assert recipe.methods[0].checkpoint == ("FOLDER" if card.adapters else card.repo_id)
    blocks = render_unverified_card(card).split("```python\n")[1:]
    assert len(blocks) == 1
    compile(blocks[0].split("```")[0], "card", "exec")
