"""How RTT trains: the published numbers, the steps written out by hand, and a base that every job finds untouched."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS, model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.relearn import Relearn, RelearnAll
from hf_unlearn.attacks.retrained_model import Texts, shuffled_epochs
from hf_unlearn.attacks.retraining import EarlyStopping, Lesson, retrain_and_score, retraining
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.rtt_paper import RTTPaper
from hf_unlearn.attacks.tuning import Tuning, make_optimizer
from hf_unlearn.data.encoding import TextFormat, load_tokenizer
from hf_unlearn.data.example import DataBundle, Example
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import ScoredRow, read_records
from hf_unlearn.models.loading import load_model

METRICS = ("probability", "mc_accuracy")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=10, retain=4, holdout=0, practice=2, generic=2, first_year=1960))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Steps this small are slower over several threads than in one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory) -> Path:
    """A small model that knows hardly anything."""
    return train_knowing_model(bundle, tmp_path_factory.mktemp("model"), epochs=1, batch_size=16)


@pytest.fixture
def attacked(bundle, folder) -> Attacked:
    return Attacked(folder, folder, bundle, FORMAT, METRICS)


@pytest.fixture(autouse=True)
def no_model_from_other_tests():
    model_cache.release()
    yield
    model_cache.release()


RATE = 1e-3


def settings(**changes) -> RTT:
    given = {"epochs": 2, "batch_size": 4, "warmup_steps": 0, "loss_tokens": "all", "max_grad_norm": 0.0}
    return RTT(**{**given, "patience": 0, "seed": 4, **changes})


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in load_model(folder).named_parameters()}


def test_the_preset_is_what_was_published():
    attack = RTTPaper()
    assert (attack.folds, attack.run_folds, attack.epochs, attack.batch_size, attack.warmup_steps) == (5, 2, 6, 4, 24)
    assert attack.learning_rates == tuple(1e-7 * 2**n for n in range(6))
    assert (attack.optimizer, attack.dtype, attack.max_grad_norm, attack.patience) == ("lion", "float16", 0.0, 0)
    assert (attack.form, attack.asked_by, attack.loss_tokens, attack.max_tokens) == (
        "multiple-choice",
        "letters",
        "all",
        512,
    )
    entry = ATTACKS.get("rtt-paper")
    for name, value in entry.defaults.items():
        own = getattr(attack, name)
        assert (list(own) if isinstance(own, tuple) else own) == value


def test_lion_steps_by_the_sign_of_its_two_momenta():
    """Chen et al., algorithm 2, in float64: update by 0.9 and 0.1, remember by 0.99 and 0.01; no decay."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7, 5, generator=generator))
    optimizer = make_optimizer("lion", [weight], 1e-2)
    expected, momentum = weight.detach().double(), torch.zeros(7, 5, dtype=torch.float64)
    for step in range(5):
        rate = 1e-2 * min(1.0, (step + 1) / 3)
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.randn(7, 5, generator=generator)
        gradient = weight.grad.double()
        expected -= rate * torch.sign(0.9 * momentum + 0.1 * gradient)
        momentum = 0.99 * momentum + 0.01 * gradient
        optimizer.step()
    assert torch.allclose(weight.detach().double(), expected, atol=1e-6)


