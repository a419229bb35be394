"""The attack stage: every model is attacked the same way, or its numbers could not be compared with anything.

Jobs are independent and resumable one by one. Every process of a launch takes the next free one, with as many
workers as it was given: see :mod:`~hf_unlearn.runtime.locks`. Sharded jobs come last: all processes make each of them
together.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..attacks import ATTACKS
from ..attacks.base import Attack, Attacked, AttackResult
from ..attacks.composed import after_of, is_sharded, kind_of
from ..attacks.cost import cost_lines, measure
from ..attacks.dequantize import write_dequantized
from ..attacks.model_cache import release
from ..recipe.plain import plain
from ..runtime.jobs import Job, Workers
from ..runtime.locks import claim_file, claimed, clear_claims, is_run_locked
from ..runtime.processes import gather, left_launch
from ..runtime.reunion import together_again
from .chain import check_subjects
from .context import AnyRun, Context, Subject, generation_inputs
from .run import Run
from .units import Unit

# Next to the attacks' own folders, whose names begin with a letter or digit.
WEIGHTS = ".weights"
_PAUSE = 0.3


@dataclass(eq=False)
class _Task:
    """A unit to make, and those that must exist before it; sharded ones are made by all processes together."""

    unit: Unit
    job: Job
    first: list[Unit] = field(default_factory=list)
    sharded: bool = False

    @property
    def ready(self) -> bool:
        return all(unit.done for unit in self.first)


def attack_stage(run: AnyRun) -> None:
    """Run every job of every attack that is not done yet.

    The main process ends when all are done. The others of a launch take jobs that are free, and end when none is left.

    Raises:
        EnvironmentFailure: A process of the launch was lost in the middle of a sharded job.
    """
    context, subjects = run.context, run.subjects
    tasks = _tasks(context, subjects, run.target)
    if run.is_main:
        if tasks:
            say_cost(context, subjects, timed=context.times_attacks)
        _check_exports(context, subjects, tasks)
        if tasks and isinstance(run, Run):
            check_subjects(subjects)
    together = left_launch() is not None and any(is_sharded(attack) for attack in context.attacks.values())
    own = [task for task in tasks if not (together and task.sharded)]
    results = _until_done(context.workers, own, helps=not run.is_main)
    for _ in context.progress.follow("attack", len(own), results):
        pass
    release()
    if together:
        _run_together(run)
    if run.is_main:
        for subject in subjects:
            shutil.rmtree(context.folder("attack", subject.name) / WEIGHTS, ignore_errors=True)
        clear_claims(context.output_dir)


def attack_units(
    context: Context, target: Subject | None, subject: Subject, name: str, attack: Attack
) -> dict[str, Unit]:
    """The jobs of one attack on one model and where their records are."""
    inputs: dict[str, Any] = {
        "stage": "attack",
        "attack": name,
        "settings": plain(attack),
        "model": subject.digest,
        "data": context.data_digest,
        "metrics": list(context.attack_metrics),
        "versions": context.versions,
    }
    after = after_of(attack)
    if after is not None:
        inputs["after"] = dict(context.export_unit(subject, after).inputs)
    if target is not None and looks_at_target(name, attack):
        inputs["target"] = target.digest
    inputs |= generation_inputs(context.bundle, context.text_format)
    if context.bundle.floor:
        inputs["floor"] = "holdout"
    folder = context.folder("attack", subject.name) / name
    return {job: Unit(folder / job, {**inputs, "job": job}) for job in attack.plan(context.bundle)}


def attack_job(unit: Unit, claim: Path, attack: Attack, job: str, attacked: Attacked) -> None:
    """Run one job, unless another process is working on it."""
    with claimed(claim) as mine:
        if mine:
            make_attack(unit, attack, job, attacked)


def make_attack(unit: Unit, attack: Attack, job: str, attacked: Attacked) -> None:
    """Run one job, which is this process's own."""
    unit.run(lambda out: attack.run_job(job, attacked, out))


def dequantize_job(unit: Unit, claim: Path, folder: Path) -> None:
    """Write the weights that a quantized variant represents, unless another process is working on it."""
    with claimed(claim) as mine:
        if mine:
            make_weights(unit, folder)


def make_weights(unit: Unit, folder: Path) -> None:
    """Write the weights that a quantized variant represents; the unit is this process's own."""
    unit.run(lambda out: write_dequantized(folder, out))


def attack_result(
    context: Context, target: Subject | None, subject: Subject, name: str, attack: Attack
) -> AttackResult:
    """What the finished jobs of an attack brought back.

    Raises:
        RequestError: A job has not been run yet, or its files are not what they were when it was.
    """
    units = attack_units(context, target, subject, name, attack)
    for unit in units.values():
        unit.checked()
    return attack.collect({job: unit.path for job, unit in units.items()}, context.attack_metrics)


