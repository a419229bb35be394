"""The plan of a run: what each stage does and takes, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

from ..attacks.base import Attack
from ..attacks.composed import OrderedAttack, after_of, bare
from ..attacks.retraining_settings import RetrainingSettings
from ..data.encoding import EncodedRow
from ..data.example import Example
from ..models.loading import DTYPES
from ..models.memory import batch_budget
from ..quantization import FORMATS
from .attack_memory import AttackedShape, longest_row
from .attack_tuning import attack_mend, trained_by
from .building import building
from .disk import checkpoint_bytes, model_bytes, variant_bytes
from .fixed import added, fixed_seconds, started_seconds
from .machines import computed_in
from .measured import Measured
from .memory import MARGIN, SHARDS_WEIGHTS, Memory, inference_memory
from .operations import Pass, forward, training
from .records import FOLDER, MODEL_FOLDER, Told, generated_bytes, records_bytes, text_bytes
from .retraining import advise
from .run_plan import PlanInput, RunPlan, StagePlan
from .shape import ModelShape, shape_of
from .training import Devices, TrainingInput, TrainingPlan, plan_training, what_would_fit
from .work import Rows, counted, mean


def make_plan(given: PlanInput, devices: Devices, disk_free: int | None = None) -> RunPlan:
    """Plan a run.

    Args:
        given: The run.
        devices: What it is on.
        disk_free: Bytes free where it writes.

    Raises:
        RequestError: Settings do not go together, or do not fit the model.
    """
    shape = shape_of(given.model)
    if not devices.machine.here:
        given = replace(given, measured=Measured(""))
    told = Told(given.models * (1 + len(given.formats) + len(given.attacks)))
    stages = [
        StagePlan("start", "imports and checks", seconds=started_seconds(given.workers)),
        *_built(given, shape, devices),
        *(_training(given, each, devices) for each in given.trainings),
        *_exports(given, shape),
        _evaluation(given, shape, devices),
        *_attacks(given, shape, devices),
        *_asked_again(given, shape, devices),
        _judging(given, told),
        *_publishing(given, shape, told),
    ]
    machine = devices.machine
    return RunPlan(
        given.name,
        given.model_name,
        shape.family,
        shape.parameters,
        machine.name,
        machine.memory,
        machine.source,
        devices.count,
        devices.strategy,
        tuple(stages),
        disk_free,
        advise(given, shape, devices, stages),
        given.measured.source if any(stage.measured for stage in stages) else None,
    )


def surely_too_much(memory: Memory, limit: int | None) -> bool:
    """Whether a peak is above a limit even if it was planned too high by as much as plans are."""
    return limit is not None and memory.peak * (1 - MARGIN) > limit


def _fits(memory: Memory, devices: Devices) -> bool | None:
    limit = devices.machine.memory
    return None if limit is None else memory.peak <= limit


def _weights_fit(memory: Memory, devices: Devices) -> bool | None:
    """Scoring makes its batches smaller where memory is short, so only the weights have to fit."""
    limit = devices.machine.memory
    return None if limit is None else memory.weights <= limit


def _built(given: PlanInput, shape: ModelShape, devices: Devices) -> list[StagePlan]:
    if given.built is None:
        return []
    models, spec = given.built
    bundle = given.bundle
    sets = (bundle.forget, bundle.retain, bundle.practice, bundle.generic, *bundle.extra.values())
    one = building(shape, spec, [given.encode(row) for each in sets for row in each.train])
    operations = models * one.operations
    fixed = fixed_seconds("models", models, given.workers, models * one.steps)
    return [
        StagePlan(
            "models",
            f"{models} built from {'scratch' if spec.base is None else 'the base'}",
            steps=models * one.steps,
            tokens=models * one.tokens,
            operations=operations,
            seconds=added(devices.seconds(operations, computed_in(spec.bf16)), fixed),
            note="at most: built models are kept in a cache for other runs",
        )
    ]


def _training(given: PlanInput, training_run: TrainingInput, devices: Devices) -> StagePlan:
    plan = plan_training(training_run, devices)
    fits = _fits(plan.memory, devices)
    if plan.args.auto_find_batch_size and fits is False:
        smallest = {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": plan.args.gradient_accumulation_steps
            * plan.args.per_device_train_batch_size,
        }
        plan = plan_training(training_run, devices, smallest)
        fits = _fits(plan.memory, devices)
    mend = None
    if fits is False:
        mend = what_would_fit(training_run, devices, lambda memory: bool(_fits(memory, devices)))
    itemsize = DTYPES[given.dtype].itemsize
    steps = plan.work.steps + plan.work.extra_steps
    measured = given.measured.training(training_run.name, plan.work.steps)
    fixed = fixed_seconds("train", 1, 1, steps)
    return StagePlan(
        "train",
        training_run.name,
        steps=steps,
        tokens=plan.work.forward_backward.tokens,
        exact=plan.work.exact,
        operations=plan.operations,
        seconds=measured or added(devices.seconds(plan.operations, plan.computed, devices.count), fixed),
        memory=plan.memory,
        disk=model_bytes(plan.shape, itemsize) + given.tokenizer + MODEL_FOLDER,
        small=MODEL_FOLDER,
        scratch_disk=0 if training_run.name in given.trained else _checkpoints(plan),
        fits=fits,
        mend=mend,
        note="; ".join(_notes(plan)),
        measured=measured is not None,
    )


def _notes(plan: TrainingPlan) -> list[str]:
    notes = []
    if plan.work.may_end_early:
        notes.append("at most: rounds end when nothing comes back")
    if plan.work.extra_steps:
        notes.append(f"{plan.work.extra_steps} of the steps are rehearsed attacks")
    if plan.by_rule:
        notes.append("activations by a rule of thumb")
    return notes


def _checkpoints(plan: TrainingPlan) -> int:
    """Those that are kept, and the one that is written before an old one is removed."""
    args = plan.args
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy == "no":
        return 0
    every = args.save_steps if args.save_steps >= 1 else max(1, round(args.save_steps * plan.work.steps))
    saved = plan.work.steps // max(1, int(every)) if strategy == "steps" else plan.work.steps
    at_once = min(saved + 1, (args.save_total_limit or saved) + 1)  # the last step is saved, too
    return at_once * checkpoint_bytes(plan.shape, plan.stored, alone=args.save_only_model)


def _exports(given: PlanInput, shape: ModelShape) -> list[StagePlan]:
    """The source in float32 beside what is written of it, one format after the other."""
    if not given.formats:
        return []
    itemsize = DTYPES[given.dtype].itemsize
    widest = max(FORMATS.get(name).value.bits for name in given.formats)
    memory = inference_memory(shape, 4 + widest / 8, 4, 64, 64)
    disk = given.models * sum(variant_bytes(shape, name, itemsize) for name in given.formats)
    what = f"{_several(given.models, 'model')} in {_several(len(given.formats), 'format')}"
    folders = given.models * len(given.formats)
    small = folders * MODEL_FOLDER
    disk += folders * given.tokenizer + small
    measured = given.measured.work("export", folders, given.workers)
    seconds = measured or fixed_seconds("export", folders, given.workers)
    return [
        StagePlan(
            "export", what, seconds=seconds, memory=memory, disk=disk, small=small, measured=measured is not None
        )
    ]


def _several(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _evaluation(given: PlanInput, shape: ModelShape, devices: Devices) -> StagePlan:
    """Every model as it is and in every format; a row with options is scored with all of them."""
    rows = Rows()
    for each in given.bundle.scored_sets().values():
        for row in each:
            rows += _scored(given.encode(row), row)
    generated = sum(len(each) for each in given.bundle.scored_sets().values()) * given.metrics_generate
    passes = given.models * (1 + len(given.formats))
    operations = passes * (forward(shape, _as_pass(rows)) + forward(shape, Pass(generated, 1, generated)))
    itemsize = DTYPES[given.dtype].itemsize
    device = "cuda" if devices.machine.accelerator else "cpu"
    memory = inference_memory(shape, itemsize, itemsize, _budget(device), _budget(device) // 4)
    measured = given.measured.work("evaluate", passes, given.workers)
    fixed = fixed_seconds("evaluate", passes, given.workers)
    disk = passes * _evaluated_bytes(given, shape)
    note = ""
    if _weights_fit(memory, devices) is False and devices.machine.accelerator and devices.count > 1:
        memory, note = _spread(memory, devices.count), f"the model is spread over {devices.count} devices"
    return StagePlan(
        "evaluate",
        f"{_several(given.models, 'model')}, {_several(1 + len(given.formats), 'time')}",
        tokens=passes * (rows.tokens + generated),
        operations=operations,
        seconds=measured or added(devices.seconds(operations, given.dtype), fixed),
        memory=memory,
        disk=disk,
        small=disk,
        fits=_weights_fit(memory, devices),
        measured=measured is not None,
        note=note,
    )


def _evaluated_bytes(given: PlanInput, shape: ModelShape) -> int:
    """The records of a model under one transform, generic text among them."""
    sets = given.bundle.scored_sets()
    asked = given.requests(sets)
    rows = sum(
        records_bytes(((row, given.encode(row)) for row in members), asked[name], shape.layers)
        for name, members in sets.items()
    )
    return FOLDER + rows + len(given.bundle.generic.score) * text_bytes(given.fluency_tokens)


def _spread(memory: Memory, count: int) -> Memory:
    """What a device holds of a model whose layers are on several."""
    weights = round(memory.weights / count)
    return replace(memory, weights=weights, peak=memory.peak - memory.weights + weights)


def _budget(device: str) -> int:
    import torch

    return batch_budget("auto", torch.device(device))


def _scored(encoded: EncodedRow, row: Example) -> Rows:
    """A row and its options; the prompt that they share goes through the model once."""
    own = counted([encoded])
    return own + Rows(0, own.labels * max(0, len(row.choices) - 1), own.labels * max(0, len(row.choices) - 1))


def _as_pass(rows: Rows) -> Pass:
    return Pass(rows.rows, rows.tokens / max(1, rows.rows), rows.labels)


def _attacks(given: PlanInput, shape: ModelShape, devices: Devices) -> list[StagePlan]:
    encoded = [given.encode(row) for row in given.bundle.forget.score]
    of_row = mean(encoded)
    attacked = AttackedShape(given.model, shape, devices.machine.accelerator, devices.count)
    scored = sum((_scored(each, row) for each, row in zip(encoded, given.bundle.forget.score, strict=True)), Rows())
    per_row = scored.times(1 / len(encoded))
    of_record = _attacked_bytes(given, shape)
    found = []
    for name, attack in given.attacks.items():
        cost = attack.cost(given.bundle)
        kept = attack.records_kept(given.bundle) * of_record + cost.rows_generated * generated_bytes(
            given.metrics_generate
        )
        disk = given.models * (round(kept) + cost.jobs * FOLDER)
        settings = bare(attack)
        tokens = longest_row(settings, given.bundle, given.encode)
        memory, trained_shape = attacked.memory(settings, tokens)
        trained = of_row.times(cost.rows_trained * given.models)
        predicted = trained.tokens if _predicts_everywhere(settings) else trained.labels
        operations = training(trained_shape, Pass(trained.rows, of_row.tokens, predicted)) if trained.rows else 0.0
        operations += forward(shape, _as_pass(per_row.times(cost.rows_scored * given.models)))
        generated = cost.rows_generated * given.models * (of_row.tokens + given.metrics_generate)
        operations += forward(shape, Pass(generated, 1, generated))
        after = after_of(attack)
        jobs = cost.jobs * given.models
        measured = given.measured.work(f"attack {name}", jobs, given.workers)
        fixed = fixed_seconds("attack", jobs, given.workers, cost.steps * given.models)
        found.append(
            StagePlan(
                "attack",
                f"{name}, {_several(jobs, 'job')}",
                steps=cost.steps * given.models,
                tokens=trained.tokens + per_row.tokens * cost.rows_scored * given.models + generated,
                operations=operations,
                seconds=measured or added(devices.seconds(operations, _computed(settings)), fixed),
                memory=memory,
                disk=disk,
                small=disk,
                scratch_disk=given.models * model_bytes(shape, 4) if after else 0,
                fits=(_fits if cost.steps else _weights_fit)(memory, devices),
                mend=_attack_mend(name, attack, attacked, tokens, devices),
                note="; ".join(_attack_notes(settings, devices)),
                measured=measured is not None,
            )
        )
    return found


def _predicts_everywhere(settings: Attack | RetrainingSettings) -> bool:
    """Whether a step makes logits at every position, and not only where answers are predicted."""
    return isinstance(settings, RetrainingSettings) and (settings.sharded or settings.steps.loss_tokens == "all")


def _attacked_bytes(given: PlanInput, shape: ModelShape) -> float:
    """A record of an attack, which holds what one pass gives."""
    rows = given.bundle.forget.score
    asked = replace(given.requests({"forget": rows})["forget"], needs=frozenset(), sampling=None)
    return records_bytes(((row, given.encode(row)) for row in rows), asked, shape.layers) / len(rows)


def _computed(settings: Attack | RetrainingSettings) -> str:
    return computed_in(isinstance(settings, RetrainingSettings) and settings.bf16)


def _attack_mend(name: str, attack: Attack, attacked: AttackedShape, tokens: int, devices: Devices) -> str | None:
    machine = devices.machine
    whole = isinstance(attack, OrderedAttack) and attack.then is not None  # what is quantized lies on one device
    return attack_mend(
        name,
        bare(attack),
        attacked.model,
        lambda other: attacked.memory(other, tokens)[0].peak,
        machine.memory,
        accelerator=machine.accelerator,
        processes=1 if whole else devices.count,
    )


def _attack_notes(settings: Attack, devices: Devices) -> list[str]:
    notes = []
    sharded = isinstance(settings, RetrainingSettings) and settings.sharded and devices.count > 1
    if isinstance(settings, RetrainingSettings) and (settings.tuning == "lora" or sharded):
        notes.append(trained_by(settings))
    if devices.strategy in SHARDS_WEIGHTS and not sharded:
        notes.append("one device: this attack is not sharded")
    return notes


def _asked_again(given: PlanInput, shape: ModelShape, devices: Devices) -> list[StagePlan]:
    """Every earlier request: its own target and the methods are scored on its rows and attacked for them."""
    found = []
    for name, request in given.earlier.items():
        asked = replace(given, bundle=request.bundle, attacks=request.attacks, measured=Measured(""))
        exported = _exports(replace(asked, models=request.models), shape)
        asked = replace(asked, models=request.models + len(given.methods))
        again = [*exported, _evaluation(asked, shape, devices), *_attacks(asked, shape, devices)]
        found += [replace(stage, what=f"{name}: {stage.what}") for stage in again]
    return found


def _judging(given: PlanInput, told: Told) -> StagePlan:
    measured = given.measured.work("verify", 1, 1)
    judged = given.models + len(given.methods) * len(given.earlier)
    seconds = measured or fixed_seconds("verify", judged, 1)
    disk = told.verified + (told.plots if given.trainings else 0)
    return StagePlan(
        "verify", "verdicts and report", seconds=seconds, disk=disk, small=disk, measured=measured is not None
    )


def _publishing(given: PlanInput, shape: ModelShape, told: Told) -> list[StagePlan]:
    if not given.trainings:
        return []
    itemsize = DTYPES[given.dtype].itemsize
    disk = model_bytes(shape, itemsize) + sum(variant_bytes(shape, name, itemsize) for name in given.published)
    folders = 1 + len(given.published)
    small = folders * told.published + told.page + told.plots
    disk += folders * given.tokenizer + small
    seconds = fixed_seconds("publish", 1, 1)
    what = f"the model and {_several(len(given.published), 'format')}"
    return [StagePlan("publish", what, seconds=seconds, disk=disk, small=small)]
