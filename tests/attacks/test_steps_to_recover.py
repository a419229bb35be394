"""Steps to recover: what is scored when, what ends a rate, and how many steps a hidden and an unknown fact take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class, run
from knowing_model import THIRTY, train_three

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.composed import OrderedAttack
from hf_unlearn.attacks.retraining import retraining
from hf_unlearn.attacks.steps_to_recover import StepsToRecover
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import EMPTY_SET, DataBundle
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import ScoredRow, read_records, write_records
from hf_unlearn.verification.recovery import RecoveryCurve, first_reached, recovery_rows

METRICS = ("probability", "mc_accuracy")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(THIRTY)


@pytest.fixture(scope="module")
def models(made_once) -> Path:
    return made_once("three-models", train_three)


@pytest.fixture
def knowing_model(models) -> Path:
    return models / "knowing"


@pytest.fixture
def never_knew(models) -> Path:
    return models / "never"


@pytest.fixture
def hiding_model(models) -> Path:
    return models / "hiding"


def attacked(folder: Path, bundle: DataBundle) -> Attacked:
    return Attacked(folder, folder, bundle, FORMAT, METRICS)


def test_registered_defaults_are_those_of_the_dataclass():
    assert_defaults_are_those_of_the_class(ATTACKS.get("steps-to-recover"))


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        ({"max_steps": 3000}, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3000)),
        ({"max_steps": 8}, (1, 2, 4, 8)),
        ({"max_steps": 1}, (1,)),
        ({"max_steps": 7, "growth": 1.5}, (1, 2, 3, 5, 7)),
    ],
)
def test_scores_come_at_steps_that_grow_by_a_factor(settings, marks):
    assert StepsToRecover(**settings).marks == marks


def test_steps_between_marks_are_those_of_one_training(knowing_model, bundle):
    """Weights after 1, 3 and 9 steps of one training with marks are those of trainings that end there."""
    texts = StepsToRecover().lesson(bundle, FORMAT).texts

    def weights_after(marks: tuple[int, ...]) -> list[torch.Tensor]:
        with retraining(StepsToRecover(max_steps=9, adapters=False), knowing_model) as model:
            return [model.model.lm_head.weight.detach().clone() for fine in model.until(texts, 1e-3, marks) if fine]

    together = weights_after((1, 3, 9))
    for mark, found in zip((1, 3, 9), together, strict=True):
        (alone,) = weights_after((mark,))
        assert torch.equal(alone, found)
    assert not torch.equal(together[0], together[1])


def test_one_job_for_each_way_and_rate(bundle):
    attack = StepsToRecover(learning_rates=(2e-5, 1e-3))
    assert attack.plan(bundle) == [
        f"{taught}-{tuning}-lr{rate}"
        for taught in ("part", "all")
        for tuning in ("full", "lora")
        for rate in ("2e-05", "0.001")
    ]
    assert StepsToRecover(tuning="lora", taught=("all",), learning_rates=(1e-3,)).plan(bundle) == ["all-lora-lr0.001"]
    assert StepsToRecover(adapters=False, taught=("part",), learning_rates=(1e-3,)).plan(bundle) == [
        "part-full-lr0.001"
    ]


def test_peft_is_needed_only_where_adapters_are_trained():
    assert StepsToRecover().needs_adapters and StepsToRecover(tuning="lora", adapters=False).needs_adapters
    assert not StepsToRecover(adapters=False).needs_adapters


def test_costs_and_budget_are_counted_by_hand(bundle):
    attack = StepsToRecover(max_steps=8, learning_rates=(1e-4, 1e-3), retain_rows=7, batch_size=4)
    cost = attack.cost(bundle)
    asked = len(bundle.forget.score)
    groups = {row.group for row in bundle.forget.score}
    part = asked * (len(groups) // 5) // len(groups)
    assert (cost.jobs, cost.steps, cost.rows_trained) == (8, 64, 256)
    assert cost.rows_scored == 4 * 5 * (part + 7) + 4 * 5 * (asked + 7)
    budget = attack.budget(bundle)
    assert (budget["max_steps"], budget["scored_after"], budget["retain_rows"]) == (8, [1, 2, 4, 8], 7)
    assert (budget["groups_in_T"], budget["groups_in_V"]) == (24, 6)
    assert "LoRA of rank 16" in budget["optimizer"] and "full fine-tuning" in budget["optimizer"]
    assert "min_retain" not in StepsToRecover().budget(replace(bundle, retain=EMPTY_SET))


def test_what_was_hidden_is_back_after_fewer_steps_than_what_was_never_known_takes(
    knowing_model, hiding_model, never_knew, bundle, tmp_path
):
    settings = {"learning_rates": (3e-3,), "adapters": False, "batch_size": 8, "folds": 3}
    attack = StepsToRecover(max_steps=32, min_retain=0.0, **settings)
    found = {}
    for name, folder in (("target", knowing_model), ("hiding", hiding_model), ("never_knew", never_knew)):
        place = tmp_path / name
        place.mkdir()
        found[name] = run(attack, attacked(folder, bundle), place)
    rows = {
        (row.model, row.metric, row.taught): row
        for row in recovery_rows("steps-to-recover", [(name, result.curves) for name, result in found.items()])
    }
    hidden, never = (rows[name, "probability", "part"] for name in ("hiding", "never_knew"))
    assert hidden.outcome == "recovered" and hidden.steps is not None and hidden.steps <= 32
    assert hidden.more_than is not None and hidden.more_than < hidden.steps
    assert (never.outcome, never.steps, never.within) == ("never", None, 32)
    assert (hidden.floor, hidden.floor_steps) == ("never_knew", None)
    assert rows["target", "probability", "part"].steps == 0
    taught = rows["hiding", "probability", "all"], rows["never_knew", "probability", "all"]
    assert taught[0].steps is not None and (taught[1].steps is None or taught[0].steps < taught[1].steps)
    # The attack's own score is of facts that were not trained on.
    asked = {row.fact for row in replace(attack, taught=("part",)).lesson(bundle, FORMAT).asked}
    assert set(found["hiding"].scores["probability"].values) == asked
    (best,) = [row for row in found["hiding"].details if row["metric"] == "probability"]
    assert (best["trained"], best["learning_rate"]) == ("full", 3e-3)
    curve = next(each for each in found["hiding"].curves if (each.metric, each.taught) == ("probability", "part"))
    assert best["after"] == max(curve.forget) and best["before"] == curve.forget[0]
    assert curve.steps[best["step"] and curve.forget.index(best["after"])] == best["step"]


def test_adapters_are_trained_where_a_job_says_so_and_the_weights_stay(hiding_model, bundle, tmp_path):
    attack = StepsToRecover(max_steps=2, learning_rates=(1e-2,), taught=("part",), folds=3)
    results = run(attack, attacked(hiding_model, bundle), tmp_path)
    curves = {curve.tuning: curve.forget for curve in results.curves if curve.metric == "probability"}
    assert curves["full"][0] == pytest.approx(curves["lora"][0], abs=1e-6)
    assert curves["full"][-1] != pytest.approx(curves["lora"][-1], abs=1e-3)


def test_holdout_facts_are_asked_beside_and_are_the_floor_of_what_was_not_taught(hiding_model, bundle, tmp_path):
    attack = StepsToRecover(max_steps=2, learning_rates=(1e-3,), adapters=False, folds=3)
    result = run(attack, attacked(hiding_model, bundle.with_floor()), tmp_path)
    rows = recovery_rows("x", [("target", result.curves), ("m", result.curves)])
    floors = {(row.taught, row.metric): row.floor for row in rows if row.model == "m"}
    assert floors["part", "probability"] == "holdout"
    assert floors["all", "probability"] is None
    assert StepsToRecover().no_floor == "" and "very facts" in StepsToRecover(taught=("all",)).no_floor
    records = read_records(tmp_path / "part-full-lr0.001" / "step2.jsonl")
    assert {record.set for record in records} == {"forget", "holdout", "retain"}
    assert {record.id for record in records if record.set == "retain"} <= {row.id for row in bundle.retain.score}


def test_a_rate_that_breaks_the_model_ends_and_says_why(knowing_model, bundle, tmp_path):
    attack = StepsToRecover(max_steps=64, learning_rates=(0.3, 1e30), adapters=False, taught=("part",), folds=3)
    result = run(attack, attacked(knowing_model, bundle), tmp_path)
    ended = {curve.learning_rate: (curve.ended, curve.steps[-1]) for curve in result.curves}
    assert ended[0.3][0] == "retain lost" and ended[0.3][1] < 64
    assert ended[1e30][0] in ("diverged", "retain lost") and ended[1e30][1] < 64


def records(forget: float, retain: float) -> list[ScoredRow]:
    return [
        ScoredRow(split, split, split, split, values={"probability": value})
        for split, value in (("forget", forget), ("retain", retain))
    ]


def test_curves_are_read_as_they_were_written(tmp_path):
    for step, (forget, retain) in {0: (0.1, 0.8), 1: (0.3, 0.6), 2: (0.6, 0.2)}.items():
        write_records(tmp_path / f"step{step}.jsonl", records(forget, retain))
    (tmp_path / "end.json").write_text(json.dumps({"ended": "retain lost"}))
    result = StepsToRecover().collect({"all-lora-lr0.0003": tmp_path}, METRICS)
    assert result.curves == (
        RecoveryCurve(
            "probability",
            "all",
            "lora",
            3e-4,
            (0, 1, 2),
            (0.1, 0.3, 0.6),
            (),
            (1.0, pytest.approx(0.75), pytest.approx(0.25)),
            "retain lost",
        ),
    )


def curve(model_rate: float, steps: tuple[int, ...], forget: tuple[float, ...], **more) -> RecoveryCurve:
    given = {"holdout": (), "retained": (), "ended": "steps", "taught": "part", "tuning": "full", **more}
    return RecoveryCurve("probability", learning_rate=model_rate, steps=steps, forget=forget, **given)


def test_steps_to_half_by_hand():
    """Half of the target's 0.9 is 0.45: at rate 1e-3 it is there after 4 steps and not after 2, at 1e-4 after 8."""
    slow = curve(1e-4, (0, 1, 2, 4, 8), (0.0, 0.0, 0.1, 0.2, 0.45))
    fast = curve(1e-3, (0, 1, 2, 4), (0.0, 0.1, 0.4, 0.5))
    found = first_reached([slow, fast], 0.45)
    assert found is not None
    assert (found.steps, found.more_than, found.learning_rate) == (4, 2, 1e-3)
    assert first_reached([slow, fast], 0.51) is None
    target = curve(1e-4, (0, 1), (0.9, 0.95))
    never = curve(1e-4, (0, 1, 2, 4, 8), (0.0, 0.0, 0.0, 0.1, 0.2))
    rows = {
        row.model: row
        for row in recovery_rows("a", [("target", [target]), ("m", [slow, fast]), ("never_knew", [never])])
    }
    assert (rows["m"].half, rows["m"].steps, rows["m"].more_than, rows["m"].within) == (0.45, 4, 2, 8)
    assert rows["m"].ended == "steps"
    assert (rows["m"].outcome, rows["m"].floor, rows["m"].floor_steps) == ("recovered", "never_knew", None)
    assert (rows["never_knew"].outcome, rows["never_knew"].steps, rows["never_knew"].within) == ("never", None, 8)
    assert (rows["target"].steps, rows["target"].more_than) == (0, None)