def _tasks(context: Context, subjects: Sequence[Subject], target: Subject | None) -> list[_Task]:
    """What is not done yet; starting weights come before the attacks that need them."""
    weights: dict[Path, _Task] = {}
    attacks = []
    for subject in subjects:
        for name, attack in context.attacks.items():
            attacked = attacked_model(context, subject, target, attack)
            after = after_of(attack)
            for job, unit in attack_units(context, target, subject, name, attack).items():
                if unit.done:
                    continue
                claim = claim_file(context.output_dir, unit.path)
                call = Job(f"{subject.name} {name} {job}", attack_job, (unit, claim, attack, job, attacked))
                task = _Task(unit, call, sharded=is_sharded(attack))
                if after is not None:
                    start = _weights_task(context, subject, after)
                    weights.setdefault(start.unit.path, start)
                    task.first = [start.unit]
                attacks.append(task)
    return [*(task for task in weights.values() if not task.unit.done), *attacks]


def _weights_task(context: Context, subject: Subject, after: str) -> _Task:
    variant, unit = context.export_unit(subject, after), weights_unit(context, subject, after)
    claim = claim_file(context.output_dir, unit.path)
    job = Job(f"{subject.name} weights of {after}", dequantize_job, (unit, claim, variant.path))
    return _Task(unit, job, [variant])


def weights_unit(context: Context, subject: Subject, after: str) -> Unit:
    """Where the weights that a quantized variant represents are, for attacks that start from them."""
    inputs = {"stage": "attack", "weights of": dict(context.export_unit(subject, after).inputs)}
    return Unit(context.folder("attack", subject.name) / WEIGHTS / after, inputs)


def attacked_model(context: Context, subject: Subject, target: Subject | None, attack: Attack) -> Attacked:
    """What an attack on a model is given."""
    after = after_of(attack)
    folder = subject.folder if after is None else weights_unit(context, subject, after).path
    known = subject.folder if target is None else target.folder
    return Attacked(folder, known, context.bundle, context.text_format, context.attack_metrics)


def looks_at_target(name: str, attack: Attack) -> bool:
    """Whether an attack uses the model before unlearning."""
    return "target model" in ATTACKS.get(kind_of(name, attack)).needs


def _check_exports(context: Context, subjects: Sequence[Subject], tasks: Sequence[_Task]) -> None:
    """If several stages are missing, the first one is named."""
    if any(task.first for task in tasks):
        for subject in subjects:
            for attack in context.attacks.values():
                if (after := after_of(attack)) is not None:
                    context.export_unit(subject, after).outputs()


def _until_done(workers: Workers, tasks: Sequence[_Task], helps: bool) -> Iterator[tuple[Job, Any]]:
    """Keep running what is ready and free; yields each job once it is done, whichever process did it."""
    waiting = list(tasks)
    while waiting:
        ready = [task for task in waiting if task.ready]
        of_job = {id(task.job): task for task in ready}
        for job, _ in workers.run([task.job for task in ready]):
            task = of_job[id(job)]
            if task.unit.done:
                waiting.remove(task)
                yield job, None
        if waiting and helps and all(task.ready for task in waiting):
            return  # other processes are working on the rest
        if waiting and not any(task.ready for task in waiting if task not in ready):
            time.sleep(_PAUSE)


def _run_together(run: AnyRun) -> None:
    """Sharded jobs, one after the other, each made by all processes; the main one keeps what comes of it.

    Raises:
        EnvironmentFailure: Another process was lost.
    """
    context = run.context
    with together_again(context.output_dir, partial(is_run_locked, context.output_dir), on_devices=True):
        tasks = {task.job.title: task for task in _tasks(context, run.subjects, run.target) if task.sharded}
        titles = gather(list(tasks))[0]
        made = _made_together([tasks[title] for title in titles], is_main=run.is_main)
        for _ in context.progress.follow("attack", len(titles), made):
            pass


def _made_together(tasks: Sequence[_Task], *, is_main: bool) -> Iterator[tuple[Job, Any]]:
    for task in tasks:
        unit, _, attack, job, attacked = task.job.arguments
        if is_main:
            make_attack(unit, attack, job, attacked)
        else:
            with TemporaryDirectory(prefix="attacked-") as place:
                attack.run_job(job, attacked, Path(place))
        yield task.job, None


def say_cost(context: Context, subjects: Sequence[Subject], *, timed: bool) -> None:
    """Report what all attacks will take. If ``timed``, a few rows are timed first to report seconds."""
    costs = {name: attack.cost(context.bundle) for name, attack in context.attacks.items()}
    units = None
    if timed:
        generates = any(cost.rows_generated for cost in costs.values())
        subject = subjects[0]
        call = Job("timing a few rows", measure, (subject.folder, context.bundle, context.text_format, generates))
        ((_, units),) = context.workers.run([call])
    context.progress.say(f"attacks on {len(subjects)} model{'s' * (len(subjects) > 1)}:")
    for line in cost_lines(costs, len(subjects), units):
        context.progress.say(f"  {line}")
