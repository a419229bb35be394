"""The trainer against its formulas: what a step minimizes, what it moves, and what stays the same."""

import copy
import json
import math

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import assert_same, logged, tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.errors import RequestError
from hf_unlearn.models.head import output_head
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer
from hf_unlearn.trainer.forward import forward_labels
from hf_unlearn.trainer.objective import Objective

LOSSES = [(forget, retain) for forget in ("ga", "npo") for retain in ("none", "nll", "kl")]


def plain_objective(model, target, trainer, items, beta=0.1):
    """Loss of a list of items by one forward pass per row, without padding, collator or any loss class."""

    def label_logps(net, row):
        logits = net(torch.tensor([row.input_ids])).logits[0].double()
        labels = range(row.n_prompt, len(row.input_ids))
        return [torch.log_softmax(logits[time - 1], dim=0) for time in labels], [
            row.input_ids[time] for time in labels
        ]

    def logp_sum(net, row):
        distributions, labels = label_logps(net, row)
        return sum(logps[label] for logps, label in zip(distributions, labels, strict=True))

    forget = [item["forget"] for item in items]
    retain = [row for item in items for row in item["retain"]]
    if trainer.args.loss_type == "ga":
        loss = sum(logp_sum(model, row) for row in forget) / sum(len(row.input_ids) - row.n_prompt for row in forget)
    else:
        with torch.no_grad():
            references = [logp_sum(target, row) for row in forget]
        ratios = [logp_sum(model, row) - reference for row, reference in zip(forget, references, strict=True)]
        loss = sum(-(2 / beta) * torch.log(torch.sigmoid(-beta * ratio)) for ratio in ratios) / len(forget)
    tokens = sum(len(row.input_ids) - row.n_prompt for row in retain)
    if trainer.args.retain_loss_type == "nll":
        loss = loss - trainer.args.retain_weight * sum(logp_sum(model, row) for row in retain) / tokens
    if trainer.args.retain_loss_type == "kl":
        total = 0
        for row in retain:
            with torch.no_grad():
                wanted, _ = label_logps(target, row)
            found, _ = label_logps(model, row)
            total = total + sum((p.exp() * (p - q)).sum() for p, q in zip(wanted, found, strict=True))
        loss = loss + trainer.args.retain_weight * total / tokens
    return trainer.args.forget_weight * loss if retain == [] else loss


def started(trainer, moved_by=0.0):
    """A trainer past its preparation, whose model has moved away from the target."""
    trainer._prepare_run(resuming=False)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(moved_by * torch.randn_like(parameter))
    return trainer


def loss_and_gradients(trainer, micro_batches):
    """What the training loop does with one accumulation window."""
    trainer.model.zero_grad()
    batches = [trainer.data_collator(items) for items in micro_batches]
    _, counts = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    losses = [trainer.training_step(trainer.model, batch, counts) for batch in batches]
    return sum(loss.item() for loss in losses), {
        name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()
    }


@pytest.mark.parametrize(("loss_type", "retain_loss_type"), LOSSES)
def test_loss_and_gradient_are_the_formula(tmp_path, loss_type, retain_loss_type):
    target = tiny_model()
    trainer = tiny_trainer(
        tmp_path, copy.deepcopy(target), loss_type=loss_type, retain_loss_type=retain_loss_type, retain_weight=3.0
    )
    trainer = started(trainer, moved_by=0.05)
    items = [trainer.train_dataset[index] for index in range(5)]
    loss, gradients = loss_and_gradients(trainer, [items])
    trainer.model.zero_grad()
    expected = plain_objective(trainer.model, target, trainer, items)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("loss_type", "retain_loss_type"), LOSSES)
def test_accumulation_and_order_change_nothing(tmp_path, loss_type, retain_loss_type):
    trainer = tiny_trainer(tmp_path, loss_type=loss_type, retain_loss_type=retain_loss_type, retain_per_forget=2)
    trainer = started(trainer, moved_by=0.05)
    items = [trainer.train_dataset[index] for index in range(6)]
    whole, whole_gradients = loss_and_gradients(trainer, [items])
    for micro_batches in ([items[:1], items[1:]], [items[4:], items[2:4], items[:2]], [items[::-1]]):
        loss, gradients = loss_and_gradients(trainer, micro_batches)
        assert loss == pytest.approx(whole, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer_step", [1, 2])
def test_a_training_run_steps_alike_with_and_without_accumulation(tmp_path, optimizer_step):
    """Through the real loop: 5 rows a step, as one batch of 5 or as batches of 2, 2 and 1 (the epoch's remainder)."""
    results = []
    for batch_size, accumulation in ((5, 1), (2, 3)):
        trainer = tiny_trainer(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            forget_dataset=tiny_rows("forget", 5),
            max_steps=optimizer_step,
            optim="sgd",
            learning_rate=0.1,
            logging_steps=1,
        )
        trainer.train()
        results.append((weights(trainer.model), logged(trainer)[-1]))
    for name, tensor in results[0][0].items():
        torch.testing.assert_close(tensor, results[1][0][name], rtol=1e-4, atol=1e-5)
    for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "kl/retain", "grad_norm"):
        assert results[0][1][key] == pytest.approx(results[1][1][key], rel=1e-3, abs=1e-6)