def test_8_bit_states_step_as_whole_ones_do():
    """The first step is exact, since states are rounded after it; later ones are near. Small tensors stay whole."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 128, generator=generator)
    whole, eight, small = (torch.nn.Parameter(each.clone()) for each in (start, start, start[0]))
    optimizers = make_optimizer("adamw", [whole], 1e-2), make_optimizer("adamw_8bit", [eight, small], 1e-2)
    for step in range(3):
        gradient = torch.randn(64, 128, generator=generator)
        for weight in (whole, eight, small):
            weight.grad = gradient[0].clone() if weight is small else gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        difference = (whole - eight).abs().max().item()
        assert difference < (1e-6 if step == 0 else 1e-2)
        assert torch.allclose(small, whole[0], atol=1e-5)
    assert optimizers[1].state[eight]["state1"].dtype == torch.uint8
    assert optimizers[1].state[small]["state1"].dtype == torch.float32
    assert (whole - start).abs().min().item() > 0
    with pytest.raises(RequestError, match="paged between a GPU and main memory, and there is no GPU: use adamw_8bit"):
        make_optimizer("paged_adamw_8bit", [whole], 1e-2)


def test_nothing_is_trained_before_auto_is_settled(folder):
    refused = pytest.raises(RequestError, match=r"rtt\.tuning is auto, which a run settles before it attacks: set it")
    with refused, retraining(settings(tuning="auto"), folder):
        pass
    told = RTT(tuning="lora", lora_rank=64, optimizer="adamw_8bit").describe(10)["optimizer"]
    assert told == "AdamW with 8-bit states, LoRA of rank 64 on all linear layers in float32"


def test_rows_are_shuffled_once_by_the_seed_and_then_in_place_by_the_epoch():
    rows = list("abcdefghij")
    published = list(rows)
    random.Random(4).shuffle(published)
    expected = []
    for epoch in range(3):
        random.Random(epoch).shuffle(published)
        expected.append(list(published))
    assert [[rows[index] for index in order] for order in shuffled_epochs(len(rows), 3, 4)] == expected


def test_one_step_of_lion_is_the_gradient_of_the_mean_over_tokens_that_are_not_padding(folder):
    """By hand: mean negative log-likelihood over all tokens but the first of each row, padding left out."""
    rows = (
        Example("a", "", "It is known.", "a", "a"),
        Example("b", "", "The river passes the old stone church.", "b", "b"),
    )
    tokenizer = load_tokenizer(str(folder))
    model = load_model(folder).double()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids = torch.tensor([tokenizer(row.answer)["input_ids"]])
        logps = model(ids).logits[0, :-1].log_softmax(-1)
        total = total - logps.gather(-1, ids[0, 1:, None]).sum()
        count += ids.shape[1] - 1
    (total / count).backward()
    expected = {
        name: weight.detach() - 1e-3 / 2 * torch.sign(weight.grad)
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    steady = {name: weight.grad.abs() > 1e-6 for name, weight in model.named_parameters() if weight.grad is not None}
    with retraining(settings(optimizer="lion", warmup_steps=2), folder) as attacker:
        assert next(attacker.epochs(Texts(rows, FORMAT, False), RATE))
        for name, weight in attacker.model.named_parameters():
            if name in expected:
                found = weight.detach().double()[steady[name]]
                assert torch.allclose(found, expected[name][steady[name]], atol=1e-7), name


def test_bf16_computes_in_bfloat16_and_steps_in_float32(folder):
    """By hand: passes under autocast, float32 weights and gradients, one step of Lion."""
    rows = (Example("a", "", "The river passes the old stone church.", "a", "a"),)
    tokenizer, model = load_tokenizer(str(folder)), load_model(folder)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.tensor([tokenizer(rows[0].answer)["input_ids"]])).logits[0, :-1]
    assert logits.dtype == torch.bfloat16
    targets = torch.tensor(tokenizer(rows[0].answer)["input_ids"][1:])
    torch.nn.functional.cross_entropy(logits.float(), targets).backward()
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    seen: list[torch.dtype] = []
    with retraining(settings(optimizer="lion", bf16=True), folder) as attacker:
        before = {name: weight.detach().clone() for name, weight in attacker.model.named_parameters()}
        hook = attacker.model.lm_head.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
        assert next(attacker.epochs(Texts(rows, FORMAT, False), RATE))
        hook.remove()
        for name, weight in attacker.model.named_parameters():
            assert weight.dtype == torch.float32
            if name in expected:
                steady = expected[name].abs() > 1e-4 * expected[name].abs().max()
                moved = (weight - before[name])[steady].sign()
                assert (moved == -expected[name][steady].sign()).float().mean() > 0.98, name
    assert seen == [torch.bfloat16]


def test_scores_computed_in_bfloat16_are_not_taken_for_others(attacked, tmp_path):
    """Two attacks on one cached model, one in each type: neither gets the scores of the other."""
    lesson, first = Lesson(Texts(attacked.bundle.forget.train, FORMAT, True), attacked.bundle.forget.score), {}
    for kind, bf16 in (("whole", False), ("half", True), ("whole again", False)):
        out = tmp_path / kind
        out.mkdir()
        retrain_and_score(settings(epochs=1, bf16=bf16), RATE, attacked, lesson, out)
        first[kind] = [row.logps for row in read_records(out / "epoch0.jsonl")]
    assert first["whole"] == first["whole again"] != first["half"]
    for one, other in zip(first["whole"], first["half"], strict=True):
        assert one == pytest.approx(other, abs=0.1)
    assert settings(bf16=True).describe(4)["optimizer"].endswith("full fine-tuning in float32, computed in bfloat16")


def test_long_rows_lose_their_beginning(folder):
    row = Example("a", "It is known that the river", " passes the old stone church.", "a", "a")
    with retraining(settings(), folder) as attacker:
        (whole,) = attacker.encode(Texts((row,), FORMAT, False))
    with retraining(settings(max_tokens=5), folder) as attacker:
        (cut,) = attacker.encode(Texts((row,), FORMAT, False))
    assert cut.input_ids == whole.input_ids[-5:]
    assert cut.n_prompt == max(1, whole.n_prompt - len(whole.input_ids) + 5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_next_job_finds_the_model_as_its_folder_holds_it(kind, folder, bundle, attacked, tmp_path):
    before = stored(folder)
    adapted = settings(tuning=kind, lora_rank=4)
    with retraining(adapted, folder) as attacker:
        base = attacker.cached.model
        assert next(attacker.epochs(Texts(bundle.forget.train, FORMAT, True), 0.05))
        moved = [name for name, weight in attacker.model.named_parameters() if weight.requires_grad]
        assert moved
        assert all(("lora" in name) == (kind == "lora") for name in moved)
    with retraining(adapted, folder) as attacker:
        assert attacker.cached.model is base  # not loaded again
        if kind == "full":
            assert attacker.model is base
    found = dict(base.named_parameters())
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], weight) for name, weight in before.items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in base.parameters())
    assert not base.training


def test_a_sweep_gives_what_each_rate_gives_on_a_fresh_model(attacked, tmp_path):
    attack = RTT(folds=2, run_folds=1, learning_rates=(1e-3, 3e-2), epochs=2, warmup_steps=2)
    found: dict[str, list[str]] = {}
    for way in ("together", "alone"):
        for job in attack.plan(attacked.bundle):
            if way == "alone":
                model_cache.release()
            out = tmp_path / way / job
            out.mkdir(parents=True)
            attack.run_job(job, attacked, out)
            found.setdefault(job, []).append("".join(p.read_text() for p in sorted(out.glob("*.jsonl"))))
    for together, alone in found.values():
        assert together == alone


def test_another_model_or_a_changed_folder_is_loaded_anew(folder, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    with model_cache.borrowed(folder) as first, pytest.raises(ZeroDivisionError):
        model = first.model
        _ = 1 / 0
    with model_cache.borrowed(folder) as again:
        assert again.model is model
    with model_cache.borrowed(other) as elsewhere:
        assert elsewhere.model is not model
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with model_cache.borrowed(other) as changed:
        assert changed.model is not elsewhere.model


def test_a_job_that_fails_leaves_no_half_trained_model(folder):
    with pytest.raises(ZeroDivisionError), model_cache.borrowed(folder) as broken:
        with torch.no_grad():
            broken.model.lm_head.weight.zero_()
        _ = 1 / 0
    with model_cache.borrowed(folder) as fresh:
        assert fresh.model is not broken.model
        assert fresh.model.lm_head.weight.abs().sum() > 0


def test_a_hopeless_rate_is_given_up_and_named(attacked, tmp_path):
    attack = RTT(folds=2, run_folds=1, learning_rates=(1e-12,), epochs=5, patience=2)
    (job,) = attack.plan(attacked.bundle)
    attack.run_job(job, attacked, tmp_path)
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"epoch": 2}
    assert len(list(tmp_path.glob("epoch*.jsonl"))) == 3
    result = attack.collect({job: tmp_path}, METRICS)
    assert {tuple(entry["stopped"]) for entry in result.details} == {(1e-12,)}
    assert attack.budget(attacked.bundle)["gives_up_after"] == 2


def test_early_stopping_counts_epochs_without_gain_of_any_metric():
    def epoch(a: float, b: float) -> list[ScoredRow]:
        return [ScoredRow("r", "f", "g", "forget", values={"probability": a, "mc_accuracy": b})]

    stopping = EarlyStopping(2)
    steps = [epoch(0.5, 0.2), epoch(0.4, 0.3), epoch(0.5, 0.303), epoch(0.51, 0.1), epoch(0.4, 0.1), epoch(0.4, 0.1)]
    assert [stopping.goes_on(step) for step in steps] == [True, True, True, True, True, False]
    assert all(EarlyStopping(0).goes_on(step) for step in steps)


def test_a_diverging_rate_is_named_beside_the_best_one(attacked, tmp_path):
    attack = RTT(folds=2, run_folds=1, learning_rates=(1e-4, 1e30), epochs=2, warmup_steps=0)
    folders = {}
    for job in attack.plan(attacked.bundle):
        folders[job] = tmp_path / job
        folders[job].mkdir()
        attack.run_job(job, attacked, folders[job])
    assert (folders["fold0-lr1e+30"] / "diverged.json").exists()
    details = attack.collect(folders, METRICS).details
    assert {tuple(entry["diverged"]) for entry in details} == {(1e30,)}
    assert {entry["learning_rate"] for entry in details} == {1e-4}


def test_adapters_learn_what_they_are_trained_on_and_are_scored(attacked, bundle, tmp_path):
    with_adapters = settings(tuning="lora", lora_rank=8, epochs=6, loss_tokens="answer")
    rows = bundle.forget.train
    retrain_and_score(with_adapters, 1e-2, attacked, Lesson(Texts(rows, FORMAT, True), rows), tmp_path)
    first, last = (read_records(tmp_path / f"epoch{epoch}.jsonl") for epoch in (0, 6))
    assert [row.id for row in first] == [row.id for row in last]
    before, after = (sum(sum(row.logps) for row in records) / len(records) for records in (first, last))
    assert after > before + 0.5  # nats per answer
    attack = RTT(folds=2, tuning="lora", lora_rank=8)
    assert "LoRA of rank 8 on all linear layers" in attack.budget(bundle)["optimizer"]


def test_adapters_that_do_not_fit_are_refused_before_any_weight_is_loaded(attacked, tmp_path):
    (tmp_path / "config.json").write_text((attacked.folder / "config.json").read_text())  # a config and nothing else
    bare = replace(attacked, folder=tmp_path)
    RTT(folds=2, tuning="lora", lora_rank=16).check(bare)
    with pytest.raises(RequestError, match=r"rtt\.lora_targets: the model has no layer called query: name"):
        RTT(folds=2, tuning="lora", lora_targets=("query",)).check(bare)
    with pytest.raises(RequestError, match=r"rtt\.lora_rank is 65, more than the \d+ of the narrowest layer"):
        RTT(folds=2, tuning="lora", lora_rank=65).check(bare)
    with pytest.raises(RequestError, match=r"relearn\.lora_rank is 100"):
        Relearn(examples=2, tuning="lora", lora_rank=100).check(bare)
    with pytest.raises(RequestError, match=r"nowhere has a config\.json that cannot be used"):
        RTT(folds=2, tuning="lora").check(replace(attacked, folder=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_rank": 0}, r"rtt\.lora_rank"),
        ({"lora_targets": ("q_proj",)}, r"rtt\.lora_targets is only for tuning: lora"),
        ({"dtype": "float16"}, r"rtt\.dtype is float16, in which AdamW"),
        ({"max_tokens": 1}, r"rtt\.max_tokens"),
        ({"patience": -1}, r"rtt\.patience"),
        ({"bf16": True, "dtype": "bfloat16"}, r"rtt\.bf16 computes float32 weights .* rtt\.dtype is bfloat16"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes, named):
    with pytest.raises(RequestError, match=named):
        RTT(**changes)


def test_quantized_weights_are_not_trained_in_full(folder):
    with model_cache.borrowed(folder) as held:
        model = held.model
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to(torch.uint8), requires_grad=False)
        refused = pytest.raises(RequestError, match=r"rtt: quantized weights.*rtt\.tuning to lora")
        with refused, Tuning().applied("rtt", model, 0):
            pass


def test_the_published_attack_runs_in_float16_and_asks_for_letters(attacked, tmp_path):
    attack = RTTPaper(learning_rates=(3.2e-6,), epochs=1, run_folds=1, max_tokens=40)
    (job,) = attack.plan(attacked.bundle)
    attack.run_job(job, attacked, tmp_path)
    records = read_records(tmp_path / "epoch1.jsonl")
    assert {row.answer.strip() for row in records} <= set("ABCD")
    assert all(len(row.choice_logps) == 4 and 0 <= row.values["mc_accuracy"] <= 1 for row in records)


def test_rows_are_trained_in_the_data_s_own_format_and_to_their_end(attacked, bundle, tmp_path):
    asks = TextFormat(template="Q: {prompt}")
    lesson = RelearnAll().lesson(bundle, asks)
    assert lesson == Lesson(Texts(bundle.forget.train, asks, True), bundle.forget.score)
    retrain_and_score(RelearnAll(batch_size=16), RATE, replace(attacked, text_format=asks), lesson, tmp_path)
    assert (tmp_path / "epoch1.jsonl").exists()


def test_the_steps_of_relearning_are_taken_at_the_rates_of_a_linear_decay(folder, bundle, monkeypatch):
    """What the optimizer has at each of four steps of the attack itself: the whole rate, then 3/4, 2/4 and 1/4."""
    taken = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **more):
        taken.append(self.param_groups[0]["lr"])
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    rows = bundle.forget.train[:7]
    with retraining(RelearnAll(batch_size=2), folder) as model:
        assert list(model.epochs(Texts(rows, FORMAT, False), 2e-5)) == [True]
    assert taken == pytest.approx([2.0e-5, 1.5e-5, 1.0e-5, 0.5e-5], rel=1e-12)
