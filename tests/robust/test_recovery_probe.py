"""What rehearsals bring back of facts that they do not teach, and a run that ends when that is nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_run import tiny_model, tiny_trainer, weights
from torch.nn.functional import log_softmax

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.errors import RequestError
from hf_unlearn.robust.auto import AUTO_SETTINGS, Auto
from hf_unlearn.robust.cycles import Cycles
from hf_unlearn.robust.facts_left import FactsLeft, Seen
from hf_unlearn.robust.recovery_probe import (
    LEAST_LOOKS,
    MOST_ROWS,
    OTHERS,
    Pair,
    RecoveryProbe,
    answer_pairs,
    judged,
    put_together,
    with_prompts,
)
from hf_unlearn.trainer.unlearn_trainer import FINAL_STEP

STANDS_STILL = 1e-12
"""A learning rate that changes no weight."""


def row(name: str, prompt: tuple[int, ...], answer: tuple[int, ...], group: str = "") -> EncodedRow:
    return EncodedRow(name, prompt + answer, len(prompt), group or name)


def named(rows: Sequence[EncodedRow], seed: int = 0) -> tuple[list[str], dict[str, set[str]]]:
    """The rows with a right pair, and whose answers each question is put together with besides."""
    pairs = answer_pairs(rows, random.Random(seed))
    false: dict[str, set[str]] = {}
    for pair in pairs:
        if not pair.right:
            false.setdefault(rows[pair.question].id, set()).add(rows[pair.answer].id)
    return [rows[pair.question].id for pair in pairs if pair.right], false


def people(count: int, group: str = "") -> list[EncodedRow]:
    return [row(f"{group}{n}", (100 + n,), (ord(group or "z"), n), group) for n in range(count)]


def test_every_question_and_every_answer_is_in_as_many_false_pairs():
    rows = people(9)
    pairs = answer_pairs(rows, random.Random(1))
    assert [pair.question for pair in pairs if pair.right] == list(range(9))
    false = [pair for pair in pairs if not pair.right]
    assert len(set(false)) == len(false) == 9 * OTHERS
    for place in range(9):
        assert sum(pair.question == place for pair in false) == sum(pair.answer == place for pair in false) == OTHERS


def test_answers_are_those_of_other_rows_of_the_group_if_it_has_enough():
    ann, bob, eve = people(5, "a"), people(4, "b"), people(3, "e")
    compared, false = named([*ann, *bob, *eve, *people(2)])
    assert len(compared) == 14
    for name, answers in false.items():
        assert {answer[0] for answer in answers} <= ({name[0]} if name[0] in "ab" else {"e", *"01"})


def test_the_same_answer_and_the_same_question_are_no_comparison():
    rows = [row("a", (1,), (10,)), row("b", (2,), (10,)), row("c", (1,), (11,)), row("d", (3,), (12,))]
    for seed in range(5):
        assert all(other not in answers for name, answers in named(rows, seed)[1].items() for other in SAME[name])
    assert answer_pairs([row("a", (1,), (10,)), row("b", (2,), (10,))], random.Random(0)) == []
    assert answer_pairs([row("a", (1,), (10,)), row("b", (2,), (11,))], random.Random(0)) == []  # too few to compare
    assert answer_pairs([], random.Random(0)) == []


SAME = {"a": "bc", "b": "a", "c": "a", "d": ""}


def test_no_pair_is_longer_than_the_longest_row():
    long_question, long_answer = row("q", (1, 2, 3, 4), (10,)), row("a", (5,), (11, 12, 13))
    assert put_together(long_question, long_answer, 5).input_ids == (1, 2, 3, 4, 11)
    assert put_together(long_answer, long_question, 5).input_ids == (5, 10)


def test_of_plain_text_the_first_half_is_the_prompt():
    first, second = row("a", (1,), (2, 3, 4)), row("b", (1,), (5, 6, 7, 8, 9))
    assert [each.n_prompt for each in with_prompts([first, second])] == [2, 3]
    assert [each.n_prompt for each in with_prompts([first, row("c", (2,), (3,))])] == [1, 1]


def test_labels_of_another_training_do_not_count():
    relabelled = EncodedRow("a", (1, 10), 1, "a", labels=(30,))
    rows = with_prompts([relabelled, row("b", (2,), (11,))])
    assert put_together(rows[0], rows[0], 9) == row("a", (1,), (10,))


def test_scores_are_those_of_a_plain_computation():
    """Four facts, all false pairs of them, answers of one, two, one and four tokens."""
    logps = {
        (0, 0): -1.0, (1, 1): -4.0, (2, 2): -9.0, (3, 3): -2.5,
        (0, 1): -5.0, (0, 2): -7.0, (0, 3): -3.0, (1, 0): -4.0, (1, 2): -8.0, (1, 3): -6.0,
        (2, 0): -3.0, (2, 1): -5.5, (2, 3): -2.0, (3, 0): -7.5, (3, 1): -4.5, (3, 2): -6.5,
    }  # fmt: skip
    lengths = [1, 2, 1, 4]
    seen = judged([Pair(*key) for key in logps], list(logps.values()), lengths)

    off = np.array([[logps[i, j] for j in range(4)] for i in range(4)])
    wrong = ~np.eye(4, dtype=bool)
    least = np.median(off[wrong])
    assert least == -5.25
    score = np.maximum(off, least) * np.sqrt(lengths)
    false, right = [], []
    for j in range(4):
        column = score[wrong[:, j], j]
        right.append(score[j, j] - column.mean())
        false += [one - np.delete(column, place).mean() for place, one in enumerate(column)]
    unit = np.sqrt(np.mean(np.square(false)))
    assert [seen.right[place].score for place in range(4)] == pytest.approx([one / unit for one in right], abs=1e-12)
    assert sorted(seen.false) == pytest.approx(sorted(one / unit for one in false), abs=1e-12)
    assert [seen.right[place].rank for place in range(4)] == [1.0, (8 + 9) / 24, 0.0, 11 / 12]
    assert seen.least == -6.5  # three of twelve are lower
    assert seen.preference == pytest.approx(np.mean([-1 + 5, -4 + 6, -9 + 3.5, -2.5 + 18.5 / 3]), abs=1e-12)


def test_how_far_below_chance_a_fact_is_changes_nothing():
    pairs = answer_pairs(people(8), random.Random(3))
    draw = random.Random(4)
    logps = [draw.gauss(-6, 1) for _ in pairs]
    lower = [-100.0 if pair.right and pair.question % 2 else logp for pair, logp in zip(pairs, logps, strict=True)]
    lowest = [-500.0 if logp == -100.0 else logp for logp in lower]
    assert judged(pairs, lower, [2] * 8).right == judged(pairs, lowest, [2] * 8).right


def test_so_many_rows_are_looked_at_and_those_that_are_left_first(tmp_path):
    probe = RecoveryProbe(FactsLeft(2 * MOST_ROWS))
    probe.facts.add({number: Seen(0.0, 0.5) for number in range(MOST_ROWS + 10)}, [0.0])
    chosen = probe._chosen(range(2 * MOST_ROWS), random.Random(0))
    assert len(set(chosen)) == len(chosen) == MOST_ROWS
    assert set(chosen) >= set(range(MOST_ROWS + 10, 2 * MOST_ROWS))
    probe.facts.add({number: Seen(9.0, 1.0) for number in range(MOST_ROWS, 2 * MOST_ROWS)}, [0.0] * 999)
    probe.facts.add({number: Seen(9.0, 1.0) for number in range(30)}, [])
    # Of those that are left, the ones that were not just looked at come first.
    assert set(probe._chosen(range(MOST_ROWS + 20), random.Random(0))[:20]) == set(range(MOST_ROWS, MOST_ROWS + 20))


def test_a_look_scores_answers_after_questions(tmp_path):
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=3)
    context = trainer.training_context(resuming=False)
    probe = RecoveryProbe(FactsLeft(8))
    probe.look(context, range(8), "seed")
    draw = random.Random("seed")
    chosen = probe_order(draw)
    rows = with_prompts([context.forget_rows[number] for number in chosen])
    pairs = answer_pairs(rows, draw)
    model = trainer.model.double().eval()
    longest = max(len(each.input_ids) for each in rows)

    def mean_logp(one: EncodedRow) -> float:
        ids = torch.tensor([one.input_ids])
        with torch.no_grad():
            logps = log_softmax(model(input_ids=ids).logits[0, :-1], -1)
        own = logps[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        return float(own[one.n_prompt - 1 :].mean())

    logps = [mean_logp(put_together(rows[pair.question], rows[pair.answer], longest)) for pair in pairs]
    by_hand = judged(pairs, logps, [len(each.input_ids) - each.n_prompt for each in rows])
    assert probe.preferences == pytest.approx([by_hand.preference], abs=1e-5)
    scores = {chosen[place]: seen.score for place, seen in by_hand.right.items()}
    assert {number: seen.score for number, seen in probe.facts.pooled.items()} == pytest.approx(scores, abs=1e-4)
    assert max(map(abs, scores.values())) > 0.3
    assert probe.floating_point_ops > 0


def probe_order(draw: random.Random) -> list[int]:
    """Of eight facts, none of which was looked at."""
    return draw.sample(list(range(8)), 8)


def test_nothing_is_noted_where_nothing_can_be_compared(tmp_path):
    context = tiny_trainer(tmp_path).training_context(resuming=False)
    probe = RecoveryProbe(FactsLeft(8))
    probe.look(context, [0], "seed")
    assert probe.preferences == probe.left == [] and not probe.gone


def test_nothing_is_gone_before_some_looks():
    assert LEAST_LOOKS == 3
    assert not gone([0, 0])
    assert not gone([5, 1, 0, 0])
    assert gone([5, 1, 0, 0, 0])
    assert not gone([0, 0, 1])  # what had gone came back


def test_a_little_of_all_facts_is_not_gone_and_no_mean_makes_up_for_a_fact():
    """The looks that found no fact decide: how many they are, and their mean."""
    none = [9] * 4 + [0] * 4
    assert gone(none, [9.0] * 4 + [0.2, -0.1, 0.1, -0.2])
    assert not gone(none, [-9.0] * 4 + [0.2, -0.1, 0.1, -0.15])
    assert not gone([*none[:-1], 1], [-9.0] * 8)
    assert not gone([*none, 1, 0, 0], [-9.0] * 11)


def gone(left, preferences=None):
    return RecoveryProbe(FactsLeft(1), preferences=preferences or [0.0] * len(left), left=left).gone


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
    return driven_model(folder, towards=-1.0, passes=60)


def driven_model(folder, towards, passes):
    """Has stepped along its log-probabilities on the forget set: down them with 1, up with -1."""
    model = tiny_model()
    trainer = tiny_trainer(folder, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    context = trainer.training_context(resuming=False)
    for _ in range(passes):
        for batch in context.batches(context.forget_rows):
            optimizer.zero_grad()
            (towards * context.score(batch).logps.mean()).backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


AUTO = {
    **{"name": "auto", "unlearn_passes": 1.0, "heal_passes": 1.5, "rehearse_passes": 0.5, "last": 0.3},
    **{"unlearn_least": 1, "rehearse_least": 1},
}


def auto_trainer(folder, model, **settings):
    """Eight forget rows, four a step: rounds of two and three steps; six of them fit."""
    given = {"robust": [AUTO], "loss_type": "ga", "max_steps": 43, "learning_rate": STANDS_STILL}
    return tiny_trainer(folder, model, **{**given, **settings})


def test_a_run_ends_a_last_phase_after_nothing_came_back(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model())
    trainer.train()
    part = trainer.parts[0]
    # After the first round there are facts that no look has seen yet.
    assert part.outcome()["facts_left"][0] > 0 and part.outcome()["facts_left"][1:] == [0] * 3
    assert part.outcome()["rounds"] == 4
    assert part.outcome()["brought_back"] == pytest.approx([0.0] * 4, abs=1e-6)
    assert [part.term_weights(step).forget for step in range(29)] == [1, 1, 0, 0, 0] * 4 + [0] * 9
    assert trainer.state.global_step == 29  # 20 steps of rounds are 70 %
    assert any(FINAL_STEP in name for entry in trainer.state.log_history for name in entry)


def test_half_of_the_rounds_that_fit_are_made_in_any_case(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model(), max_steps=72)  # ten rounds in 50 steps
    trainer.train()
    assert trainer.parts[0].outcome()["rounds"] == 5
    assert trainer.state.global_step == 36


def test_a_longer_run_may_make_more_rounds_and_needs_no_more():
    """A pass of 10 steps: rounds of 6 and 10."""
    usual, longer, shorter = (Auto().sized(10 * passes, float(passes)) for passes in (47, 120, 20))
    assert [each.rounds for each in (usual, longer, shorter)] == [25, 65, 10]
    assert [each.least_rounds for each in (usual, longer, shorter)] == [13, 13, 5]
    assert AUTO_SETTINGS["num_train_epochs"] == 120


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


@pytest.mark.parametrize("step", [6, 16, 22, 29])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, step):
    """Cut within the second round, the fourth (when the end is decided), the last phase, and at the end."""
    settings = {"learning_rate": 1e-5, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 50}
    whole = auto_trainer(tmp_path, blank_model(), **settings)
    whole.train()
    assert whole.state.global_step == 29
    resumed = auto_trainer(tmp_path, blank_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name
    assert resumed.parts[0].outcome() == whole.parts[0].outcome()


def test_without_a_last_phase_the_run_ends_with_its_rounds(tmp_path):
    trainer = auto_trainer(tmp_path, blank_model(), robust=[{**AUTO, "last": 0.0}])
    trainer.train()
    assert trainer.state.global_step == 20  # eight rounds fit, four are made
