"""Batches: of like length, and no larger than what fits, without another objective."""

import pytest
import torch
from tiny_run import assert_same, logged, tiny_model, tiny_rows, tiny_trainer, weights

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import PairedRows
from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.trainer.batch_size import candidates, longest_batch
from hf_unlearn.trainer.microbatch import LengthGroupedPairs


def rows(lengths):
    return [EncodedRow(str(number), tuple(range(length)), 1) for number, length in enumerate(lengths)]


def padded(data, order, size):
    """Tokens of all batches, padding included."""
    total = 0
    for start in range(0, len(order), size):
        items = [data[index] for index in order[start : start + size]]
        lengths = [len(row.input_ids) for item in items for row in [item["forget"], *item["retain"]]]
        total += max(lengths) * len(lengths)
    return total


def test_an_order_holds_every_item_once_and_less_padding():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 100, (300,), generator=draw).tolist()
    data = PairedRows(rows(lengths[:150]), rows(lengths[150:]), seed=3)
    order = list(LengthGroupedPairs(data, 8, seed=1))
    assert sorted(order) == list(range(150)) and len(LengthGroupedPairs(data, 8, seed=1)) == 150
    assert padded(data, order, 8) < 0.85 * padded(data, list(range(150)), 8)
    longest = max(max(len(row.input_ids) for row in [data[i]["forget"], *data[i]["retain"]]) for i in range(150))
    first = data[order[0]]
    assert max(len(row.input_ids) for row in [first["forget"], *first["retain"]]) == longest


def test_an_order_follows_from_seed_and_epoch():
    data = PairedRows(rows(range(4, 60)), rows(range(4, 40)), seed=3)
    first = list(LengthGroupedPairs(data, 4, seed=1))
    assert list(LengthGroupedPairs(data, 4, seed=1)) == first
    assert list(LengthGroupedPairs(data, 4, seed=2)) != first
    data.set_epoch(1)
    assert list(LengthGroupedPairs(data, 4, seed=1)) != first


