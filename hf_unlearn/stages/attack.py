"""The attack stage: every model is attacked the same way, or a number would have nothing to stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..attacks.base import Attack, Attacked, AttackResult
from ..jobs import Job
from .context import RunContext, Subject
from .units import Unit


def attack_stage(context: RunContext, subjects: Sequence[Subject]) -> None:
    """Run every job of every attack that is not done yet."""
    waiting = []
    target = next(subject for subject in subjects if subject.role == "target")
    for subject in subjects:
        attacked = Attacked(
            subject.folder, target.folder, context.bundle, context.recipe.data.format, context.recipe.evaluate.metrics
        )
        for name, attack in context.recipe.attack.items():
            for job, unit in attack_units(context, subject, name, attack).items():
                if not unit.done:
                    waiting.append(Job(f"{subject.name} {name} {job}", attack_job, (unit, attack, job, attacked)))
    for _ in context.progress.follow("attack", len(waiting), context.workers.run(waiting)):
        pass


def attack_units(context: RunContext, subject: Subject, name: str, attack: Attack) -> dict[str, Unit]:
    """The jobs of one attack on one model and where their records stand."""
    inputs = {
        "stage": "attack",
        "attack": name,
        "settings": asdict(attack),  # type: ignore[call-overload]
        "model": subject.digest,
        "data": context.data_digest,
        "metrics": list(context.recipe.evaluate.metrics),
        "versions": context.versions,
    }
    folder = context.folder("attack", subject.name) / name
    return {job: Unit(folder / job, {**inputs, "job": job}) for job in attack.plan(context.bundle)}


def attack_job(unit: Unit, attack: Attack, job: str, attacked: Attacked) -> None:
    """Run one job."""
    unit.run(lambda out: attack.run_job(job, attacked, out))


def attack_result(context: RunContext, subject: Subject, name: str, attack: Attack) -> AttackResult:
    """What the finished jobs of an attack brought back.

    Raises:
        RequestError: A job has not been run yet.
    """
    units = attack_units(context, subject, name, attack)
    for unit in units.values():
        unit.outputs()
    return attack.collect({job: unit.path for job, unit in units.items()}, context.recipe.evaluate.metrics)