def test_the_accumulation_divisor_of_older_transformers_is_not_applied(tmp_path, monkeypatch):
    """Before 5.19 the loop asks `model_accepts_loss_kwargs` and whether items were counted, not the class."""
    trainer = tiny_trainer(tmp_path)
    monkeypatch.setattr(UnlearnTrainer, "loss_is_scaled_for_ga", None)
    trainer = started(trainer)
    trainer.current_gradient_accumulation_steps = 2
    items = [trainer.train_dataset[index] for index in range(4)]
    whole, _ = loss_and_gradients(trainer, [items])
    split, _ = loss_and_gradients(trainer, [items[:2], items[2:]])
    assert split == pytest.approx(whole, rel=1e-5)


def test_only_label_positions_reach_the_head(tmp_path):
    trainer = started(tiny_trainer(tmp_path))
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])["forget"]
    seen = []
    handle = output_head(trainer.model).register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    result = forward_labels(trainer.model, trainer.model, batch)
    handle.remove()
    labels = int((batch["labels"] != -100).sum())
    assert seen == [(labels, trainer.model.config.vocab_size)]
    full = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert full.shape[:2] == batch["labels"].shape  # the hook is gone
    positions = (batch["labels"][:, 1:] != -100).nonzero()
    for place, (row, time) in enumerate(positions.tolist()):
        torch.testing.assert_close(result.logits[place], full[row, time], rtol=1e-4, atol=1e-5)
        assert result.labels[place] == batch["labels"][row, time + 1]


@pytest.mark.parametrize("completion_only_loss", [True, False])
def test_which_tokens_are_labels(tmp_path, completion_only_loss):
    trainer = tiny_trainer(tmp_path, completion_only_loss=completion_only_loss)
    tokenizer, row = tiny_tokenizer(), tiny_rows("forget", 1)[0]
    encoded = trainer.train_dataset.forget[0]
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encoded.n_prompt == 1 + len(row.prompt.split())  # a prompt is never forgotten by its tokens
    kept, encoded = tiny_rows("retain", 1)[0], trainer.train_dataset.retain[0]
    assert encoded.n_prompt == (1 + len(kept.prompt.split()) if completion_only_loss else 1)


def test_hidden_losses_look_at_prompts_where_they_may(tmp_path):
    for completion_only_loss in (True, False):
        settings = {"loss_type": "rmu", "loss_kwargs": {"layer": 0}, "completion_only_loss": completion_only_loss}
        encoded = tiny_trainer(tmp_path, **settings).train_dataset.forget[0]
        prompt = 1 + len(tiny_rows("forget", 1)[0].prompt.split())
        assert encoded.n_prompt == (prompt if completion_only_loss else 1)


@pytest.mark.parametrize("loss_type", ["npo", "ga"])
def test_unlearning_forgets_and_keeps(tmp_path, loss_type):
    target = tiny_model()
    trainer = tiny_trainer(
        tmp_path, copy.deepcopy(target), loss_type=loss_type, max_steps=12, retain_weight=5.0, logging_steps=1
    )
    trainer.train()
    first, last = logged(trainer)[0], logged(trainer)[-1]
    assert last["logps/forget"] < first["logps/forget"] - 5
    assert first["kl/retain"] == pytest.approx(0.0, abs=1e-6)
    assert last["kl/retain"] < 0.5


def test_logged_metrics(tmp_path):
    trainer = tiny_trainer(tmp_path, logging_steps=2, forget_weight=2.0, retain_weight=3.0)
    trainer.train()
    entry = logged(trainer)[0]
    assert entry["kl/retain"] == entry["loss/retain"]
    assert entry["loss"] == pytest.approx(2 * entry["loss/forget"] + 3 * entry["loss/retain"], rel=0.01)
    assert entry["logps/retain"] < 0
    final = [entry for entry in trainer.state.log_history if "final_step/loss/forget" in entry]
    assert [entry["step"] for entry in final] == [4]


