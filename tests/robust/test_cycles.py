"""Cycles: forget alone, then retain alone, each with a fresh optimizer."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_run import tiny_model, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.errors import RequestError
from hf_unlearn.robust.auto import Auto
from hf_unlearn.robust.cycles import REHEARSAL_FILE, Cycles
from hf_unlearn.robust.facts_left import FactsLeft, Seen
from hf_unlearn.robust.recovery_probe import RecoveryProbe
from hf_unlearn.robust.rehearsal import Rehearsal


class Watch(TrainerCallback):
    """Notes after each step which gradients there were and how much momentum the optimizer holds."""

    def __init__(self, trainer):
        self.trainer, self.steps = trainer, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        steps_of_momentum = {int(entry["step"]) for entry in self.trainer.optimizer.state.values()}
        self.steps.append((set(self.trainer.objective.means_of_step()), steps_of_momentum))


def cycles_trainer(folder, model=None, unlearn_steps=2, heal_steps=3, rounds=0, rehearsal=None, **settings):
    part = {"name": "cycles", "unlearn_steps": unlearn_steps, "heal_steps": heal_steps, "rounds": rounds}
    return tiny_trainer(folder, model, robust=[{**part, **(rehearsal or {})}], **settings)


def test_phases_alternate():
    part = Cycles(unlearn_steps=2, heal_steps=3)
    weights_by_step = [(part.term_weights(step).forget, part.term_weights(step).retain) for step in range(7)]
    assert weights_by_step == [(1, 0), (1, 0), (0, 1), (0, 1), (0, 1), (1, 0), (1, 0)]


def test_after_the_last_round_only_the_retain_term_goes_on():
    part = Cycles(unlearn_steps=2, heal_steps=1, rounds=2)
    assert [part.term_weights(step).forget for step in range(10)] == [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]


def test_each_step_trains_one_term_and_each_phase_starts_without_momentum(tmp_path):
    trainer = cycles_trainer(tmp_path, loss_type="ga", retain_loss_type="nll", max_steps=7)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    terms = [{name.split("/")[1] for name in names} for names, _ in watch.steps]
    assert terms == [{"forget"}] * 2 + [{"retain"}] * 3 + [{"forget"}] * 2
    assert [momentum for _, momentum in watch.steps] == [{1}, {2}, {1}, {2}, {3}, {1}, {2}]


def test_a_step_counts_the_operations_of_the_rows_it_puts_through_the_model(tmp_path):
    trainer = cycles_trainer(tmp_path, loss_type="ga", retain_loss_type="nll", max_steps=5)
    taken, tokens = trainer.get_batch_samples, []

    def watched(*given):
        batches, counts = taken(*given)
        tokens.append({part: rows["input_ids"].numel() for part, rows in batches[0].items()})
        return batches, counts

    trainer.get_batch_samples = watched
    trainer.train()
    seen = [step["forget"] for step in tokens[:2]] + [step["retain"] for step in tokens[2:]]
    assert trainer.state.total_flos == 6 * sum(seen) * trainer.model.num_parameters(exclude_embeddings=True)


def test_an_unlearning_phase_is_the_run_without_a_retain_term(tmp_path):
    model = tiny_model()
    settings = {"loss_type": "npo", "max_steps": 2, "learning_rate": 1e-3}
    alone = tiny_trainer(tmp_path / "alone", tiny_model(), retain_loss_type="none", **settings)
    alone.train()
    cycled = cycles_trainer(tmp_path / "cycled", model, **settings)
    cycled.train()
    for name, value in weights(alone.model).items():
        torch.testing.assert_close(weights(cycled.model)[name], value, rtol=0, atol=0)


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3}
    whole = cycles_trainer(tmp_path / "whole", **settings)
    whole.train()
    cycles_trainer(tmp_path / "cut", **{**settings, "max_steps": 3}).train()
    resumed = cycles_trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name


def test_healing_needs_something_to_heal_with(tmp_path):
    with pytest.raises(RequestError, match="needs a retain loss"):
        cycles_trainer(tmp_path, retain_loss_type="none")


REHEARSAL = {"rehearse_steps": 3, "rehearse_share": 0.5, "rehearse_rate": 2.0}


def rehearsed(folder, monkeypatch, max_steps=5):
    """A trainer of one round, and what its rehearsal did: the weights before, the change, the weights given back."""
    trainer = cycles_trainer(
        folder, tiny_model(), rehearsal=REHEARSAL, loss_type="ga", max_steps=max_steps, learning_rate=1e-3
    )
    part: Cycles = trainer.parts[0]
    seen = {}
    learn, take_back = part._rehearsal.learn, part._rehearsal.take_back

    def watched_learn(context, rate, number, spared=()):
        seen["before"], seen["rate"] = weights(context.model), rate
        learn(context, rate, number)
        seen["learned"], seen["learned_model"] = dict(part._rehearsal.learned), weights(context.model)

    def watched_take_back(context):
        seen.setdefault("unlearned", weights(context.model))
        take_back(context)
        seen.setdefault("after", weights(context.model))

    monkeypatch.setattr(part._rehearsal, "learn", watched_learn)
    monkeypatch.setattr(part._rehearsal, "take_back", watched_take_back)
    return trainer, seen


def test_a_rehearsal_learns_facts_and_is_taken_back(tmp_path, monkeypatch):
    trainer, seen = rehearsed(tmp_path, monkeypatch)
    trainer.train()
    assert seen["rate"] == pytest.approx(2e-3)
    moved = [name for name, change in seen["learned"].items() if bool(change.any())]
    assert moved
    for name in moved:
        change = seen["learned_model"][name] - seen["before"][name]
        torch.testing.assert_close(seen["learned"][name], change)
        # What unlearning did from there stays, what the rehearsal did goes.
        torch.testing.assert_close(seen["after"][name], seen["unlearned"][name] - change)
    assert trainer.parts[0].outcome()["floating_point_ops"] > 0
    assert trainer.parts[0]._rehearsal.learned == {}


def test_a_rehearsal_is_plain_training_on_a_part_of_the_facts(tmp_path, monkeypatch):
    """By hand: AdamW without decay on minus the mean label log-probability, gradients clipped to norm 1."""
    trainer, seen = rehearsed(tmp_path, monkeypatch)
    rows = []
    part = trainer.parts[0]
    batches = part._rehearsal._batches
    monkeypatch.setattr(part._rehearsal, "_batches", lambda *given: rows.extend(batches(*given)) or iter(rows))
    trainer.train()
    assert len(rows) == 3
    by_hand = tiny_model()
    by_hand.load_state_dict(seen["before"], strict=False)
    by_hand.train()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=2e-3, weight_decay=0.0)
    for batch in rows:
        logps = []
        for row in batch:
            ids = torch.tensor([row.input_ids])
            logs = by_hand(ids).logits.double().log_softmax(-1)[0]
            logps += [logs[place - 1, row.input_ids[place]] for place in range(row.n_prompt, len(row.input_ids))]
        optimizer.zero_grad()
        (-torch.stack(logps).mean()).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    for name, value in weights(by_hand).items():
        torch.testing.assert_close(seen["learned_model"][name], value, rtol=1e-4, atol=2e-5)


def test_a_run_that_ends_within_a_phase_keeps_nothing_of_its_rehearsal(tmp_path, monkeypatch):
    trainer, seen = rehearsed(tmp_path, monkeypatch, max_steps=1)  # of two steps of unlearning
    trainer.train()
    assert any(bool(change.any()) for change in seen["learned"].values())
    for name, value in weights(trainer.model).items():
        if name in seen["learned"]:
            torch.testing.assert_close(value, seen["unlearned"][name] - seen["learned"][name])


def test_adapters_alone_rehearse_and_the_base_stays(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = cycles_trainer(tmp_path, tiny_model(), rehearsal=REHEARSAL, peft_config=config, max_steps=5)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert trainer.parts[0].outcome()["floating_point_ops"] > 0


def test_the_drawn_facts_are_a_share_of_the_groups_and_change_from_round_to_round(tmp_path):
    trainer = cycles_trainer(tmp_path, tiny_model(), rehearsal=REHEARSAL, max_steps=5)
    rows = trainer.train_dataset.forget
    groups = {row.group or row.id for row in rows}
    drawn = []

    class Context:
        forget_rows, rows_per_step = rows, 2

    for number in range(6):
        batches = list(trainer.parts[0]._rehearsal._batches(Context, number))
        assert len(batches) == 3
        drawn.append(frozenset(row.group or row.id for batch in batches for row in batch))
        assert len(drawn[-1]) <= round(0.5 * len(groups))
    assert len(set(drawn)) > 1


def test_a_rehearsed_run_that_is_cut_in_a_phase_ends_like_an_uninterrupted_one(tmp_path):
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 1, "rehearsal": REHEARSAL}
    whole = cycles_trainer(tmp_path / "whole", tiny_model(), **settings)
    whole.train()
    cycles_trainer(tmp_path / "cut", tiny_model(), **{**settings, "max_steps": 6}).train()
    # One step into the second phase of unlearning: the rehearsal has been learned and not been taken back.
    resumed = cycles_trainer(tmp_path / "cut", tiny_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-6"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name
    assert resumed.parts[0].outcome() == whole.parts[0].outcome()


WRONG = [
    *({"unlearn_steps": 0}, {"heal_steps": 0}, {"rounds": -1}, {"rehearse_steps": -1}, {"rehearse_share": 0.0}),
    *({"rehearse_share": 1.5}, {"rehearse_rate": 0.0}, {"perturb": 1.0}),
]


@pytest.mark.parametrize("settings", WRONG)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="cycles: "):
        Cycles(**settings)


def row(number: int, group: str = "") -> EncodedRow:
    return EncodedRow(str(number), (1, number), 1, group)


def test_facts_that_are_left_are_taught_last():
    """Half of six groups are taught: those of which nothing is left, then others."""
    rows = [row(number, group=f"group {number // 2}") for number in range(12)]
    context = SimpleNamespace(forget_rows=rows)
    part = Rehearsal(steps=1, share=0.5, seed=3)
    plain = [part.others(context, number) for number in range(8)]
    assert len({tuple(others) for others in plain}) > 2
    assert [part.others(context, number, range(12)) for number in range(8)] == plain  # all are left: any
    for number in range(8):
        others = part.others(context, number, spared=[2, 9])
        assert len(others) == 6 and {2, 3, 8, 9} <= set(others)
        assert set(part.others(context, number, spared=range(8))) < set(range(8))  # two groups are gone, one more


def looked_at(scores: list[float], **settings: int) -> Cycles:
    """Cycles of four and three steps, after a look that found these scores."""
    part = Cycles(**{"unlearn_steps": 4, "heal_steps": 3, "rehearse_steps": 1, "until_gone": True, **settings})
    part._probe = RecoveryProbe(FactsLeft(len(scores)))
    false = [place / 10 for place in range(-30, 30)]
    part._probe.facts.add({number: Seen(score, 0.5) for number, score in enumerate(scores)}, false)
    return part


def test_unlearning_is_on_what_is_left():
    part = looked_at([9.0, -1.0, -1.0, 9.0, -1.0, 9.0, -1.0, -1.0])
    phase = [part.forget_rows(step, count=3) for step in range(7)]
    assert Counter(number for rows in phase[:4] for number in rows) == {0: 4, 3: 4, 5: 4}
    assert phase[4:] == [None] * 3  # healing
    assert part.forget_rows(7, 3) != phase[0]  # another round begins with others
    better = looked_at([8.0] + [4.0] * 4 + [-1.0] * 8)
    assert Counter(number for step in range(4) for number in better.forget_rows(step, 4))[0] == 8  # half of all
    assert Cycles(unlearn_steps=4, heal_steps=3).forget_rows(0, 3) is None  # nothing was looked at
    ended = looked_at([9.0] + [0.0] * 7, rounds=2)
    assert ended.forget_rows(7, 3) is not None and ended.forget_rows(14, 3) is None


def test_what_looks_found_goes_into_checkpoints(tmp_path):
    part, other = looked_at([9.0, -1.0, 0.1 + 0.2, 9.0]), looked_at([0.0] * 4)
    part._probe.left, part._probe.below, part._probe.preferences = [3, 2], [0, 1], [0.5, 1 / 3]
    part._probe.least = -1 / 3
    part.save_state(tmp_path)
    other.load_state(tmp_path)
    assert other._probe == part._probe
    assert other.outcome() == part.outcome()
    assert other.forget_rows(1, 3) == part.forget_rows(1, 3)


def test_a_checkpoint_of_other_rules_is_refused(tmp_path):
    part = looked_at([9.0, 0.0])
    part.save_state(tmp_path / "parts")
    file = tmp_path / "parts" / REHEARSAL_FILE
    kept = {name: value for name, value in load_file(file).items() if name != "fact_scores"}
    save_file(kept, file)
    with pytest.raises(RequestError, match="made by a version whose rounds ended by another rule: delete"):
        part.load_state(tmp_path / "parts")
    steady = Cycles(rehearse_steps=1)  # looks do not matter to it
    steady.load_state(tmp_path / "parts")
    assert steady._rehearsal.learned == {}


def test_rules_are_those_of_the_settings():
    assert Cycles().rules == Cycles(rehearse_steps=3).rules == Auto(until_gone=False).rules == 1
    assert Auto().rules == 3 and Cycles(rehearse_steps=3, until_gone=True).rules == 2
    assert Auto(rehearse_passes=0).rules == 1
