"""Layered folds in a run: which rows are forgotten when, and what the retain term compares them with."""

import pytest
import torch
from tiny_run import tiny_rows, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.layered_folds import LayeredFolds
from hf_unlearn.trainer import UnlearnConfig


class Watch(TrainerCallback):
    """Notes the ids of forget and of retained forget rows of every step."""

    def __init__(self, trainer):
        self.trainer, self.steps = trainer, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        data, seen = self.trainer.train_dataset, {"forget": set(), "retain": set()}
        for batch in self.trainer.objective.batches:
            for part in seen.keys() & batch.keys():
                rows = data.forget if part == "forget" else data.retainable
                seen[part] |= {rows[number].id for number in batch[part]["row"].tolist()}
        self.steps.append((data.epoch, seen["forget"], {name for name in seen["retain"] if "forget" in name}))


def layered_trainer(folder, model=None, folds=2, epochs_per_stage=1, **settings):
    part = {"name": "layered-folds", "folds": folds, "epochs_per_stage": epochs_per_stage}
    return tiny_trainer(folder, model, robust=[part], **{"max_steps": 6, **settings})


def test_each_row_is_forgotten_or_retained_once_an_epoch(tmp_path):
    trainer = layered_trainer(tmp_path)  # eight rows, four a step: two steps an epoch
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    data = trainer.train_dataset
    everything = {row.id for row in data.forget}
    first = {row.id for row, fold in zip(data.forget, data.fold_of, strict=True) if fold == 0}
    for epoch in range(3):
        forgotten = set().union(*(seen for at, seen, _ in watch.steps if at == epoch))
        retained = set().union(*(seen for at, _, seen in watch.steps if at == epoch))
        assert forgotten == (first if epoch == 0 else everything)
        assert retained == everything - forgotten


def test_rows_in_waiting_are_compared_with_the_target(tmp_path):
    trainer = layered_trainer(tmp_path, max_steps=4)
    trainer._prepare_run(resuming=False)
    data = trainer.train_dataset
    batch = trainer.data_collator([data[index] for index in range(8)])
    (term,) = trainer.objective.terms(trainer.model, batch, ("retain",))
    assert len(batch["retain"]["row"]) == 12  # eight dealt, four in waiting
    assert term.sum.mean.item() == pytest.approx(0, abs=1e-6)  # the model is the target still


def test_a_step_without_forgotten_rows_trains_the_retain_term(tmp_path):
    forget = tiny_rows("forget", 8)
    trainer = layered_trainer(tmp_path, per_device_train_batch_size=1, max_steps=16, forget_dataset=forget)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    empty = [seen for epoch, seen, _ in watch.steps if epoch == 0 and not seen]
    assert len(empty) == 4
    assert all(torch.isfinite(value).all() for value in weights(trainer.model).values())


@pytest.mark.parametrize("settings", [{"folds": 1}, {"epochs_per_stage": 0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="layered-folds: "):
        LayeredFolds(**settings)


def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(tmp_path):
    part = {"name": "layered-folds", "folds": 4, "epochs_per_stage": 2}
    with pytest.raises(RequestError, match=r"4 folds take at least 7 epochs, and the run has 3"):
        UnlearnConfig(output_dir=str(tmp_path), robust=[part])
    UnlearnConfig(output_dir=str(tmp_path), robust=[part], num_train_epochs=7)
    with pytest.raises(RequestError, match="needs a retain loss"):
        UnlearnConfig(output_dir=str(tmp_path), robust=[part], num_train_epochs=7, retain_loss_type="none")


def test_too_few_steps_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"2 folds take at least 2 epochs, and the run has 1.5"):
        layered_trainer(tmp_path, max_steps=3)
