"""BLADE: the multiplier and the penalty by hand, the retain steps before a step, and what a run keeps."""

import json

import pytest
import torch
from tiny_run import tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.blade import Blade, drawn_rows

KEYS = ("slack", "penalty", "start", "least", "largest", "decay", "inner_steps", "inner_rate", "seed")


def blade_trainer(folder, **settings):
    part = {"name": "blade", **{key: settings.pop(key) for key in KEYS if key in settings}}
    given = {"loss_type": "clamped-entropy", "retain_loss_type": "nll", "logging_steps": 1, **settings}
    return tiny_trainer(folder, robust=[part], **given)


def test_the_multiplier_rises_with_a_breach_and_falls_slowly():
    part = Blade(penalty=0.5, start=1.0, decay=0.1, least=0.9, largest=1.3)
    part._limit = 2.0
    assert part.next_factor(2.4, 1) == pytest.approx(1.0 + 0.5 * 0.4)
    assert part.next_factor(1.0, 1) == pytest.approx(1.0 - 0.1 * 0.5 * 1.0)
    assert part.next_factor(9.0, 1) == 1.3
    part._breach = 0.4
    assert part.term_weights(1).retain == pytest.approx(1.0 + 0.5 * 0.4)


def mean_nll(trainer, rows):
    context = trainer.training_context(resuming=False)
    with torch.no_grad():
        logps = torch.cat([context.score(batch).logps for batch in context.batches(rows)])
    return -logps.double().mean().item()


def test_the_limit_and_the_gradient_of_the_augmented_lagrangian(tmp_path):
    """One step of SGD against the gradient of the formula, taken in float64 of the same rows."""
    trainer = blade_trainer(
        tmp_path, slack=1.0, penalty=3.0, start=0.7, inner_steps=0, max_steps=1, optim="sgd", max_grad_norm=0.0
    )
    rows = trainer.training_context(resuming=False).retain_rows
    limit = mean_nll(trainer, rows)
    part = trainer.parts[0]
    seen = []
    original = part.before_step
    part.before_step = lambda context: (original(context), seen.append((context, weights(context.model))))[0]
    batches = []
    begin = trainer.objective.begin_step
    trainer.objective.begin_step = lambda got, device: (batches.extend(got), begin(got, device))[1]
    trainer.train()
    assert part._limit == pytest.approx(limit, rel=1e-5)
    assert part.outcome()["limit"] == pytest.approx(limit, rel=1e-5)
    twin = type(trainer.model)(trainer.model.config).double()
    before = seen[0][1]
    twin.load_state_dict({name: value.double() for name, value in before.items()})
    losses = {"forget": [], "retain": []}
    for batch in batches:
        for term in losses:
            if term not in batch:
                continue
            got = batch[term]
            logits = twin(input_ids=got["input_ids"], attention_mask=got["attention_mask"]).logits[:, :-1]
            labels = got["labels"][:, 1:]
            kept = labels != -100
            logps = logits[kept].log_softmax(-1)
            if term == "forget":
                entropy = -(logps.exp() * logps).sum(-1)
                aim = 0.7 * torch.tensor(float(logps.shape[-1]), dtype=torch.float64).log()
                losses[term].append((aim - entropy).clamp(min=0))
            else:
                losses[term].append(-logps.gather(1, labels[kept][:, None])[:, 0])
    forget, retain = (torch.cat(found).mean() for found in losses.values())
    breach = retain - limit
    objective = forget + 0.7 * breach + 1.5 * breach.clamp(min=0) ** 2
    objective.backward()
    for name, parameter in twin.named_parameters():
        moved = (before[name].double() - weights(trainer.model)[name].double()) / 1e-3
        torch.testing.assert_close(moved, parameter.grad, rtol=2e-2, atol=2e-3)
    assert part.factor == pytest.approx(max(0.1, 0.7 + 3.0 * float(breach) * (1 if breach > 0 else 0.1)), rel=1e-4)


def test_retain_steps_come_before_every_step_but_the_first(tmp_path):
    trainer = blade_trainer(tmp_path, inner_steps=2, inner_rate=0.5, max_steps=2, learning_rate=1e-12)
    part, seen = trainer.parts[0], []
    original = part.before_step

    def watching(context):
        before = weights(context.model)
        original(context)
        seen.append((before, weights(context.model)))

    part.before_step = watching
    trainer.train()
    (before, after), (second, changed) = seen
    assert all(torch.equal(before[name], after[name]) for name in before)
    length = torch.cat([(changed[name] - second[name]).double().flatten() for name in second]).norm().item()
    assert 0 < length <= 2 * 0.5 * 1.0 + 1e-6  # two steps along gradients of a norm of at most 1
    context = trainer.training_context(resuming=False)
    drawn = [drawn_rows(context, 0, 1, number) for number in (0, 1)]
    assert [len(rows) for rows in drawn] == [4, 4] and drawn[0] != drawn[1]
    trainer.model.load_state_dict(second)
    worse = mean_nll(trainer, drawn[0] + drawn[1])
    trainer.model.load_state_dict(changed)
    assert mean_nll(trainer, drawn[0] + drawn[1]) < worse


def test_the_multiplier_is_kept_in_checkpoints(tmp_path):
    part = Blade()
    part.factor = 1.75
    part.save_state(tmp_path)
    assert json.loads((tmp_path / "blade.json").read_text()) == {"factor": 1.75}
    other = Blade()
    other.load_state(tmp_path)
    assert other.factor == 1.75


def test_a_retain_loss_without_a_limit_is_refused(tmp_path):
    with pytest.raises(RequestError, match="blade: the limit is a multiple of the target's own retain loss"):
        blade_trainer(tmp_path, retain_loss_type="kl")


@pytest.mark.parametrize(
    "settings",
    [
        {"slack": 0.9},
        {"penalty": 0.0},
        {"start": 0.0},
        {"least": 0.0},
        {"largest": 0.05},
        {"decay": 1.5},
        {"inner_steps": -1},
        {"inner_rate": 0.0},
    ],
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match=f"blade: {next(iter(settings))} is"):
        Blade(**settings)
