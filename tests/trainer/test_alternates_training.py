"""Losses on other answers through the real trainer: values, references, cache, resume."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import datasets
import pytest
import torch
from tiny_run import assert_same, logged, tiny_model, tiny_rows, tiny_trainer, weights
from transformers import LlamaConfig

from hf_unlearn.errors import RequestError
from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.trainer import UnlearnConfig

OPTIONS = {row.id: tuple(f" w{n} w{n + 1}" for n in range(3)) for row in tiny_rows("forget", 8)}
FORGET = tuple(dataclasses.replace(row, choices=(row.answer, *OPTIONS[row.id])) for row in tiny_rows("forget", 8))
GENERATED = {"name": "generated", "count": 3, "max_new_tokens": 4}


def logp_sum(model, row) -> torch.Tensor:
    logits = model(torch.tensor([row.input_ids])).logits[0].double()
    return sum(
        torch.log_softmax(logits[time - 1], dim=0)[row.input_ids[time]]
        for time in range(row.n_prompt, len(row.input_ids))
    )


def moved(trainer, by=0.05):
    trainer._prepare_run(resuming=False)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return trainer


def test_dpo_of_the_trainer_is_the_formula_row_by_row(tmp_path):
    target = tiny_model()
    trainer = moved(
        tiny_trainer(
            tmp_path,
            copy.deepcopy(target),
            loss_type="dpo",
            alternates="options",
            retain_loss_type="none",
            forget_dataset=FORGET,
        )
    )
    items = [trainer.train_dataset[index] for index in range(5)]
    batch = trainer.data_collator(items)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = gradients_of(trainer.model)
    trainer.model.zero_grad()
    total = 0.0
    for item in items:
        with torch.no_grad():
            before = logp_sum(target, item["alternate"]) - logp_sum(target, item["forget"])
        gained = logp_sum(trainer.model, item["alternate"]) - logp_sum(trainer.model, item["forget"]) - before
        total = total - (2 / 0.1) * torch.log(torch.sigmoid(0.1 * gained))
    expected = total / len(items)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients_of(trainer.model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_alternates_keep_the_prompt_and_end_like_answers(tmp_path):
    trainer = tiny_trainer(tmp_path, loss_type="random-incorrect", forget_dataset=FORGET)
    data, end = trainer.train_dataset, trainer.processing_class.eos_token_id
    seen: set[tuple[int, int]] = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        for index in range(8):
            item = data[index]
            forget, other = item["forget"], item["alternate"]
            assert other.input_ids[: other.n_prompt] == forget.input_ids[: forget.n_prompt]
            assert other.input_ids[other.n_prompt :] != forget.input_ids[forget.n_prompt :]
            assert other.input_ids[-1] == end
            seen.add((index, item["alternate_row"]))
    assert len(seen) == 8 * 3  # over the epochs each row meets all of its wrong options


def test_a_fixed_option_never_changes(tmp_path):
    trainer = tiny_trainer(tmp_path, loss_type="fixed-incorrect", forget_dataset=FORGET)
    assert len(trainer.train_dataset.alternates) == 8


def test_refusals_become_likely_and_are_logged_under_their_own_name(tmp_path):
    trainer = tiny_trainer(tmp_path, loss_type="idk-nll", logging_steps=1, max_steps=12, learning_rate=3e-3)
    trainer.train()
    first, last = logged(trainer)[0], logged(trainer)[-1]
    assert last["logps/alternate"] > first["logps/alternate"] + 5 and last["loss/forget"] < first["loss/forget"]
    assert "logps/forget" not in first


def test_a_loss_on_alternates_alone_does_not_run_the_true_answers(tmp_path):
    trainer = moved(tiny_trainer(tmp_path, loss_type="idk-nll", retain_loss_type="none"))
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    before = trainer.compute_loss(trainer.model, batch).item()
    batch["forget"]["input_ids"][:] = 5
    assert trainer.compute_loss(trainer.model, batch).item() == before


def test_jensen_shannon_does_not_run_the_refusals(tmp_path):
    trainer = moved(tiny_trainer(tmp_path, loss_type="jensen-shannon", retain_loss_type="none"))
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    rows_run = []
    handle = trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows_run.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.compute_loss(trainer.model, batch)
    handle.remove()
    assert rows_run == [4]


def test_the_target_writes_once_and_a_second_run_reads(tmp_path):
    first = tiny_trainer(tmp_path, loss_type="altpo", alternates=GENERATED)
    path = tmp_path / "alternates.json"
    kept = json.loads(path.read_text())
    assert len(kept["texts"]) == 8 and all(len(texts) == 3 for texts in kept["texts"])
    kept["texts"] = [["w1 w2", "w3", "w4"]] * 8
    path.write_text(json.dumps(kept))
    again = tiny_trainer(tmp_path, loss_type="altpo", alternates=GENERATED)
    assert [len(again.train_dataset.alternates), len(first.train_dataset.alternates) <= 24] == [24, True]
    assert again.train_dataset.alternates != first.train_dataset.alternates
    for model, spec in ((tiny_model(seed=3), GENERATED), (tiny_model(), {**GENERATED, "seed": 1})):
        other = tiny_trainer(tmp_path, model, loss_type="altpo", alternates=spec)  # another target, or another wish
        assert other.train_dataset.alternates != again.train_dataset.alternates
        path.write_text(json.dumps(kept))


def test_a_damaged_file_is_written_anew(tmp_path):
    first = tiny_trainer(tmp_path, loss_type="altpo", alternates=GENERATED)
    (tmp_path / "alternates.json").write_text('{"digest": "')
    again = tiny_trainer(tmp_path, loss_type="altpo", alternates=GENERATED)
    assert again.train_dataset.alternates == first.train_dataset.alternates


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "altpo", "alternates": GENERATED},
        {"loss_type": "idk-dpo", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"loss_type": "rmu", "loss_kwargs": {"layer": 1}, "retain_loss_type": "hidden"},
    ],
    ids=lambda settings: settings["loss_type"],
)
def test_a_resumed_run_ends_bit_for_bit_as_one_in_one_go(tmp_path, settings):
    if settings["loss_type"] == "rmu":
        settings = {**settings, "retain_loss_kwargs": {"layer": 1}}
    settings = {**settings, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = tiny_trainer(tmp_path / "whole", **settings)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = tiny_trainer(tmp_path / "whole", **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 6
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("reference", ["cache", "model"])
def test_cached_and_live_references_of_the_forget_rows_are_the_same(tmp_path, reference):
    """UNDIAL looks at the target's logits on forget rows, DPO at its log-probabilities of both answers."""
    target = tiny_model()
    trainer = moved(tiny_trainer(tmp_path, copy.deepcopy(target), loss_type="undial", reference=reference))
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    found = trainer.references["forget"].logits(batch["forget"])
    with torch.no_grad():
        rows = [target(torch.tensor([row.input_ids])).logits[0] for row in trainer.train_dataset.forget[:4]]
    lengths = [(row.n_prompt, len(row.input_ids)) for row in trainer.train_dataset.forget[:4]]
    expected = torch.cat([logits[n - 1 : end - 1] for logits, (n, end) in zip(rows, lengths, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


PAIRS = sorted(
    {(forget, retain) for forget in FORGET_LOSSES.names() for retain in ("kl", "hidden")}
    | {(forget, retain) for forget in ("ga", "rmu", "idk-nll") for retain in RETAIN_LOSSES.names()}
)


@pytest.mark.parametrize(("forget", "retain"), PAIRS)
def test_any_forget_loss_goes_with_any_retain_loss(tmp_path, forget, retain):
    settings = {"loss_type": forget, "retain_loss_type": retain}
    if forget == "rmu":
        settings["loss_kwargs"] = {"layer": 0}
    if retain == "hidden":
        settings["retain_loss_kwargs"] = {"layer": 1}
    if forget in ("dpo", "altpo", "bs-s"):
        settings["alternates"] = {"dpo": "other-answers", "altpo": GENERATED, "bs-s": GENERATED}[forget]
    trainer = tiny_trainer(tmp_path, forget_dataset=FORGET, **settings)
    trainer = moved(trainer)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[n] for n in range(4)]))
    loss.backward()
    gradients = gradients_of(trainer.model)
    assert torch.isfinite(loss) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    assert any(bool(gradient.any()) for gradient in gradients.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "dpo"}, "loss_type 'dpo' needs other answers: set alternates to one of"),
        ({"loss_type": "npo", "alternates": "refusals"}, "'npo' uses none: leave them out"),
        ({"loss_type": "idk-dpo", "alternates": "refusal"}, "did you mean 'refusals'"),
        ({"loss_type": "altpo", "alternates": {"name": "generated", "counts": 3}}, "did you mean 'count'"),
        ({"loss_type": "idkdpo"}, "did you mean 'idk-dpo'"),
        ({"loss_type": "rmu", "loss_kwargs": {"coeff": 3}}, "no parameter 'coeff': did you mean 'coefficient'"),
        ({"retain_loss_type": "hiden"}, "did you mean 'hidden'"),
        ({"trained_parameters": "*"}, "trained_parameters"),
        ({"trained_parameters": []}, "trained_parameters"),
    ],
)
def test_settings_are_refused_when_a_recipe_is_checked(settings, message):
    with pytest.raises(RequestError, match=message):
        make_config(settings, Path("unused"), 0)


