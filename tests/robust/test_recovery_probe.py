"""What rehearsals bring back of facts that they do not teach, and a run that ends when that is nothing."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_run import tiny_model, tiny_trainer, weights
from torch.nn.functional import log_softmax

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.errors import RequestError
from hf_unlearn.robust.auto import Auto
from hf_unlearn.robust.cycles import Cycles
from hf_unlearn.robust.recovery_probe import LATER_FRACTION, LEAST_LOOKS, MOST_ROWS, RecoveryProbe, answer_pairs
from hf_unlearn.trainer.unlearn_trainer import FINAL_STEP

STANDS_STILL = 1e-12
"""A learning rate that changes no weight."""


def row(name: str, prompt: tuple[int, ...], answer: tuple[int, ...], group: str = "") -> EncodedRow:
    return EncodedRow(name, prompt + answer, len(prompt), group or name)


def pairs_of(*rows: EncodedRow) -> dict[str, list[tuple[int, ...]]]:
    """The answers that each row was given in place of its own, over many draws."""
    given: dict[str, set[tuple[int, ...]]] = {}
    for seed in range(20):
        for right, wrong in answer_pairs(rows, random.Random(seed)):
            assert right.id == wrong.id and right.input_ids[: right.n_prompt] == wrong.input_ids[: wrong.n_prompt]
            given.setdefault(right.id, set()).add(wrong.input_ids[wrong.n_prompt :])
    return {name: sorted(answers) for name, answers in given.items()}


def test_answers_are_those_of_other_rows_of_the_group_where_there_are_some():
    ann = [row("ann-1", (1, 2), (10,), "ann"), row("ann-2", (1, 3), (11,), "ann")]
    bob = [row("bob-1", (4,), (12,), "bob")]
    assert pairs_of(*ann, *bob) == {"ann-1": [(11,)], "ann-2": [(10,)], "bob-1": [(10,), (11,)]}


def test_the_same_answer_and_the_same_question_are_no_comparison():
    rows = [row("a", (1,), (10,)), row("b", (2,), (10,)), row("c", (1,), (11,)), row("d", (3,), (12,))]
    assert pairs_of(*rows) == {"a": [(12,)], "b": [(11,), (12,)], "c": [(10,), (12,)], "d": [(10,), (11,)]}
    assert answer_pairs([row("a", (1,), (10,)), row("b", (2,), (10,))], random.Random(0)) == []
    assert answer_pairs([row("a", (1,), (10,))], random.Random(0)) == []
    assert answer_pairs([], random.Random(0)) == []


def test_no_pair_is_longer_than_the_longest_row():
    long_question, long_answer = row("q", (1, 2, 3, 4), (10,)), row("a", (5,), (11, 12, 13))
    assert pairs_of(long_question, long_answer) == {"q": [(11,)], "a": [(10,)]}


def test_of_plain_text_the_first_half_is_the_prompt():
    first, second = row("a", (1,), (2, 3, 4)), row("b", (1,), (5, 6, 7, 8, 9))
    assert pairs_of(first, second) == {"a": [(7, 8, 9)], "b": [(3, 4)]}


def test_labels_of_another_training_do_not_count():
    relabelled = EncodedRow("a", (1, 10), 1, "a", labels=(30,))
    (_, wrong), *_ = answer_pairs([relabelled, row("b", (2,), (11,))], random.Random(1))
    assert wrong.labels is None


def test_so_many_rows_are_looked_at_and_no_more():
    rows = [row(str(number), (number,), (1000 + number,)) for number in range(2 * MOST_ROWS)]
    assert len(answer_pairs(rows, random.Random(0))) == MOST_ROWS


def test_the_preference_is_the_difference_of_mean_log_probabilities(tmp_path):
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=3)
    context = trainer.training_context(resuming=False)
    probe = RecoveryProbe()
    probe.look(context, context.forget_rows, "seed")
    pairs = answer_pairs(context.forget_rows, random.Random("seed"))
    assert len(pairs) == len(context.forget_rows) == 8
    model = trainer.model.double().eval()

    def mean_logp(one: EncodedRow) -> float:
        ids = torch.tensor([one.input_ids])
        with torch.no_grad():
            logps = log_softmax(model(input_ids=ids).logits[0, :-1], -1)
        own = logps[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        return float(own[one.n_prompt - 1 :].mean())

    by_hand = sum(mean_logp(right) - mean_logp(wrong) for right, wrong in pairs) / len(pairs)
    assert abs(by_hand) > 0.01
    assert probe.preferences == pytest.approx([by_hand], abs=1e-5)
    assert probe.floating_point_ops > 0


def test_nothing_is_noted_where_nothing_can_be_compared(tmp_path):
    context = tiny_trainer(tmp_path).training_context(resuming=False)
    probe = RecoveryProbe()
    probe.look(context, context.forget_rows[:1], "seed")
    assert probe.preferences == [] and not probe.gone


def test_what_is_gone_has_to_stay_gone_for_longer_than_it_took():
    assert (LEAST_LOOKS, LATER_FRACTION) == (3, 0.6)
    assert not RecoveryProbe([-1.0, -1.0]).gone
    assert RecoveryProbe([2.0, 0.2, -0.4]).gone  # the later two
    assert not RecoveryProbe([3.0, 2.0, 1.0, 0.0, -0.5]).gone  # the later three: 1, 0 and -0.5
    assert not RecoveryProbe([3.0, 2.0, 1.0, 0.0, -0.5, -0.2]).gone  # 1, 0, -0.5, -0.2
    assert RecoveryProbe([3.0, 2.0, 1.0, 0.0, -0.5, -0.5]).gone
    assert not RecoveryProbe([3.0, 2.0, -1.0, -0.5, 0.1, 1.6]).gone  # what had gone came back


def test_without_rehearsals_nothing_can_be_brought_back():
    with pytest.raises(
        RequestError, match="cycles: until_gone measures what rehearsals bring back: set rehearse_steps"
    ):
        Cycles(until_gone=True)
    assert not Auto(rehearse_passes=0).sized(1000, 47.0).until_gone


def blank_model():
    """Gives all words the same probability, so that no answer is preferred."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(0.5)
    return model