def test_retain_rows_change_with_the_epoch(tmp_path):
    trainer = tiny_trainer(tmp_path, num_train_epochs=2, max_steps=-1)
    drawn = []
    trainer.data_collator = lambda items, collate=trainer.data_collator: (
        drawn.append([row for item in items for row in item["retain_rows"]]) or collate(items)
    )
    trainer.train()
    first, second = [row for rows in drawn[:2] for row in rows], [row for rows in drawn[2:] for row in rows]
    assert set(first) | set(second) == set(range(12))
    assert first != second


# ---- Errors ----


def test_a_diverging_run_stops_and_keeps_its_checkpoint(tmp_path):
    trainer = tiny_trainer(
        tmp_path, loss_type="ga", learning_rate=1e12, optim="sgd", save_strategy="steps", save_steps=1
    )
    with pytest.raises(RequestError, match=r"loss is nan in step 2.*learning_rate"):
        trainer.train()
    kept = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


class Overflow(TrainerCallback):
    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            model.lm_head.weight.data[0, 0] = math.inf


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = tiny_trainer(tmp_path, save_strategy="steps", save_steps=1)
    trainer.add_callback(Overflow())
    with pytest.raises(RequestError, match=r"after step 2.*learning_rate"):
        trainer.train()
    assert [path.parent.name for path in tmp_path.glob("checkpoint-*/*.safetensors")] == ["checkpoint-1"]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_no_step_is_made_with_what_is_not_finite(tmp_path, broken, monkeypatch):
    trainer = tiny_trainer(tmp_path, optim="sgd")
    before = weights(trainer.model)
    if broken == "loss":
        monkeypatch.setattr(Objective, "forward", _nan_forward)
    else:
        output_head(trainer.model).weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(RequestError, match="step 1"):
        trainer.train()
    assert_same(before, weights(trainer.model))


_forward = Objective.forward


def _nan_forward(objective, model, inputs, wanted):
    outputs = _forward(objective, model, inputs, wanted)
    outputs["forget"].logits.data.fill_(math.nan)
    return outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retain_dataset": None}, "retain_dataset"),
        ({"retain_dataset": ()}, "retain set"),
        ({"forget_dataset": ()}, "forget set"),
        ({"max_length": 4}, "max_length"),
    ],
)
def test_unusable_data_is_refused(tmp_path, change, message):
    with pytest.raises(RequestError, match=message):
        tiny_trainer(tmp_path, **change)


def test_no_retain_set_is_needed_without_a_retain_loss(tmp_path):
    trainer = tiny_trainer(tmp_path, retain_loss_type="none", retain_dataset=None)
    trainer.train()
    assert trainer.state.global_step == 4


def test_a_model_without_a_head_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    with pytest.raises(RequestError, match="output head"):
        output_head(trainer.model.model)


# ---- Like TRL ----


def test_trl_dataset_types_give_the_same_rows(tmp_path):
    forget, retain = tiny_rows("forget", 8), tiny_rows("retain", 12)
    both = [*((row, False) for row in forget), *((row, True) for row in retain)]
    unpaired = datasets.Dataset.from_list(
        [{"prompt": row.prompt, "completion": row.answer, "label": label} for row, label in both]
    )
    trainer = tiny_trainer(tmp_path, forget_dataset=unpaired, retain_dataset=unpaired)
    plain = tiny_trainer(tmp_path)
    for name in ("forget", "retain"):
        found = [(row.input_ids, row.n_prompt) for row in getattr(trainer.train_dataset, name)]
        assert found == [(row.input_ids, row.n_prompt) for row in getattr(plain.train_dataset, name)]


def test_model_by_folder_is_loaded_in_float32_and_saved_ready_for_use(tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "target")
    tiny_tokenizer().save_pretrained(tmp_path / "target")
    trainer = UnlearnTrainer(
        str(tmp_path / "target"),
        UnlearnConfig(output_dir=str(tmp_path / "run"), max_steps=1, use_cpu=True, disable_tqdm=True),
        tiny_rows("forget", 4),
        tiny_rows("retain", 4),
    )
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dtype"], config["use_cache"]) == ("float32", True)


def test_a_missing_model_is_a_clear_error(tmp_path):
    with pytest.raises(RequestError, match="nowhere"):
        UnlearnTrainer(
            str(tmp_path / "nowhere"),
            UnlearnConfig(output_dir=str(tmp_path), use_cpu=True),
            tiny_rows("forget", 4),
            tiny_rows("retain", 4),
            processing_class=tiny_tokenizer(),
        )


def test_autocast_computes_in_bfloat16_and_steps_in_float32(tmp_path):
    trainer = tiny_trainer(tmp_path, bf16=True, learning_rate=1e-6, optim="sgd", logging_steps=1, max_steps=1)
    before = weights(trainer.model)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert logged(trainer)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-6)
    moved = [name for name, tensor in weights(trainer.model).items() if not torch.equal(tensor, before[name])]
    assert len(moved) > 10
