"""A run, or attacks on one model: stages in their order, each resuming what is there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from .data.example import DataBundle
from .errors import RequestError
from .planning.machines import machine_named
from .planning.run_plan import RunPlan
from .planning.strategies import devices_of
from .planning.training import Devices
from .planning.words import short, told
from .recipe import Recipe, load_recipe
from .recipe.attack_request import AttackRequest, spaced
from .recipe.attacks import fit_to_data, fitting
from .recipe.places import Places, places_of
from .runtime.environment import environment_failures
from .runtime.files import whole_file, write_atomically, write_private
from .runtime.garbage import leave_imports_alone
from .runtime.jobs import Workers, default_workers
from .runtime.leases import refuse_if_lost
from .runtime.locks import books_lock, is_run_locked, unit_lock
from .runtime.processes import gather, is_main_process, leave_group, world_size
from .runtime.progress import Progress
from .runtime.reunion import together_again
from .runtime.shared_folder import check_shared
from .runtime.signals import refuse_if_stopped
from .stages import Stage, stage_named, stages_of
from .stages.attack import say_cost
from .stages.context import AnyRun, RunContext
from .stages.data import load_data, notes_on
from .stages.earlier import earlier_runs
from .stages.ends import settle_ends
from .stages.findings import Finding, Findings
from .stages.gathering import Gathered, Interview, make_sets
from .stages.gathering import Request as SetRequest
from .stages.models import base_models
from .stages.planned import launched
from .stages.preflight import Request, check_after, check_attacks, check_models, examine
from .stages.proposal import USUAL_LIMIT, Wanted, look, recipe_text
from .stages.publishable import check_places
from .stages.respondent import TargetRespondent
from .stages.run import Run, Verified
from .stages.single_model import (
    RESULT_FILE,
    AttackedModel,
    NamedModels,
    SingleModel,
    attack_table,
    claim_for_attacks,
    load_rows,
    settle_attacks,
    start_attacks,
)
from .stages.unit_list import ListedUnit, listed_units, unit_named, work_of
from .stages.units import begun_recipe, claim_output_dir, output_lock, prepare_output_dir, try_output_dir

_MARKS = {"refuse": "refused", "warn": "careful", "note": "note"}
Rows = str | Path | Iterable[Mapping[str, Any]]
"""Rows as mappings, or a file of them."""


@dataclass
class RunResult:
    """How a run ended.

    Attributes:
        output_dir: Where everything is.
        verified: The report and the candidate; ``None`` if the run stopped before the verify stage.
        seconds: Time taken by each stage in this process (what was resumed took none).
    """

    output_dir: Path
    verified: Verified | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the candidate passed and every control came out as it must."""
        return self.verified is not None and self.verified.report["verdict"]["status"] == "passed" and self.controls_ok

    @property
    def controls_ok(self) -> bool:
        """Whether every control came out as it must."""
        return self.verified is not None and self.verified.controls_ok


