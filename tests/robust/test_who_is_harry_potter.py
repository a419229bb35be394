"""Who's Harry Potter: generic labels by hand, and a run that learns them."""

import json

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust import who_is_harry_potter
from hf_unlearn.robust.who_is_harry_potter import TARGETS_FILE, WhoIsHarryPotter, generic_labels
from hf_unlearn.trainer import UnlearnConfig

PART = {"name": "who-is-harry-potter", "learning_rate": 1e-2, "epochs": 2, "alpha": 5.0, "batch_size": 4}


def trainer_of(folder, model=None, part=None, **settings):
    return tiny_trainer(folder, model, robust=[part or PART], **{"loss_type": "nll", **settings})


def test_generic_labels_by_hand():
    original = torch.tensor([[2.0, 1.5, 0.0], [2.0, 1.0, 0.0], [1.0, 3.0, 2.9]])
    reinforced = torch.tensor([[2.5, 1.5, 9.0], [1.9, 1.0, 0.0], [0.0, 3.1, 2.0]])
    # 2 - 5 * 0.5 = -0.5 loses to 1.5; a fall changes nothing; 3 - 5 * 0.1 = 2.5 loses to 2.9
    assert generic_labels(original, reinforced, 5.0).tolist() == [1, 0, 2]
    assert generic_labels(original, reinforced, 0.1).tolist() == [0, 0, 1]


def test_labels_of_a_run_are_those_of_the_formula(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=1)
    context = trainer.training_context(resuming=False)
    part, before = trainer.parts[0], weights(trainer.model)
    rows = context.forget_rows

    def row_logits(row):
        with torch.no_grad():
            return trainer.model(input_ids=torch.tensor([row.input_ids])).logits[0, row.n_prompt - 1 : -1]

    original = [row_logits(row) for row in rows]
    part._reinforce(context)
    by_hand = [generic_labels(one, row_logits(row), 5.0).tolist() for one, row in zip(original, rows, strict=True)]
    trainer.model.load_state_dict(before)
    part.prepare(context)
    assert_same(before, weights(trainer.model))  # put back bit for bit
    assert [list(labels) for labels in part._labels] == by_hand
    true = [list(row.input_ids[row.n_prompt :]) for row in rows]
    assert sum(one != other for one, other in zip(true, by_hand, strict=True)) >= 6


def test_parts_of_the_forget_set_give_the_same_labels(tmp_path, monkeypatch):
    labels = []
    for most in (2**28, 500):
        monkeypatch.setattr(who_is_harry_potter, "_MOST_LOGITS", most)
        trainer = trainer_of(tmp_path / str(most), max_steps=1)
        trainer.parts[0].prepare(trainer.training_context(resuming=False))
        labels.append(trainer.parts[0]._labels)
    assert labels[0] == labels[1]


def test_the_run_learns_generic_labels_and_not_the_answers(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=30, learning_rate=3e-3, retain_loss_type="none", retain_dataset=None)
    trainer.train()
    hits = {"generic": 0, "true": 0, "labels": 0}
    with torch.no_grad():
        for row in trainer.train_dataset.forget:
            said = trainer.model(input_ids=torch.tensor([row.input_ids])).logits[0, row.n_prompt - 1 : -1].argmax(-1)
            hits["generic"] += int((said == torch.tensor(row.labels)).sum())
            hits["true"] += int((said == torch.tensor(row.input_ids[row.n_prompt :])).sum())
            hits["labels"] += len(said)
    assert hits["generic"] > 0.9 * hits["labels"]
    assert hits["true"] < 0.2 * hits["labels"]


def test_a_run_cannot_go_on_without_its_labels(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, max_steps=2, **settings).train()
    labels = json.loads((tmp_path / TARGETS_FILE).read_text())
    for content, message in (("[[1", "missing or damaged"), (json.dumps(labels[1:]), "belongs to other forget rows")):
        (tmp_path / TARGETS_FILE).write_text(content)
        with pytest.raises(RequestError, match=message):
            trainer_of(tmp_path, max_steps=4, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_it_works_with_adapters(tmp_path):
    from peft import LoraConfig

    model = tiny_model()
    before = weights(model)
    trainer = trainer_of(tmp_path, model, peft_config=LoraConfig(r=4, target_modules=["down_proj"]), max_steps=1)
    trainer.parts[0].prepare(trainer.training_context(resuming=False))
    after = weights(trainer.model)
    assert not any(value.any() for name, value in after.items() if "lora_B" in name)
    assert all(any(torch.equal(value, other) for other in after.values()) for value in before.values())


@pytest.mark.parametrize("settings", [{"alpha": 0}, {"learning_rate": 0}, {"epochs": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="who-is-harry-potter: "):
        WhoIsHarryPotter(**settings)


def test_a_loss_that_unlearns_is_refused(tmp_path):
    with pytest.raises(RequestError, match="which ga would unlearn: set loss_type to nll"):
        UnlearnConfig(output_dir=str(tmp_path), robust=[PART], loss_type="ga")


def test_reinforcing_that_diverges_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, part={**PART, "learning_rate": 1e30, "epochs": 4})
    with pytest.raises(RequestError, match="lower its learning_rate"):
        trainer.train()