def test_rows_without_options_are_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(RequestError, match="forget:0 has no wrong options"):
        tiny_trainer(tmp_path, "no/such-model", loss_type="random-incorrect")


def test_answers_from_retain_rows_need_some(tmp_path):
    with pytest.raises(RequestError, match="a retain_dataset is needed"):
        tiny_trainer(
            tmp_path, loss_type="dpo", alternates="other-answers", retain_loss_type="none", retain_dataset=None
        )


def test_a_streamed_data_set_is_refused(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "w1", "completion": " w2"}])
    with pytest.raises(RequestError, match="forget_dataset is streamed"):
        tiny_trainer(tmp_path, forget_dataset=rows.to_iterable_dataset())


def test_too_few_retain_rows_are_refused_and_few_are_told(tmp_path, caplog):
    few = tiny_rows("retain", 3)
    with pytest.raises(RequestError, match=r"3 rows, fewer than retain_per_forget=4"):
        tiny_trainer(tmp_path, retain_dataset=few, retain_per_forget=4)
    with caplog.at_level("WARNING"):
        tiny_trainer(tmp_path, retain_dataset=few, retain_per_forget=2)
    assert "a batch needs 8 retain rows and there are 3" in caplog.text


def test_a_reference_of_another_vocabulary_is_refused_before_any_model_is_loaded(tmp_path):
    LlamaConfig(vocab_size=50).save_pretrained(tmp_path / "other")
    with pytest.raises(RequestError, match="ref_model has a vocabulary of 50 tokens and the model one of 44"):
        tiny_trainer(tmp_path, ref_model=str(tmp_path / "other"))


def test_alternates_on_a_command_line_are_json(tmp_path):
    args = UnlearnConfig(
        output_dir=str(tmp_path), loss_type="idk-nll", alternates='{"name": "fixed-text", "text": "no"}'
    )
    source = args.build_alternates()
    assert source is not None and source.text == "no"
