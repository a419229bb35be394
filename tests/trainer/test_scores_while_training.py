"""Scores of any rows while a model unlearns: what they are, where they go, and that they change nothing."""

import math

import datasets
import numpy as np
import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.data.encoding import encode_row
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.scoring import score_rows


class Told(TrainerCallback):
    """What any tracker is told."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))


def plainly(model, rows, text_format):
    """Loss and probability by one forward pass per row."""
    total, labels, probabilities = 0.0, 0, []
    for row in rows:
        encoded = encode_row(row, tiny_tokenizer(), text_format, eos=False)
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([encoded.input_ids])).logits[0].double(), -1)
        own = [logps[at - 1, encoded.input_ids[at]].item() for at in range(encoded.n_prompt, len(encoded.input_ids))]
        total, labels = total - sum(own), labels + len(own)
        probabilities.append(math.exp(sum(own) / len(own)))
    return total / labels, sum(probabilities) / len(probabilities)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that scores held-out sets every second step, beside one that scores nothing."""
    told = Told()
    held_out = {"forget": tiny_rows("forget", 5, seed=1), "retain": tiny_rows("retain", 7, seed=1)}
    settings = {"model": None, "per_device_eval_batch_size": 3, "dataloader_drop_last": True, "loss_type": "rmu"}
    settings |= {"loss_kwargs": {"layer": 0}, "logging_steps": 1, "disable_dropout": False}
    folder = tmp_path_factory.mktemp("runs")
    model = {"attention_dropout": 0.2}
    scored = tiny_trainer(
        folder / "scored",
        **{**settings, "model": tiny_model(**model)},
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        eval_dataset=held_out,
        callbacks=[told],
    )
    scored.train()
    plain = tiny_trainer(folder / "plain", **{**settings, "model": tiny_model(**model)})
    plain.train()
    return scored, plain, told, held_out


def test_every_set_is_scored_at_its_steps_and_told_to_trackers(run):
    told = run[2]
    wanted = {f"eval_{name}_{score}" for name in ("forget", "retain") for score in ("loss", "probability")}
    found = [(step, key) for step, logs in told.logs for key in logs if key in wanted]
    assert sorted(found) == sorted((step, key) for step in (0, 2, 4) for key in wanted)
    assert all(math.isfinite(logs[key]) for _, logs in told.logs for key in wanted & logs.keys())


def test_scoring_changes_no_step_and_no_log_of_training(run):
    scored, plain, *_ = run
    assert_same(weights(scored.model), weights(plain.model))

    def of_training(trainer):
        return [{key: entry[key] for key in entry if "/" in key} for entry in trainer.state.log_history]

    assert [entry for entry in of_training(scored) if entry] == [entry for entry in of_training(plain) if entry]


def test_scores_are_what_they_say_and_what_the_evaluate_command_gives(run):
    scored, *_, held_out = run
    found = scored.evaluate()
    for name, rows in held_out.items():
        loss, probability = plainly(scored.model.eval(), rows, scored.text_format)
        assert found[f"eval_{name}_loss"] == pytest.approx(loss, rel=1e-5)
        assert found[f"eval_{name}_probability"] == pytest.approx(probability, rel=1e-5)
    records = score_rows(scored.model, tiny_tokenizer(), {"forget": held_out["forget"]}, scored.text_format)
    metric = METRICS.get("probability").value
    assert found["eval_forget_probability"] == pytest.approx(np.mean([metric(each) for each in records]), rel=1e-4)


def test_any_set_is_scored_by_name_or_as_it_is(run):
    scored, *_, held_out = run
    whole = scored.evaluate()
    assert scored.evaluate("forget")["eval_loss"] == whole["eval_forget_loss"]
    records = [{"prompt": row.prompt, "completion": row.answer} for row in held_out["retain"]]
    other = scored.evaluate(datasets.Dataset.from_list(records), metric_key_prefix="other")
    assert other["other_probability"] == whole["eval_retain_probability"]
    labelled = [
        {"prompt": row.prompt, "completion": row.answer, "label": name == "retain"}
        for name, rows in held_out.items()
        for row in rows
    ]
    assert scored.evaluate(labelled)["eval_retain_loss"] == whole["eval_retain_loss"]
    with pytest.raises(RequestError, match="the eval set has no rows"):
        scored.evaluate([])
    with pytest.raises(RequestError, match="eval_dataset is an empty dictionary"):
        scored.evaluate({})
    with pytest.raises(RequestError, match=r"predict is not supported: .*trainer\.evaluate"):
        scored.predict(records)


def test_without_a_set_the_rows_of_the_training_are_scored(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, eval_strategy="epoch", num_train_epochs=1)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "eval_forget_loss" in entry]
    assert entry["eval_forget_loss"] == pytest.approx(
        plainly(trainer.model.eval(), tiny_rows("forget", 8), trainer.text_format)[0], rel=1e-5
    )
    trainer = tiny_trainer(tmp_path, retain_loss_type="none", retain_dataset=None)
    assert set(trainer.evaluate()) >= {"eval_forget_loss", "eval_forget_probability"}


def test_further_scores_are_given_logits_and_labels_as_elsewhere(tmp_path):
    shapes = []

    def accuracy(found):
        hits = found.predictions[:, :-1] == found.label_ids[:, 1:]
        shapes.append(found.predictions.shape)
        return {"accuracy": float(hits[found.label_ids[:, 1:] != -100].mean())}

    def best(logits, labels):
        shapes.append(tuple(logits.shape[::2]))
        return logits.argmax(-1)

    rows = tiny_rows("forget", 5)
    given = {"eval_dataset": rows, "compute_metrics": accuracy, "preprocess_logits_for_metrics": best}
    trainer = tiny_trainer(tmp_path, per_device_eval_batch_size=2, **given)
    found = trainer.evaluate()
    assert shapes[:3] == [(2, 44), (2, 44), (1, 44)] and shapes[3][0] == 5
    hits = []
    for row in rows:
        encoded = encode_row(row, tiny_tokenizer(), trainer.text_format, eos=False)
        with torch.no_grad():
            said = trainer.model(torch.tensor([encoded.input_ids])).logits[0].argmax(-1)
        hits += [
            said[at - 1].item() == encoded.input_ids[at] for at in range(encoded.n_prompt, len(encoded.input_ids))
        ]
    assert found["eval_accuracy"] == pytest.approx(np.mean(hits))
    assert found["eval_loss"] == pytest.approx(plainly(trainer.model, rows, trainer.text_format)[0], rel=1e-5)


def test_a_set_is_asked_for_by_name(tmp_path):
    """The sets that are trained on have names too, and no other word asks the Hub."""
    trainer = tiny_trainer(tmp_path)
    assert trainer.evaluate("forget")["eval_loss"] == trainer.evaluate()["eval_forget_loss"]
    with pytest.raises(RequestError, match=r"^there is no set 'forgt': did you mean 'forget'[?]$"):
        trainer.evaluate("forgt")
    trainer = tiny_trainer(tmp_path, eval_dataset=tiny_rows("held-out", 2))
    with pytest.raises(RequestError, match=r"^there is no set 'forget': the only one has no name: evaluate"):
        trainer.evaluate("forget")
    with pytest.raises(RequestError, match=r"rows\.jsonl does not exist"):
        trainer.evaluate("rows.jsonl")