def knowing_model(folder):
    """Has learned the forget set by heart."""
    model = tiny_model()
    trainer = tiny_trainer(folder, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    context = trainer.training_context(resuming=False)
    for _ in range(60):
        for batch in context.batches(context.forget_rows):
            optimizer.zero_grad()
            (-context.score(batch).logps.mean()).backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


AUTO = {"name": "auto", "unlearn_passes": 1.0, "heal_passes": 1.5, "rehearse_passes": 0.5, "last": 0.3}


def auto_trainer(folder, model, **settings):
    """Eight forget rows, four a step: rounds of two and three steps; six of them fit."""
    given = {"robust": [AUTO], "loss_type": "ga", "max_steps": 43, "learning_rate": STANDS_STILL}
    return tiny_trainer(folder, model, **{**given, **settings})


def test_a_run_ends_a_last_phase_after_nothing_came_back(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model())
    trainer.train()
    part = trainer.parts[0]
    assert part.outcome()["rounds"] == 3
    assert part.outcome()["brought_back"] == pytest.approx([0.0] * 3, abs=1e-6)
    assert [part.term_weights(step).forget for step in range(22)] == [1, 1, 0, 0, 0] * 3 + [0] * 7
    assert trainer.state.global_step == 22  # 15 steps of rounds are 70 %
    assert any(FINAL_STEP in name for entry in trainer.state.log_history for name in entry)


def test_half_of_the_rounds_that_fit_are_made_in_any_case(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model(), max_steps=72)  # ten rounds in 50 steps
    trainer.train()
    assert trainer.parts[0].outcome()["rounds"] == 5
    assert trainer.state.global_step == 36


def test_a_run_goes_on_while_something_comes_back(tmp_path):
    trainer = auto_trainer(tmp_path, knowing_model(tmp_path / "learn"))
    trainer.train()
    outcome = trainer.parts[0].outcome()
    assert outcome["rounds"] == len(outcome["brought_back"]) == 6
    assert min(outcome["brought_back"]) > 1
    assert trainer.state.global_step == 43


def test_all_rounds_are_made_where_that_is_asked(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model(), robust=[{**AUTO, "until_gone": False}])
    trainer.train()
    assert trainer.parts[0].outcome()["rounds"] == 6 and "brought_back" not in trainer.parts[0].outcome()
    assert trainer.state.global_step == 43


@pytest.mark.parametrize("step", [6, 11, 17, 22])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, step):
    """Cut within the second round, the third (when the end is decided), the last phase, and at the end."""
    settings = {"learning_rate": 1e-5, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 50}
    whole = auto_trainer(tmp_path, blank_model(), **settings)
    whole.train()
    assert whole.state.global_step == 22
    resumed = auto_trainer(tmp_path, blank_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name
    assert resumed.parts[0].outcome() == whole.parts[0].outcome()


def test_without_a_last_phase_the_run_ends_with_its_rounds(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model(), robust=[{**AUTO, "last": 0.0}])
    trainer.train()
    assert trainer.state.global_step == 20  # eight rounds fit, four are made