def run_pipeline(
    recipe: Recipe,
    output_dir: Path,
    *,
    only: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    places: Places | None = None,
) -> RunResult:
    """Run a recipe, or one stage of it, in an output folder; what is finished there is not repeated.

    Args:
        recipe: A checked recipe.
        output_dir: The run's folder.
        only: A command for a single stage, see :data:`~hf_unlearn.stages.STAGES`; the stages before it must be
            finished.
        workers: Worker processes; ``None`` chooses, 0 runs everything in this process.
        progress: Where to announce what happens.
        places: Where the recipe's keys stand in its file, for messages.

    Raises:
        RequestError: The recipe's data or models are not usable, or the folder belongs to another recipe. All that
            can be known before anything is started is told at once.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    main = is_main_process()
    progress = progress or Progress(Console(highlight=False, quiet=not main))
    devices = launched() if only is None else None
    recipe, bundle = _before(Request(recipe, output_dir, only, devices), Findings(places), progress)
    with environment_failures(output_dir):
        if main:
            prepare_output_dir(output_dir)
            check_places(recipe, output_dir, only)
        count = _worker_count(recipe) if workers is None else workers
        with _lock(output_dir, main, progress), Workers(count, output_dir / "workers.log") as pool:
            if main:
                claim_output_dir(output_dir, recipe.name, recipe.to_dict())
            if begun_recipe(output_dir):
                progress.say(f"{output_dir} holds a part of this run: what is finished is not made again")
            leave_imports_alone()
            stages = stages_of(only)
            run = start_run(RunContext(recipe, output_dir, bundle, pool, progress), stages)
            run_stages(run, stages)
        if main:
            seconds = {stage: round(value, 1) for stage, value in progress.seconds.items()}
            write_atomically(output_dir / "timings.json", json.dumps(seconds, indent=1))
        return RunResult(output_dir, run.verified, progress.seconds)


def list_units(recipe: Recipe, output_dir: Path, progress: Progress, places: Places | None = None) -> list[ListedUnit]:
    """The units of a run, each after those that it needs; nothing is made.

    Args:
        recipe: A checked recipe.
        output_dir: The run's folder.
        progress: Told what is found.
        places: Where the recipe's keys stand in its file.

    Raises:
        RequestError: The run would be refused.
        EnvironmentFailure: The Hub could not be reached.
    """
    recipe, bundle = _before(Request(recipe, output_dir), Findings(places), progress)
    return listed_units(RunContext(recipe, output_dir, bundle, Workers(0), progress))


def run_unit(
    recipe: Recipe, output_dir: Path, name: str, *, progress: Progress | None = None, places: Places | None = None
) -> None:
    """Make one unit of a run, in the folder that commands for other units work in at the same time.

    Under a launcher all processes train together; every other unit is made by one process.

    Args:
        recipe: A checked recipe.
        output_dir: The run's folder.
        name: Name of the unit, from :func:`list_units`.
        progress: Where to announce what happens.
        places: Where the recipe's keys stand in its file.

    Raises:
        RequestError: There is no such unit, it needs others, or somebody else is making it.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    main = is_main_process()
    progress = progress or Progress(Console(highlight=False, quiet=not main))
    recipe, bundle = _before(Request(recipe, output_dir, "train"), Findings(places), progress)
    with environment_failures(output_dir), Workers(0) as pool:
        context = RunContext(recipe, output_dir, bundle, pool, progress)
        units = listed_units(context)
        wanted = unit_named(units, name)
        if world_size() > 1 and wanted.stage != "train":
            raise RequestError(f"{wanted.name} is made by one process: start this command without a launcher")
        if main:
            prepare_output_dir(output_dir)
        with unit_lock(output_dir, output_dir / wanted.name, progress.say) if main else nullcontext():
            check_shared(output_dir)
            if main:
                with books_lock(output_dir):
                    claim_output_dir(output_dir, recipe.name, recipe.to_dict(), alone=False)
            leave_imports_alone()
            work = work_of(units, wanted, start_run(context))
            if work is not None and not gather(work.unit.done)[0]:
                job = work.job()
                for _ in progress.follow(wanted.stage, 1, pool.run([job])):
                    pass
            leave_group()
        progress.say(f"{wanted.name} is finished")


def _before(request: Request, findings: Findings, progress: Progress) -> tuple[Recipe, DataBundle]:
    """Tell everything that is found before a run starts; a recipe and its rows if nothing is in the way."""
    with environment_failures(request.output_dir):
        if is_main_process():
            try_output_dir(request.output_dir)
        seen = examine(request, findings, progress)
    for finding in findings:
        if finding.level != "refuse":
            progress.say(finding.line())
    findings.raise_refusals()
    assert seen is not None  # or there is a refusal
    if seen.plan is not None:
        for line in short(seen.plan):
            progress.say(line)
    return seen.recipe, seen.bundle


@dataclass(frozen=True)
class Planned:
    """What is known of a run before it starts.

    Attributes:
        findings: Everything that was found.
        plan: What it will take; ``None`` if something is in the way.
    """

    findings: tuple[Finding, ...]
    plan: RunPlan | None

    @property
    def refused(self) -> bool:
        """Whether the run would be refused."""
        return any(finding.level == "refuse" for finding in self.findings)

    def __str__(self) -> str:
        """What ``hf-unlearn plan`` prints."""
        lines = [] if self.plan is None else told(self.plan)
        lines += [f"{_MARKS[finding.level]}: {finding.line()}" for finding in self.findings]
        if self.refused:
            lines.append("The run would be refused.")
        return "\n".join(lines)


