"""The units of a run by name, and what each needs, before any of them is made: for engines that start single commands.

A unit's name is the path of its folder in that of the run. Its inputs are only known when what it needs is there, so
an entry holds how to make it rather than the unit itself. Earlier deletion requests, the verdict and publishing are
not among them: a run makes these after it has picked up the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from ..attacks.base import Attack
from ..attacks.composed import after_of
from ..data.self_generated import DrawSpec
from ..errors import RequestError
from ..models.llama_cpp import split_runtime
from ..recipe.checks import UNTRAINED_CONTROLS
from ..runtime.jobs import Job
from ..runtime.processes import on_main_process
from ..verification.references import IDENTITY
from .attack import WEIGHTS, attack_units, attacked_model, make_attack, make_weights, weights_unit
from .baselines import check_baselines
from .benchmarks import FOLDER, benchmark_unit, benchmarking
from .chain import check_subjects
from .context import RunContext
from .evaluate import evaluation, evaluation_unit
from .export import export
from .plans import training_plans
from .retain_rows import self_generated_unit
from .run import Run
from .self_generated import writing
from .train import training
from .units import Unit

MODELS = "models"
"""Name of the unit that fetches or builds what a run starts from. It is in caches and not in the run's folder."""


@dataclass(frozen=True)
class Work:
    """A unit and the job that makes it.

    Attributes:
        unit: The unit.
        job: Makes it; called by who has the unit to itself.
    """

    unit: Unit
    job: Callable[[], Job]


@dataclass(frozen=True)
class ListedUnit:
    """One unit of a run.

    Attributes:
        name: Its name.
        stage: The stage that makes it in a run.
        after: Names of the units that must be finished before.
        work: From a run in which these are finished to the unit; ``None`` for :data:`MODELS`.
    """

    name: str
    stage: str
    after: tuple[str, ...]
    work: Callable[[Run], Work] | None = None


def listed_units(context: RunContext) -> list[ListedUnit]:
    """All units of a run, each after those that it needs."""
    return [ListedUnit(MODELS, MODELS, ()), *_Lister(context).units()]


def unit_named(units: Sequence[ListedUnit], name: str) -> ListedUnit:
    """One unit.

    Raises:
        RequestError: There is none with this name.
    """
    for unit in units:
        if unit.name == name.rstrip("/"):
            return unit
    near = get_close_matches(name, [unit.name for unit in units], n=1, cutoff=0.5)
    hint = f", did you mean {near[0]}?" if near else ":"
    raise RequestError(f"--only {name} is no unit of this run{hint} `hf-unlearn jobs RECIPE --list` shows all")


def steps(units: Sequence[ListedUnit]) -> dict[str, int]:
    """For each unit a number from 1: it needs only units with smaller numbers, so those with the same can go together.

    Args:
        units: Each after those that it needs.
    """
    found: dict[str, int] = {}
    for unit in units:
        found[unit.name] = 1 + max((found[name] for name in unit.after), default=0)
    return found


def work_of(units: Sequence[ListedUnit], wanted: ListedUnit, run: Run) -> Work | None:
    """What makes a unit, if everything that it needs is finished; ``None`` if there is nothing to make.

    Raises:
        RequestError: Names the first unit that has to be finished before.
    """
    needed = {wanted.name}
    for unit in reversed(units):
        if unit.name in needed:
            needed |= set(unit.after)
    for unit in units:
        if unit.name in needed and unit is not wanted and unit.work is not None and not unit.work(run).unit.done:
            raise RequestError(
                f"{wanted.name} needs {unit.name}, which is not finished: make that first (--only {unit.name})"
            )
    return None if wanted.work is None else wanted.work(run)


