"""Retrain or unlearn, and times that were measured: arithmetic by hand on a machine of round rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from families import tiny_config

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.evaluation.spec import EvalSpec, set_requests
from hf_unlearn.models.loading import empty_model_of
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.planning.advice import Advice, Cost, Retraining, better_of, requests_per_retraining
from hf_unlearn.planning.fixed import START, STEP, UNITS, fixed_seconds
from hf_unlearn.planning.machines import GIB, Machine, Rate
from hf_unlearn.planning.measured import Measured
from hf_unlearn.planning.plan import make_plan
from hf_unlearn.planning.run_plan import Asked, PlanInput, RunPlan, StagePlan
from hf_unlearn.planning.shape import shape_of
from hf_unlearn.planning.training import Devices, TrainingInput
from hf_unlearn.planning.words import advice, table, total
from hf_unlearn.stages.earlier_rows import request_bundle
from hf_unlearn.stages.measured import measured_in, request_seconds
from hf_unlearn.stages.units import Unit

RATES = {"float32": Rate(1e9, 4e9), "bfloat16": Rate(1e9, 4e9)}
HERE = Devices(Machine("here", 8 * GIB, RATES, "for a test", here=True))
ELSEWHERE = Devices(replace(HERE.machine, here=False))
SPEC = ScratchSpec(epochs=3, batch_size=4)


def examples(name: str, count: int) -> tuple[Example, ...]:
    ids = [f"{name}-{number}" for number in range(count)]
    return tuple(Example(each, "a question?", " an answer", each, each) for each in ids)


def encode(row: Example) -> EncodedRow:
    """Ten tokens, four of them of the answer."""
    return EncodedRow(row.id, (1,) * 10, 6)


def given(**changed: object) -> PlanInput:
    forget, retain = examples("forget", 8), examples("retain", 10)
    model = empty_model_of(tiny_config("llama"))
    rows = [[encode(row) for row in each] for each in (forget, retain)]
    training = TrainingInput("npo", {"max_steps": 5, "loss_type": "npo"}, 0, *rows, model)
    known = PlanInput(
        name="plan",
        model_name="target",
        model=model,
        bundle=DataBundle(RowSet(forget, forget), RowSet(retain, retain)),
        encode=encode,
        trainings=(training,),
        models=2,
        built=None,
        formats=("bf16",),
        published=(),
        requests=lambda sets: set_requests(sets, EvalSpec(), {}),
        fluency_tokens=8,
        metrics_generate=0,
        attacks={},
        dtype="float32",
        methods=("npo",),
    )
    return replace(known, **changed)  # type: ignore[arg-type]


def stage(plan: RunPlan, name: str) -> StagePlan:
    (found,) = [each for each in plan.stages if each.stage == name]
    return found


def without_building(plan: RunPlan) -> list[float]:
    return [sum(each.seconds[end] for each in plan.stages if each.stage != "models") for end in (0, 1)]


@pytest.mark.parametrize(
    ("retraining", "unlearning", "ratio", "better"),
    [
        (Cost((300.0, 1200.0)), Cost((100.0, 400.0)), (3.0, 3.0), "unlearn"),
        (Cost((300.0, 1200.0)), Cost((100.0, 600.0)), (2.0, 3.0), "unlearn"),
        (Cost((20.0, 80.0)), Cost((100.0, 400.0)), (0.2, 0.2), "retrain"),
        (Cost((300.0, 300.0), True), Cost((100.0, 600.0)), (0.5, 3.0), "either"),
        (Cost((300.0, 1200.0)), Cost((240.0, 240.0), True), (1.25, 5.0), "unlearn"),
        (Cost((90.0, 90.0), True), Cost((180.0, 180.0), True), (0.5, 0.5), "retrain"),
    ],
)
def test_requests_for_the_cost_of_one_retraining(retraining, unlearning, ratio, better):
    assert requests_per_retraining(retraining, unlearning) == pytest.approx(ratio)
    assert better_of(ratio) == better


def test_a_retraining_of_so_many_tokens_is_six_operations_for_each_weight_and_token():
    plan = make_plan(given(retraining=Retraining(tokens=1e9)), ELSEWHERE)
    shape = shape_of(empty_model_of(tiny_config("llama")))
    operations = 6 * 1e9 * (shape.body + shape.head) + 6 * 1e9 * sum(
        each.scores + each.values for each in shape.attention
    )
    told = plan.advice
    assert isinstance(told, Advice) and told.retrain_tokens == 1e9 and told.retrain_source == "--retrain-tokens"
    assert told.retrain_seconds == pytest.approx((operations / 4e9, operations / 1e9))
    assert told.request_seconds == pytest.approx(without_building(plan))
    assert told.unlearn_seconds == stage(plan, "train").seconds
    ratio = [mine / its for mine, its in zip(told.retrain_seconds, told.request_seconds, strict=True)]
    assert told.requests_per_retraining == pytest.approx(sorted(ratio)) and told.better == "unlearn"


def test_a_model_built_from_scratch_is_retrained_as_its_recipe_says():
    rows = examples("retain", 10)
    plan = make_plan(given(built=(2, SPEC), retraining=Retraining(spec=SPEC, rows=rows)), ELSEWHERE)
    told = plan.advice
    # Ten rows of ten tokens, three epochs; three steps of at most four rows in each.
    assert told is not None and told.retrain_tokens == 300
    least, most = fixed_seconds("models", 1, 1, 9)
    assert (least, most) == pytest.approx((UNITS["models"] + 9 * STEP, 2 * UNITS["models"] + 18 * STEP))
    operations = (told.retrain_seconds[0] - least) * 4e9
    assert told.retrain_seconds[1] == pytest.approx(most + operations / 1e9)
    # Two models of 18 rows were planned before: 540 tokens each.
    built = stage(plan, "models")
    assert built.tokens == 1080 and built.steps == 2 * 3 * 5
    assert operations / 300 == pytest.approx(built.operations / 1080)
    assert told.request_seconds == pytest.approx(without_building(plan)) and told.better == "retrain"
    (words,) = advice(plan)
    assert "Retraining is the better choice here" in words and "300 tokens, by the recipe" in words
    fewest = 1 / told.requests_per_retraining[1]
    assert fewest > 10 and f"One request costs as much as {fewest:.0f} " in words


def test_without_a_word_about_its_training_the_option_is_named():
    plan = make_plan(given(), ELSEWHERE)
    (words,) = advice(plan)
    assert plan.advice is None and "--retrain-tokens N" in words
    assert advice(make_plan(given(trainings=()), ELSEWHERE)) == []


def test_earlier_requests_are_asked_again_and_left_out_of_a_retraining():
    earlier = examples("earlier", 6)
    bundle = request_bundle(given().bundle, RowSet(earlier, earlier))
    asked = {"first": Asked(bundle, models=1, attacks={})}
    plan = make_plan(given(earlier=asked, retraining=Retraining(tokens=1e9)), ELSEWHERE)
    again = [each for each in plan.stages if each.what.startswith("first: ")]
    assert [(each.stage, each.what) for each in again] == [
        ("export", "first: 1 model in 1 format"),
        ("evaluate", "first: 2 models, 2 times"),
    ]
    assert again[1].tokens == 2 * 2 * 6 * 10
    assert plan.advice is not None and plan.advice.earlier == 1
    assert "without these rows and those of 1 earlier request takes" in advice(plan)[0]


MEASURED = Measured("runs/before", {"npo": 2.0}, {"export": 4.0, "evaluate": 6.0, "verify": 9.0})


def test_measured_times_replace_planned_ones_on_this_machine_alone():
    known = given(measured=MEASURED, workers=2, retraining=Retraining(tokens=1e9))
    plan = make_plan(known, HERE)
    assert stage(plan, "train").seconds == (10.0, 10.0)  # five steps
    assert stage(plan, "export").seconds == (4.0, 4.0)  # two models in one format, two workers
    assert stage(plan, "evaluate").seconds == (12.0, 12.0)  # two models, as they are and in the format
    assert stage(plan, "verify").seconds == (9.0, 9.0)
    start = stage(plan, "start").seconds
    assert start == (1.5 * START, 2 * START) and plan.measured_in == "runs/before"
    assert plan.advice is not None and plan.advice.measured == ("request",)
    publish = stage(plan, "publish").seconds
    assert publish == (UNITS["publish"], 2 * UNITS["publish"])
    assert plan.advice.request_seconds == pytest.approx((start[0] + 35 + publish[0], start[1] + 35 + publish[1]))
    assert total(plan).endswith("; time of train, export, evaluate, verify as measured in runs/before")
    there = make_plan(known, ELSEWHERE)
    assert there.measured_in is None and there.advice is not None and there.advice.measured == ()
    assert not any(each.measured for each in there.stages)


def test_the_request_before_tells_what_one_costs():
    known = given(
        retraining=Retraining(spec=SPEC, rows=examples("retain", 10), seconds=50.0),
        earlier_request=(200.0, "runs/first"),
    )
    told = make_plan(known, HERE).advice
    assert told is not None and told.measured == ("retraining", "request") and told.measured_in == "runs/first"
    assert told.retrain_seconds == (50.0, 50.0) and told.request_seconds == (200.0, 200.0)
    assert told.requests_per_retraining == (0.25, 0.25) and told.better == "retrain"
    planned = make_plan(known, ELSEWHERE).advice
    assert planned is not None and planned.measured == ()


def test_work_that_costs_nothing_still_takes_its_time():
    plan = make_plan(given(), ELSEWHERE)
    lines = table(plan)
    for name in ("start", "train", "export", "evaluate", "verify"):
        assert stage(plan, name).seconds[0] > 0
        assert any(line.startswith(name) and line.endswith((" s", "min")) for line in lines)
    assert fixed_seconds("attack", 10, 2, 100) == pytest.approx(
        (0.5 * UNITS["attack"] * 10 + 50 * STEP, 2 * (1.0 + 100 * STEP))
    )


def unit(folder: Path, seconds: float, books: dict[str, object] | None = None) -> None:
    """A finished unit that took so long."""
    made = Unit(folder, {"of": folder.name})
    made.run(lambda out: (out / "training.json").write_text(json.dumps(books or {})) and None)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 0 <= manifest["seconds"] < 60
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seconds": seconds}))


def run_of(folder: Path, methods: Sequence[str]) -> Path:
    for name in methods:
        unit(folder / "train" / name if len(methods) > 1 else folder / "train", 30.0, {"steps": 20})
    unit(folder / "references" / "train" / "hidden", 8.0, {"steps": 16})
    unit(folder / "references" / "evaluate" / "target" / "identity", 2.0)
    unit(folder / "evaluate" / "identity", 4.0)
    unit(folder / "attack" / "rtt" / "fold0", 5.0)
    unit(folder / "references" / "attack" / "target" / "rtt" / "fold0", 6.0)
    unit(folder / "verify", 7.0)
    return folder


@pytest.mark.parametrize("methods", [["one"], ["one", "two"]])
def test_what_a_run_took_is_read_from_its_manifests(methods, tmp_path):
    run = run_of(tmp_path / ".hidden" / "run", methods)
    (run / "train.partial").mkdir()
    found = measured_in(run, methods)
    assert found.steps == {**dict.fromkeys(methods, 1.5), "hidden": 0.5}
    assert found.units == {"evaluate": 3.0, "attack rtt": 5.5, "verify": 7.0}
    assert request_seconds(run, 2) == (30 * len(methods) + 8 + 2 + 4 + 5 + 6 + 7) / 2
    assert measured_in(tmp_path / "nowhere", methods) == Measured(str(tmp_path / "nowhere"))


def test_a_unit_that_went_on_with_an_earlier_attempt_has_no_time(tmp_path):
    run = run_of(tmp_path / "run", ["one"])

    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    going_on = Unit(run / "export" / "bf16", {"of": "bf16"}, keep_partial=True)
    with pytest.raises(KeyboardInterrupt):
        going_on.run(stop)
    going_on.run(lambda folder: None)
    assert going_on.done and "export" not in measured_in(run, ["one"]).units
    assert request_seconds(run, 1) is None  # it would be too short