def test_without_a_target_or_where_it_knows_nothing_there_are_no_numbers():
    own = curve(1e-4, (0, 1), (0.5, 0.6))
    assert recovery_rows("a", [("m", [own])]) == []
    assert recovery_rows("a", [("target", [curve(1e-4, (0,), (0.0,))]), ("m", [own])]) == []


def test_quantized_after_or_before_it_has_curves_too(hiding_model, bundle, tmp_path):
    inner = StepsToRecover(max_steps=1, learning_rates=(1e-3,), adapters=False, taught=("part",), folds=3)
    ordered = OrderedAttack("steps-to-recover", inner, then="rtn-int4-g32")
    result = run(ordered, attacked(hiding_model, bundle), tmp_path)
    assert [each.steps for each in result.curves] == [(0, 1)] * 2
    assert ordered.no_floor == ""


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_steps": 0}, r"steps-to-recover\.max_steps is 0"),
        ({"growth": 1.0}, r"steps-to-recover\.growth is 1\.0: it must be at least 1\.1"),
        ({"min_retain": 1.0}, r"steps-to-recover\.min_retain is 1\.0"),
        ({"retain_rows": 0}, r"steps-to-recover\.retain_rows"),
        ({"taught": ()}, r"steps-to-recover\.taught is empty: name part, all or both"),
        ({"taught": ("all", "all")}, r"steps-to-recover\.taught names one twice"),
        ({"folds": 1}, r"steps-to-recover\.folds is 1"),
        ({"learning_rates": (0.0,)}, r"steps-to-recover\.learning_rates"),
        ({"lora_rank": 0}, r"steps-to-recover\.lora_rank is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, named):
    with pytest.raises(RequestError, match=named):
        StepsToRecover(**settings)


def test_epochs_are_no_key_of_it(tmp_path):
    from small_recipe import SMALL, recipe_of

    with pytest.raises(RequestError, match=r"unknown key 'attack\.steps-to-recover\.epochs'"):
        recipe_of(tmp_path, SMALL + "attack: {steps-to-recover: {epochs: 3}}\n")
    recipe = recipe_of(tmp_path, SMALL + "attack: {steps-to-recover: {max_steps: 5}}\n")
    assert recipe.attack["steps-to-recover"] == StepsToRecover(max_steps=5)


def test_rows_without_training_rows_are_refused(bundle):
    with pytest.raises(RequestError, match=r"steps-to-recover has no rows to train on: give the facts"):
        StepsToRecover(taught=("all",)).plan(replace(bundle, forget=replace(bundle.forget, train=())))
