"""Steps and tokens of a plan, held against a run that counts what it is given."""

from __future__ import annotations

import pytest
from tiny_run import tiny_rows, tiny_trainer

from hf_unlearn.planning.work import cut, training_work
from hf_unlearn.trainer import UnlearnTrainer


class Counting:
    """A collator that counts rows, tokens and labels of what it puts together."""

    def __init__(self, trainer: UnlearnTrainer) -> None:
        self._collate = trainer.data_collator
        self._reads_answers = trainer.objective.forget_loss.uses_labels
        self.rows = self.tokens = self.labels = 0
        trainer.data_collator = self

    def __call__(self, items):
        batch = self._collate(items)
        for split, padded in batch.items():
            if split == "forget" and not self._reads_answers:
                continue  # only the alternates go through the model
            self.rows += len(padded["labels"])
            self.tokens += int(padded["attention_mask"].sum())
            self.labels += int((padded["labels"] != -100).sum())
        return batch


def planned(trainer: UnlearnTrainer):
    return training_work(trainer.args, trainer.train_dataset, trainer.parts, 1, 512)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_epochs": 3},
        {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "retain_per_forget": 2},
        {"num_train_epochs": 2, "loss_type": "idk-nll", "retain_loss_type": "nll"},
        {"num_train_epochs": 2, "retain_loss_type": "none"},
    ],
)
def test_steps_and_tokens_are_those_of_the_run(settings, tmp_path):
    rows = {"forget_dataset": tiny_rows("forget", 10), "retain_dataset": tiny_rows("retain", 7)}
    trainer = tiny_trainer(tmp_path, max_steps=-1, **settings, **rows)
    plan = planned(trainer)
    seen = Counting(trainer)
    trainer.train()
    assert plan.exact and plan.steps == trainer.state.global_step
    done = plan.forward_backward
    assert (done.rows, done.tokens, done.labels) == (seen.rows, seen.tokens, seen.labels)


def test_part_of_an_epoch_counts_rows_of_mean_length(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=3)  # 2 steps are an epoch of 8 rows
    plan = planned(trainer)
    assert plan.steps == 3 and not plan.exact and plan.forward_backward.rows == 2 * 12


def test_rounds_are_counted_to_their_upper_end(tmp_path):
    trainer = tiny_trainer(
        tmp_path, max_steps=-1, num_train_epochs=12, robust=["auto"], loss_type="ga", retain_per_forget=2
    )
    plan = planned(trainer)
    seen = Counting(trainer)
    trainer.train()
    rounds = trainer.parts[0]._cycles.rounds
    assert plan.may_end_early and plan.extra_steps == rounds * trainer.parts[0]._cycles.rehearse_steps
    assert trainer.state.global_step <= plan.steps
    assert plan.forward_backward.rows < 4 * (plan.extra_steps + 2 * plan.steps)
    assert seen.rows  # the loader deals both kinds of rows, of which a step uses one


def test_micro_batches_are_cut_as_in_training():
    assert cut([3, 9, 5], None) == [[3, 9, 5]]
    assert cut([3, 9, 5], 27) == [[3, 9, 5]]
    assert cut([3, 9, 5], 12) == [[3, 5], [9]] or cut([3, 9, 5], 12) == [[3], [5], [9]]
    assert cut([20], 12) == [[20]]