def plan_run(
    recipe: Recipe,
    output_dir: Path,
    devices: Devices,
    progress: Progress,
    places: Places | None = None,
    retrain_tokens: float | None = None,
) -> Planned:
    """Plan a run without loading weights; nothing is written.

    Args:
        recipe: A checked recipe.
        output_dir: Where the run would write.
        devices: What it would be on.
        progress: Told what takes time.
        places: Where the recipe's keys stand in its file.
        retrain_tokens: Tokens that the target's training went through, for the advice to retrain or to unlearn.

    Raises:
        EnvironmentFailure: The Hub could not be reached.
    """
    findings = Findings(places)
    request = Request(recipe, output_dir, None, devices, limited=False, retrain_tokens=retrain_tokens)
    with environment_failures(output_dir):
        seen = examine(request, findings, progress)
    return Planned(tuple(findings), None if seen is None else seen.plan)


def start_run(context: RunContext, stages: Sequence[Stage] = ()) -> Run:
    """Fetch or build the models that a run starts from, and refuse what cannot work before any stage.

    Args:
        context: A run that preflight found nothing against.
        stages: What will be done; the train stage builds controls itself.

    Raises:
        RequestError: Models and attacks do not fit each other.
        EnvironmentFailure: The Hub could not be reached.
    """
    trains = any(stage.name == "train" for stage in stages)
    target, never_knew = base_models(context, with_controls=not trains or world_size() > 1)
    run = Run(context, target, never_knew, is_main=is_main_process())
    check_models(run)
    if context.recipe.model.scratch is None:
        context.settle_format(settle_ends(context, target))
    run.earlier = earlier_runs(run)
    return run


def run_stages(run: AnyRun, stages: Sequence[Stage]) -> None:
    """Run stages in their order.

    The processes of a launch go through the first stages together and separate after them: quantizers place devices
    themselves, and no process may wait for them in a collective. For scoring they come together once more.

    Args:
        run: What every stage is given.
        stages: Some of :data:`~hf_unlearn.stages.STAGES`.
    """
    for stage in stages:
        refuse_if_stopped()
        refuse_if_lost()
        if stage.processes != "together":
            leave_group()
        if stage.processes == "again":
            with together_again(run.context.output_dir, partial(is_run_locked, run.context.output_dir)):
                stage.run(run)
        elif run.is_main or stage.processes != "main":
            stage.run(run)
    leave_group()


def attack_model(
    request: AttackRequest,
    models: NamedModels,
    output_dir: Path,
    *,
    workers: int,
    progress: Progress,
    only_cost: bool = False,
) -> AttackedModel | None:
    """Attack one model and those it is compared with; what is finished in the output folder is not repeated.

    Args:
        request: The attacks, and the rows to ask for.
        models: The models.
        output_dir: Folder of the attacks on this model.
        workers: Worker processes; 0 runs everything in this process.
        progress: Where to announce what happens.
        only_cost: Print the costs, and stop.

    Returns:
        What the attacks brought back; ``None`` after the costs, and in every process of a launch but the main one.

    Raises:
        RequestError: Rows, attacks and models do not fit each other, or the folder holds something else.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    main = is_main_process()
    request, bundle = load_rows(request, models)
    for sentence in notes_on(bundle):
        progress.say(sentence)
    text_format = request.text_format.text_format()
    if not request.format_given and (wider := spaced(text_format, bundle.forget.score)) != text_format:
        text_format = wider
        progress.say("a space is put between question and answer; data.format.separator sets something else")
    attacks, left_out = fitting(request.section, bundle)
    for name, reason in left_out.items():
        progress.say(f"{name} is left out of the tier {request.section.tier}: {reason}")
    check_after(attacks)
    with environment_failures(output_dir):
        if main:
            claim_for_attacks(output_dir, models.model)
        with _lock(output_dir, main, progress), Workers(workers, output_dir / "workers.log") as pool:
            metrics = tuple(request.evaluate.metrics)
            context = SingleModel(output_dir, bundle, pool, progress, attacks, text_format, metrics)
            run = start_attacks(context, models, request.recipe)
            settle_attacks(run, keeps=not only_cost)
            check_attacks(context, run.subjects, run.target)
            run_stages(run, [] if only_cost else [stage_named("export"), stage_named("attack")])
            if not main:
                return None
            if only_cost:
                say_cost(context, run.subjects, timed=True)
                return None
            table = attack_table(run)
            write_atomically(output_dir / RESULT_FILE, json.dumps(table, indent=1))
            return AttackedModel([subject.name for subject in run.subjects], table)


def _worker_count(recipe: Recipe) -> int:
    """Small models are built, trained and scored side by side; anything else one after the other."""
    if world_size() > 1:
        return 0
    return default_workers(jobs_fit_in_memory=recipe.model.scratch is not None)


@contextmanager
def _lock(output_dir: Path, main: bool, progress: Progress) -> Iterator[None]:
    """Under several processes the main one holds the folder for all, and all must see it."""
    with output_lock(output_dir, progress.say) if main else nullcontext():
        check_shared(output_dir)
        yield


def audit(
    recipe: str | Path,
    output_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
) -> RunResult:
    """Export, evaluate, attack and judge the checkpoints that a recipe names.

    Args:
        recipe: A YAML file, or the name of a recipe that comes with the package. Each of its methods names a
            ``checkpoint`` instead of settings for training.
        output_dir: Folder of the audit; ``runs/NAME`` if left out. What is finished there is not repeated.
        overrides: ``section.key=value`` assignments.
        workers: Worker processes; ``None`` chooses, 0 runs everything in this process.

    Returns:
        The result; ``result.verified.report`` is the report.

    Raises:
        RequestError: The recipe, its data or its models are not usable, or it trains.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    loaded = load_recipe(recipe, overrides)
    if not loaded.is_audit:
        raise RequestError(
            f"{recipe}: an audit judges checkpoints, and methods.0 ({loaded.methods[0].name}) names none: give it the "
            "key 'checkpoint' with a Hub id or folder in place of its settings, or use `hf-unlearn run`"
        )
    places = places_of(recipe, overrides)
    return run_pipeline(loaded, Path(output_dir or Path("runs") / loaded.name), workers=workers, places=places)


