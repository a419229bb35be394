"""FO-ZO and signSGD: a zeroth-order step by hand, the order of blocks, and an optimizer that steps by signs."""

import math

import pytest
import torch
from tiny_run import logged, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.fo_zo import FirstAndZerothOrder, direction
from hf_unlearn.trainer.sign_sgd import SignSGD


def zo_trainer(folder, **settings):
    part = {
        "name": "fo-zo",
        **{key: settings.pop(key) for key in ("steps", "directions", "mu", "rate") if key in settings},
    }
    return tiny_trainer(folder, robust=[part], retain_loss_type="nll", logging_steps=1, **settings)


def test_directions_have_one_length_and_no_preference():
    shapes = [torch.zeros(30, 40), torch.zeros(50)]
    drawn = [torch.cat([part.flatten() for part in direction(shapes, seed)]) for seed in range(40)]
    for one in drawn:
        assert one.norm().item() == pytest.approx(math.sqrt(1250), rel=1e-5)
    assert abs(torch.stack(drawn).mean().item()) < 0.02
    again = torch.cat([part.flatten() for part in direction(shapes, 3)])
    assert torch.equal(drawn[3], again) and not torch.equal(drawn[3], drawn[4])


@pytest.mark.parametrize(
    ("steps", "total", "expected"),
    [(2, 8, "FFZZFFZZ"), (2, 9, "FFFZZFFZZ"), (2, 7, "FFFFFZZ"), (1, 4, "FZFZ"), (3, 6, "FFFZZZ")],
)
def test_blocks_are_counted_from_the_end(steps, total, expected):
    part = FirstAndZerothOrder(steps=steps)
    part._first = total % (2 * steps)
    assert "".join("Z" if part.zeroth_order(step) else "F" for step in range(total)) == expected


def test_a_zeroth_order_step_by_hand(tmp_path):
    """The second step of two, repeated in float64 with the loss computed from whole rows by the model itself."""
    trainer = zo_trainer(
        tmp_path,
        steps=1,
        directions=2,
        mu=1e-2,
        rate=0.5,
        max_steps=2,
        loss_type="ga",
        forget_weight=0.5,
        retain_weight=2.0,
    )
    seen = []
    part = trainer.parts[0]
    original = part.before_step

    def watching(context):
        seen.append((weights(context.model), [dict(batch) for batch in trainer.objective.batches]))
        original(context)

    part.before_step = watching
    trainer.train()
    before, batches = seen[1]
    names = [name for name, _ in trainer.model.named_parameters()]
    twin = tiny_model().double().eval()

    def objective(values):
        twin.load_state_dict({name: value.double() for name, value in values.items()})
        totals = {"forget": [0.0, 0], "retain": [0.0, 0]}
        with torch.no_grad():
            for batch in batches:
                for term, rows in batch.items():
                    logits = twin(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
                    logps = logits[:, :-1].log_softmax(-1)
                    for row, time in (rows["labels"][:, 1:] != -100).nonzero().tolist():
                        totals[term][0] += float(logps[row, time, rows["labels"][row, time + 1]])
                        totals[term][1] += 1
        forget, retain = (total / count for total, count in totals.values())
        return 0.5 * forget - 2.0 * retain

    parameters = [before[name] for name in names]
    step = [torch.zeros_like(value).double() for value in parameters]
    for number in range(2):
        moves = [move.double() for move in direction(parameters, 1 * 1_000_003 + number)]
        sides = [
            objective({**before, **{n: before[n].double() + s * m for n, m in zip(names, moves, strict=True)}})
            for s in (1e-2, -1e-2)
        ]
        slope = max(-1.0, min(1.0, (sides[0] - sides[1]) / 2e-2))
        assert abs(slope) > 1e-3
        step = [total + 0.5e-3 * slope / 2 * move for total, move in zip(step, moves, strict=True)]
    after = weights(trainer.model)
    for name, moved in zip(names, step, strict=True):
        torch.testing.assert_close(before[name].double() - after[name].double(), moved, rtol=1e-2, atol=1e-6)
    entries = logged(trainer)
    assert entries[1]["loss"] == 0.0 and {"loss/forget", "loss/retain"} <= set(entries[1])


def test_ordinary_steps_are_those_of_a_run_without_it(tmp_path):
    plain = tiny_trainer(tmp_path / "a", retain_loss_type="nll", max_steps=2)
    plain.train()
    mixed = zo_trainer(tmp_path / "b", steps=2, max_steps=4)
    kept = []
    mixed.parts[0].before_step, original = (
        lambda context: (kept.append(weights(context.model)), original(context))[1],
        mixed.parts[0].before_step,
    )
    mixed.train()
    assert all(torch.equal(value, kept[2][name]) for name, value in weights(plain.model).items())
    assert any(not torch.equal(kept[2][name], value) for name, value in kept[3].items())


def test_a_run_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(RequestError, match="fo-zo: 4 steps are less than two blocks of 20"):
        zo_trainer(tmp_path, max_steps=4).train()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"directions": 0}, {"mu": 0.0}, {"rate": -1.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match=f"fo-zo: {next(iter(settings))} is"):
        FirstAndZerothOrder(**settings)


def test_sign_sgd_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    still = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = SignSGD([weight, still], lr=0.1, weight_decay=0.5)
    weight.grad = torch.tensor([1e-9, -7.0, 0.0], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([0.95 * 1.0 - 0.1, 0.95 * -2.0 + 0.1, 0.95 * 3.0], dtype=torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)
    assert still.item() == 5.0
    with pytest.raises(ValueError, match="signsgd: lr is -1"):
        SignSGD([weight], lr=-1.0)


def test_sign_sgd_as_an_optimizer_of_a_run(tmp_path):
    trainer = tiny_trainer(tmp_path, optim="signsgd", max_steps=1, learning_rate=1e-3)
    before = weights(trainer.model)
    trainer.train()
    assert trainer.args.optim == "signsgd"
    for name, value in weights(trainer.model).items():
        moved = (value - before[name]).abs()
        assert ((moved < 1e-9) | ((moved - 1e-3).abs() < 1e-6)).all(), name