def test_a_grouped_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
    settings = {"train_sampling_strategy": "group_by_length", "max_steps": 5, "save_strategy": "steps"}
    settings |= {"save_steps": 3, "per_device_train_batch_size": 3, "save_total_limit": 5}
    whole = tiny_trainer(tmp_path / "run", **settings)
    whole.train()
    again = tiny_trainer(tmp_path / "run", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert_same(weights(whole.model), weights(again.model))


class Small(torch.nn.Module):
    """Stands in for a device whose memory ends at so many rows: what its allocator raises, it raises."""

    def __init__(self, rows_that_fit):
        super().__init__()
        self.rows_that_fit = rows_that_fit

    def forward(self, module, inputs, named):
        if len(named["input_ids"]) > self.rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def trained(tmp_path, rows_that_fit=None, **settings):
    model = tiny_model()
    if rows_that_fit is not None:
        small = Small(rows_that_fit)
        model.register_forward_pre_hook(
            lambda module, inputs, named: small(module, inputs, named) if torch.is_grad_enabled() else None,
            with_kwargs=True,
        )
    common = {"max_steps": 2, "logging_steps": 1, "optim": "sgd", "train_sampling_strategy": "sequential"}
    trainer = tiny_trainer(tmp_path, model, per_device_train_batch_size=8, **common, **settings)
    trainer.train()
    return trainer


def test_a_smaller_micro_batch_makes_the_same_steps(tmp_path):
    """Eight forget and eight retain rows do not fit, two and two do: four micro-batches a step."""
    whole = trained(tmp_path / "whole")
    found = trained(tmp_path / "found", rows_that_fit=5, auto_find_batch_size=True)
    assert (found.args.per_device_train_batch_size, found.args.gradient_accumulation_steps) == (2, 4)
    for one, two in zip(logged(whole), logged(found), strict=True):
        for key in ("loss", "loss/forget", "kl/retain", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6)
    other = weights(found.model)
    for name, tensor in weights(whole.model).items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


def test_what_fits_stays_as_it_is(tmp_path):
    found = trained(tmp_path, rows_that_fit=16, auto_find_batch_size=True)
    assert (found.args.per_device_train_batch_size, found.args.gradient_accumulation_steps) == (8, 1)


def test_a_row_that_does_not_fit_is_said(tmp_path):
    with pytest.raises(EnvironmentFailure, match="out of memory with one forget row in a batch"):
        trained(tmp_path, rows_that_fit=1, auto_find_batch_size=True)


def test_sizes_divide_what_was_asked_for():
    assert candidates(12) == [12, 6, 4, 3, 2, 1]


def test_the_batch_that_is_tried_is_the_longest(tmp_path):
    trainer = tiny_trainer(tmp_path, forget_dataset=tiny_rows("forget", 9), retain_per_forget=2)
    batch = longest_batch(trainer.train_dataset, trainer.data_collator, 3)
    for name, encoded in (("forget", trainer.train_dataset.forget), ("retain", trainer.train_dataset.retain)):
        lengths = sorted((len(row.input_ids) for row in encoded), reverse=True)
        got = sorted(batch[name]["attention_mask"].sum(1).tolist(), reverse=True)
        assert got == lengths[: len(got)]
    assert len(batch["retain"]["labels"]) == 6


def test_slices_hold_every_row_once_beside_its_alternate():
    from hf_unlearn.data.pairing import pad_rows
    from hf_unlearn.trainer.microbatch import cut_by_length

    lengths = {"forget": [3, 9, 20], "alternate": [15, 4, 2], "retain": [30, 5, 6, 7]}
    inputs = {part: pad_rows(rows(each), range(10, 10 + len(each)), 0) for part, each in lengths.items()}
    slices = cut_by_length(inputs, 40)
    assert len(slices) > 2 and cut_by_length(inputs, 1000) == [inputs]
    for cut in slices:
        if "forget" in cut:
            assert cut["forget"]["row"].tolist() == cut["alternate"]["row"].tolist()
        size = sum(len(each["row"]) for each in cut.values())
        width = max(each["input_ids"].shape[1] for each in cut.values())
        assert size * width <= 40 or size <= 2
    for part, each in inputs.items():
        seen = [pair for cut in slices if part in cut for pair in row_texts(cut[part])]
        assert sorted(seen) == row_texts(each)


def row_texts(part):
    texts = zip(part["row"].tolist(), part["input_ids"], part["attention_mask"], strict=True)
    return [(row, tuple(ids[mask.bool()].tolist())) for row, ids, mask in texts]


@pytest.mark.parametrize("losses", [("npo", "kl"), ("dpo", "nll"), ("rmu", "hidden")])
def test_a_micro_batch_in_slices_makes_the_same_steps(tmp_path, losses):
    settings = {"loss_type": losses[0], "retain_loss_type": losses[1], "optim": "sgd", "retain_per_forget": 2}
    if losses[0] == "dpo":
        settings["alternates"] = {"name": "fixed-text", "text": " w1 w2 w3"}
    if losses[0] == "rmu":
        settings |= {"loss_kwargs": {"layer": 1}, "retain_loss_kwargs": {"layer": 1}}
    whole, cut = (
        tiny_trainer(tmp_path, max_steps=2, logging_steps=1, pass_tokens=most, **settings) for most in (10_000, 30)
    )
    for trainer in (whole, cut):
        trainer.train()
    for one, two in zip(logged(whole), logged(cut), strict=True):
        for key in ("loss", "loss/forget", "loss/retain", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6)
    other = weights(cut.model)
    for name, tensor in weights(whole.model).items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw_bnb_8bit", "paged_adamw_8bit"])
def test_an_optimizer_of_eight_bits_steps(tmp_path, optimizer):
    pytest.importorskip("bitsandbytes")
    trainer = tiny_trainer(tmp_path, optim=optimizer, max_steps=2, logging_steps=1, learning_rate=5e-3)
    before = weights(trainer.model)
    trainer.train()
    assert logged(trainer)[1]["loss/forget"] < logged(trainer)[0]["loss/forget"]
    after = weights(trainer.model)
    assert all(not torch.equal(before[name], after[name]) for name in before if "proj" in name)