def propose(wanted: Wanted, output: Path) -> list[str]:
    """Write a first recipe and check it with the rows that it names. No weights are put into memory.

    Args:
        wanted: The model and the files.
        output: Where the recipe is written.

    Returns:
        Sentences that say what was found and what to do next.

    Raises:
        RequestError: The model or a file cannot be used.
        EnvironmentFailure: The Hub could not be reached.
    """
    seen = look(wanted)
    with whole_file(output) as work:
        work.write_text(recipe_text(wanted, seen), encoding="utf-8")
        recipe, bundle = load_data(load_recipe(work))
        _, left_out = fit_to_data(recipe, bundle)
    kept = len(bundle.retain.score)
    said = [f"{output}: {seen.facts} facts in {seen.groups} groups to forget, {kept} rows to keep."]
    if seen.limit > USUAL_LIMIT:
        said.append(
            f"So few groups allow no smaller limit than {seen.limit:g} on recovered shares, and a pass shows no more "
            f"than that: {seen.groups_for_usual_limit} groups allow the usual {USUAL_LIMIT:g}."
        )
    said += notes_on(bundle)
    said += [f"{name} is left out of the tier {recipe.attack_tier}: {reason}" for name, reason in left_out.items()]
    said += [f"{name} is left out of the formats: {reason}" for name, reason in seen.unfit.items()]
    return [*said, next_commands(output)]


def next_commands(recipe: Path) -> str:
    """What to do with a new recipe, as it can be pasted into a shell."""
    named = shlex.quote(str(recipe))
    return f"Read it, then:  hf-unlearn plan {named}  and  hf-unlearn run {named}"


def gather_sets(request: SetRequest, interview: Interview) -> Gathered:
    """Make the sets of a first recipe that nobody gave, see :func:`hf_unlearn.stages.gathering.make_sets`."""
    with environment_failures(request.folder):
        return make_sets(request, interview)


