"""Relearning, benign fine-tuning and pruning: what each may see, and that each brings back what is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.best import Try, best_of
from hf_unlearn.attacks.finetune import FinetuneGeneric, FinetuneRetain
from hf_unlearn.attacks.finetune_relearn import FinetuneRelearn
from hf_unlearn.attacks.prune import Prune, prune_smallest
from hf_unlearn.attacks.relearn import Relearn, RelearnAll
from hf_unlearn.attacks.retrained_model import Retraining
from hf_unlearn.attacks.retraining import _epochs, retraining
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import EMPTY_SET, DataBundle, Example
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization.base import body_layers
from hf_unlearn.verification.scores import FactScores

METRICS = ("probability", "mc_accuracy", "rouge_l")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=12, retain=8, holdout=0, practice=4, generic=4, first_year=1960))


@pytest.fixture(scope="module")
def knowing_model(bundle, tmp_path_factory) -> Path:
    return train_knowing_model(bundle, tmp_path_factory.mktemp("knowing"), epochs=20, batch_size=8)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """Every row that an attack trains on."""
    rows_seen: list[Example] = []
    epochs = Retraining.epochs

    def watched(self, texts, rate, count=None):
        rows_seen.extend(texts.rows)
        return epochs(self, texts, rate, count)

    monkeypatch.setattr(Retraining, "epochs", watched)
    return rows_seen


@pytest.mark.parametrize(
    "name", ["relearn", "relearn-all", "finetune-retain", "finetune-generic", "finetune-relearn", "prune"]
)
def test_registered_defaults_are_those_of_the_dataclass(name):
    assert_defaults_are_those_of_the_class(ATTACKS.get(name))


def test_relearning_never_asks_for_a_fact_it_trained_on(knowing_model, bundle, trained, tmp_path):
    attack = Relearn(examples=4, learning_rates=(1e-4,), epochs=1)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    asked = {record.fact for record in read_records(tmp_path / "epoch1.jsonl")}
    learned = {row.fact for row in trained}
    assert len(learned) == 4
    assert not learned & asked
    assert learned | asked == {row.fact for row in bundle.forget.score}
    budget = attack.budget(bundle)
    assert (budget["facts_trained_on"], budget["facts_asked_for"]) == (4, 8)


def test_relearning_needs_a_fact_left_to_ask_for(bundle):
    with pytest.raises(RequestError, match=r"forget set has 12 facts.*relearn-all"):
        Relearn(examples=12).plan(bundle)


@pytest.mark.parametrize(("kind", "wanted"), [(FinetuneRetain, "retain"), (FinetuneGeneric, "generic")])
def test_benign_fine_tuning_sees_its_own_set_only(kind, wanted, knowing_model, bundle, trained, tmp_path):
    attack = kind(learning_rates=(1e-4,), epochs=1)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    assert trained == list(getattr(bundle, wanted).train)
    assert {record.fact for record in read_records(tmp_path / "epoch1.jsonl")} == {
        row.fact for row in bundle.forget.score
    }
    with pytest.raises(RequestError, match=rf"there is none: name data\.{wanted}"):
        attack.plan(replace(bundle, **{wanted: EMPTY_SET}))


@pytest.mark.parametrize("first", ["retain", "generic"])
def test_relearning_after_benign_fine_tuning_sees_both_sets_in_turn(first, knowing_model, bundle, trained, tmp_path):
    attack = FinetuneRelearn(first=first, first_epochs=2, examples=4, learning_rates=(1e-4,), epochs=3)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    benign = getattr(bundle, first).train
    assert trained[: len(benign)] == list(benign)
    learned = {row.fact for row in trained[len(benign) :]}
    assert len(learned) == 4 and learned <= {row.fact for row in bundle.forget.train}
    assert sorted(path.name for path in tmp_path.glob("epoch*")) == [f"epoch{epoch}.jsonl" for epoch in range(6)]
    asked = {record.fact for record in read_records(tmp_path / "epoch5.jsonl")}
    assert asked == {row.fact for row in bundle.forget.score} - learned
    with pytest.raises(RequestError, match=rf"trains on the {first} set, and there is none: name data\.{first}"):
        attack.plan(replace(bundle, **{first: EMPTY_SET}))


def test_the_steps_of_both_are_those_of_two_trainings(knowing_model, bundle):
    """Weights after 1 + 2 epochs are those of one epoch on retain rows, and two on the facts with a new optimizer."""
    attack = FinetuneRelearn(first_epochs=1, examples=4, epochs=2, learning_rates=(1e-3,), batch_size=8)
    lesson = attack.lesson(bundle, FORMAT)
    with retraining(attack, knowing_model) as model:
        assert all(_epochs(model, lesson, 1e-3))
        together = model.model.lm_head.weight.detach().clone()
    with retraining(attack, knowing_model) as model:
        for texts, count in ((lesson.first, 1), (lesson.texts, 2)):
            assert list(model.epochs(texts, 1e-3, count)) == [True] * count
        assert torch.equal(together, model.model.lm_head.weight)
    with retraining(attack, knowing_model) as model:
        assert list(model.epochs(lesson.texts, 1e-3, 2)) == [True] * 2
        assert not torch.equal(together, model.model.lm_head.weight)


def test_both_parts_are_counted(bundle):
    attack = FinetuneRelearn(first_epochs=2, examples=4, epochs=3, learning_rates=(1e-4, 1e-3), batch_size=7)
    lesson = attack.lesson(bundle, FORMAT)
    steps = 2 * (2 * -(-len(bundle.retain.train) // 7) + 3 * -(-len(lesson.texts.rows) // 7))
    cost = attack.cost(bundle)
    assert (cost.jobs, cost.steps, cost.rows_scored) == (2, steps, 2 * len(bundle.forget.score) * 6)
    budget = attack.budget(bundle)
    assert (budget["first_trained_on"], budget["first_rows"], budget["first_epochs"]) == (
        "retain",
        len(bundle.retain.train),
        2,
    )
    assert (budget["facts_trained_on"], budget["facts_asked_for"]) == (4, 8)


def test_patience_does_not_end_it_before_the_facts_come(knowing_model, bundle, tmp_path):
    attack = FinetuneRelearn(first_epochs=3, examples=4, epochs=2, learning_rates=(1e-9,), patience=1)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    assert len(list(tmp_path.glob("epoch*.jsonl"))) == 5  # before, 3 benign, the first of two that gained nothing
    assert (tmp_path / "stopped.json").exists()


def test_relearning_everything_teaches_it(knowing_model, bundle, tmp_path):
    """A model whose output head was wiped learns the forget set again from the forget set."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(knowing_model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    wiped = tmp_path / "wiped"
    model.save_pretrained(wiped)
    AutoTokenizer.from_pretrained(knowing_model).save_pretrained(wiped)
    attack = RelearnAll(learning_rates=(3e-3,), epochs=6, batch_size=8)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(wiped, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    result = attack.collect({job: tmp_path}, METRICS)
    (detail,) = [entry for entry in result.details if entry["metric"] == "probability"]
    assert detail["before"] < 0.01
    assert detail["after"] > 0.1
    assert result.scores["probability"].mean == detail["after"]
    assert "rouge_l" not in result.scores


def test_pruning_zeroes_the_smallest_of_each_matrix():
    weight = torch.tensor([[0.5, -0.1, 0.3], [0.2, -0.1, -4.0]])
    prune_smallest(weight, 0.34)
    assert weight.tolist() == [[0.5, 0.0, pytest.approx(0.3)], [pytest.approx(0.2), 0.0, -4.0]]
    prune_smallest(weight, 0.1)  # less than one weight
    assert (weight == 0).sum() == 2


def test_pruning_takes_off_a_mask_of_small_weights(knowing_model, bundle, tmp_path):
    """A model whose smallest weights were pruned and then filled with noise: the same share of pruning undoes that."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(knowing_model)
    generator = torch.Generator().manual_seed(0)
    before, masked = tmp_path / "before", tmp_path / "masked"
    with torch.no_grad():
        weights = [layer.weight for layer in body_layers(model, "pruning").values()]
        for weight in weights:
            prune_smallest(weight, 0.3)
        model.save_pretrained(before)
        for weight in weights:
            least = weight[weight != 0].abs().min()
            noise = 0.99 * least * torch.randn(weight.shape, generator=generator).sign()
            weight.copy_(torch.where(weight == 0, noise, weight))
        model.save_pretrained(masked)
    for folder in (before, masked):
        AutoTokenizer.from_pretrained(knowing_model).save_pretrained(folder)
    attack = Prune(shares=(0.1, 0.3))
    jobs = {}
    for job in attack.plan(bundle):
        jobs[job] = tmp_path / job
        jobs[job].mkdir()
        attack.run_job(job, Attacked(masked, before, bundle, FORMAT, METRICS), jobs[job])
    model = load_model(before)
    tokenizer = AutoTokenizer.from_pretrained(before)
    wanted = {row.id: row.logps for row in score_rows(model, tokenizer, {"forget": bundle.forget.score}, FORMAT)}
    found = {row.id: row.logps for row in read_records(jobs["share0.3"] / "epoch1.jsonl")}
    still_masked = {row.id: row.logps for row in read_records(jobs["share0.3"] / "epoch0.jsonl")}
    assert found.keys() == wanted.keys()
    for key, logps in wanted.items():
        assert found[key] == pytest.approx(logps, abs=1e-5)
    assert any(still_masked[key] != pytest.approx(logps, abs=1e-3) for key, logps in wanted.items())
    result = attack.collect(jobs, METRICS)
    (detail,) = [entry for entry in result.details if entry["metric"] == "probability"]
    assert detail["share"] in (0.1, 0.3)
    assert detail["after"] >= detail["before"]


def test_the_attacker_takes_the_best_try_of_each_fold_and_the_cheapest_of_equals():
    def scored(*values: float) -> dict[tuple[str, str], FactScores]:
        facts = {f"f{index}": value for index, value in enumerate(values)}
        return {("forget", "probability"): FactScores(facts, dict.fromkeys(facts, "g"))}

    tries = [
        Try(0, 0.1, 0, scored(0.0, 0.2)),
        Try(0, 0.1, 2, scored(0.5, 0.5)),
        Try(0, 0.1, 1, scored(0.6, 0.4)),
        Try(0, 0.3, 1, scored(0.9, 0.1)),
    ]
    result = best_of(tries, ["probability", "mc_accuracy"])
    assert dict(result.scores["probability"].values) == {"f0": 0.6, "f1": 0.4}
    assert result.details == [
        {"metric": "probability", "fold": 0, "learning_rate": 0.1, "epoch": 1, "before": 0.1, "after": 0.5}
    ]
    assert "mc_accuracy" not in result.scores


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Relearn(examples=0), r"relearn\.examples"),
        (lambda: Relearn(learning_rates=()), r"relearn\.learning_rates"),
        (lambda: RelearnAll(epochs=0), r"relearn-all\.epochs"),
        (lambda: FinetuneRetain(learning_rates=(0.1, 0.1)), r"finetune-retain\.learning_rates.*twice"),
        (lambda: FinetuneRelearn(first_epochs=0), r"finetune-relearn\.first_epochs is 0"),
        (lambda: FinetuneRelearn(examples=0), r"finetune-relearn\.examples is 0"),
        (lambda: FinetuneGeneric(batch_size=0), r"finetune-generic\.batch_size"),
        (lambda: Prune(shares=(1.0,)), r"prune\.shares"),
        (lambda: Prune(shares=(0.1, 0.1)), r"prune\.shares.*twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()