class _Lister:
    """Goes through the stages of a recipe."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        recipe = context.recipe
        self._baselines = ["target", *(["never_knew"] if recipe.model.has_never_knew else [])]
        self._audited = [method.name for method in recipe.methods if method.checkpoint is not None]
        self._methods = [method.name for method in recipe.methods if method.checkpoint is None]
        self._trained = self._methods + [each.name for each in recipe.controls if each.kind not in UNTRAINED_CONTROLS]
        others = [each.name for each in recipe.controls if each.kind in ("never_knew", "target")]
        # In the order of `Run.subjects`.
        self._subjects = [*self._baselines, *self._audited, *self._trained, *others]

    def units(self) -> Iterator[ListedUnit]:
        spec = self._context.recipe.data.keep_drawn
        for name in self._baselines:
            yield self._evaluation(name, IDENTITY)
        if spec is not None and not self._context.recipe.is_audit:
            yield ListedUnit("references/drawn", "self-generated", (MODELS,), partial(_drawn_work, spec=spec))
        for name in self._trained:
            yield ListedUnit(
                self._name("train", name), "train", self._before_training(), partial(_train_work, name=name)
            )
        for name in self._subjects:
            for format_name in self._context.formats:
                yield self._export(name, format_name)
        for name in self._subjects:
            for transform in self._context.transforms:
                if transform != IDENTITY or name not in self._baselines:
                    yield self._evaluation(name, transform)
        if self._context.recipe.benchmarks is not None:
            for name in ("target", *self._audited, *self._methods):
                work = partial(_benchmark_work, name=name)
                yield ListedUnit(self._name("evaluate", name, FOLDER), "benchmarks", self._made(name), work)
        for name in self._subjects:
            yield from self._attacks(name)

    def _export(self, name: str, format_name: str) -> ListedUnit:
        work = partial(_export_work, name=name, format_name=format_name)
        return ListedUnit(self._name("export", name, format_name), "export", self._made(name), work)

    def _evaluation(self, name: str, transform: str) -> ListedUnit:
        format_name, _ = split_runtime(transform)
        if format_name == IDENTITY:
            after = self._made(name)
        else:  # the target under the same transform is what the model is compared with
            after = tuple(dict.fromkeys(self._name("export", each, format_name) for each in (name, "target")))
        work = partial(_evaluation_work, name=name, transform=transform)
        return ListedUnit(self._name("evaluate", name, transform), "evaluate", after, work)

    def _attacks(self, name: str) -> Iterator[ListedUnit]:
        started: set[str] = set()
        for attack_name, attack in self._context.attacks.items():
            needs = self._made(name)
            if (after := after_of(attack)) is not None:
                needs = (self._name("attack", name, f"{WEIGHTS}/{after}"),)
                if after not in started:
                    started.add(after)
                    work = partial(_weights_work, name=name, after=after)
                    yield ListedUnit(needs[0], "attack", (self._name("export", name, after),), work)
            for job in attack.plan(self._context.bundle):
                job_work = partial(_attack_work, name=name, attack_name=attack_name, attack=attack, job=job)
                yield ListedUnit(self._name("attack", name, f"{attack_name}/{job}"), "attack", needs, job_work)

    def _made(self, name: str) -> tuple[str, ...]:
        return (self._name("train", name),) if name in self._trained else (MODELS,)

    def _before_training(self) -> tuple[str, ...]:
        drawn = self._context.recipe.data.keep_drawn is not None
        return (*(self._name("evaluate", name, IDENTITY) for name in self._baselines), *(["references/drawn"] * drawn))

    def _name(self, stage: str, subject: str, inside: str = "") -> str:
        folder = self._context.folder(stage, subject).relative_to(self._context.output_dir)
        return Path(folder, inside).as_posix()


def _drawn_work(run: Run, spec: DrawSpec) -> Work:
    unit = self_generated_unit(run.context, run.target, spec)
    return Work(unit, lambda: writing(run, spec, unit))


def _train_work(run: Run, name: str) -> Work:
    plan = next(plan for plan in training_plans(run.context, run.target, run.never_knew) if plan.name == name)

    def job() -> Job:
        on_main_process(lambda: check_baselines(run.context, run.target, run.baselines))
        return training(run, plan)

    return Work(plan.unit, job)


def _export_work(run: Run, name: str, format_name: str) -> Work:
    subject = run.subject(name)
    unit = run.context.export_unit(subject, format_name)

    def job() -> Job:
        check_subjects([subject])
        return export(run.context, subject, format_name, unit)

    return Work(unit, job)


def _evaluation_work(run: Run, name: str, transform: str) -> Work:
    context, subject = run.context, run.subject(name)
    unit = evaluation_unit(context, run.target, subject, transform, context.bundle.scored_sets())

    def job() -> Job:
        check_subjects([subject, run.target])
        format_name, _ = split_runtime(transform)
        for each in (subject, run.target) if format_name != IDENTITY else ():
            context.export_unit(each, format_name).checked()
        return evaluation(context, run.target, subject, transform, unit)

    return Work(unit, job)


def _benchmark_work(run: Run, name: str) -> Work:
    spec, subject = run.recipe.benchmarks, run.subject(name)
    assert spec is not None  # else it is not listed
    unit = benchmark_unit(run.context, spec, subject)
    return Work(unit, lambda: benchmarking(run.context, spec, subject, unit))


def _weights_work(run: Run, name: str, after: str) -> Work:
    subject = run.subject(name)
    unit, variant = weights_unit(run.context, subject, after), run.context.export_unit(subject, after)
    return Work(unit, lambda: Job(f"{name} weights of {after}", make_weights, (unit, variant.path)))


def _attack_work(run: Run, name: str, attack_name: str, attack: Attack, job: str) -> Work:
    context, subject = run.context, run.subject(name)
    unit = attack_units(context, run.target, subject, attack_name, attack)[job]

    def make() -> Job:
        check_subjects([subject])
        attacked = attacked_model(context, subject, run.target, attack)
        return Job(f"{name} {attack_name} {job}", make_attack, (unit, attack, job, attacked))

    return Work(unit, make)