def forget(
    model: str,
    forget: Rows | None = None,
    *,
    subject: str | None = None,
    retain: Rows | None = None,
    output_dir: str | Path,
    holdout: Rows | None = None,
    never_knew: str | None = None,
    generic: Rows | None = None,
    description: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
) -> dict[str, Any]:
    """Make a model forget rows, quantize it, attack it and judge it, with the settings of ``hf-unlearn init``.

    Args:
        model: The model that knows: Hub id or folder.
        forget: What to forget: mappings such as ``{"prompt": ..., "completion": ...}``, a file of them, or documents
            that facts are asked from: a text file, a folder of them, or mappings with a ``text`` alone.
        subject: In place of rows: the name of what is to be forgotten. Questions about it that the model can answer
            are drawn from the model, and nobody is asked whether they are the right ones: read
            ``data/made/forget.jsonl``.
        retain: What must stay. Without it the model is asked the same about others, and for texts of its own.
        output_dir: Gets ``recipe.yaml``, ``data/`` (the rows, readable by their owner only) and ``run/``. What is
            finished there is not repeated. A ``recipe.yaml`` that is there is run as it is, whatever the rows: for
            other rows or arguments remove it, or take another folder.
        holdout: Rows of the same kind that no model was trained on. Without them and without ``never_knew`` the same
            questions are asked about names that nobody has, where there are such questions.
        never_knew: A model that was trained without the rows to forget.
        generic: Ordinary text.
        description: In your words, for the model card: what is removed, never the rows themselves.
        overrides: ``section.key=value`` assignments.
        workers: Worker processes; ``None`` chooses, 0 runs everything in this process.

    Returns:
        The report, as :func:`~hf_unlearn.load_report` reads it from ``run/verify``; the unlearned model is in
        ``run/train``, what can be published in ``run/publish``. In the other processes of a launch it is empty.

    Raises:
        RequestError: Model or rows are not usable.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    sets = _Asked(forget, subject, retain, holdout, generic)
    recipe = _proposed(model, sets, never_knew, description, Path(output_dir))
    result = run_pipeline(load_recipe(recipe, overrides), Path(output_dir) / "run", workers=workers)
    return {} if result.verified is None else dict(result.verified.report)


def plan(
    model: str,
    forget: Rows | None = None,
    *,
    subject: str | None = None,
    retain: Rows | None = None,
    output_dir: str | Path,
    holdout: Rows | None = None,
    never_knew: str | None = None,
    generic: Rows | None = None,
    description: str | None = None,
    overrides: Sequence[str] = (),
) -> Planned:
    """What :func:`forget` with the same arguments would take on this machine, and all that is in its way.

    The recipe and the rows are written, as :func:`forget` would do it; no weights are trained.

    Args:
        model: See :func:`forget`; so are the others.
        forget: What to forget.
        subject: In place of rows.
        retain: What must stay.
        output_dir: Gets ``recipe.yaml`` and ``data/``.
        holdout: Rows of the same kind that no model was trained on.
        never_knew: A model that was trained without the rows to forget.
        generic: Ordinary text.
        description: For the model card.
        overrides: ``section.key=value`` assignments.

    Returns:
        Findings, and memory, steps and time of each stage; printed, it is what ``hf-unlearn plan`` prints.

    Raises:
        RequestError: Model or rows are not usable.
        EnvironmentFailure: The Hub could not be reached.
    """
    sets = _Asked(forget, subject, retain, holdout, generic)
    recipe = _proposed(model, sets, never_knew, description, Path(output_dir))
    devices = devices_of(machine_named(None, None, None), None, None)
    return plan_run(load_recipe(recipe, overrides), Path(output_dir) / "run", devices, Progress(Console(stderr=True)))


@dataclass(frozen=True)
class _Asked:
    """What somebody gave to be forgotten and kept."""

    forget: Rows | None
    subject: str | None
    retain: Rows | None
    holdout: Rows | None
    generic: Rows | None


def _proposed(model: str, asked: _Asked, never_knew: str | None, description: str | None, place: Path) -> Path:
    """The recipe that ``init`` would write, in a folder; one that is there is taken as it is."""
    if (asked.forget is None) == (asked.subject is None):
        raise RequestError("give what is to be forgotten as rows (forget) or as a subject, and not both")
    given = {"forget": asked.forget, "retain": asked.retain, "holdout": asked.holdout, "generic": asked.generic}
    recipe, data = place / "recipe.yaml", place / "data"
    if not recipe.exists():
        files = {name: _as_file(these, data, name) for name, these in given.items() if these is not None}
        target = TargetRespondent(model)
        request = SetRequest(
            (data / "made").absolute(),
            files.pop("forget", None),
            asked.subject,
            files,
            never_knew is not None,
            called=True,
        )
        found = gather_sets(request, Interview(target, confirm=lambda facts: range(len(facts))))
        propose(Wanted("forget", model, found.sets, never_knew, description, found.made, found.names), recipe)
    return recipe


def _as_file(rows: Rows, folder: Path, name: str) -> Path:
    """A file as it is; rows in a file that only their owner reads."""
    if isinstance(rows, str | Path):
        return Path(rows).absolute()
    path = folder.absolute() / f"{name}.jsonl"
    write_private(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))
    return path
