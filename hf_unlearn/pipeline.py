"""A run: the chain of stages train, export, evaluate, attack, verify, publish, each resuming what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from .errors import RequestError, VerificationError
from .hub.publish import publish_run
from .recipe import Recipe
from .recipe.attacks import fit_to_data
from .reporting.html import write_html
from .reporting.terminal import print_results
from .runtime.environment import Surroundings
from .runtime.jobs import Workers, default_workers
from .runtime.processes import is_first, part, world_size
from .runtime.progress import Progress
from .stages.attack import attack_stage
from .stages.benchmarks import benchmark_stage, check_benchmarks
from .stages.calibration import check_calibrations
from .stages.context import RunContext, Subject
from .stages.data import check_scratch_texts, check_target_texts, load_bundle
from .stages.ends import settle_ends
from .stages.evaluate import evaluate_stage
from .stages.export import check_exportable, check_formats, export_stage
from .stages.models import base_models
from .stages.publish import publish_stage
from .stages.references import reference_stage
from .stages.train import train_stage, trained_subjects
from .stages.units import claim_output_dir, output_lock, prepare_output_dir, write_atomically
from .stages.verify import Verified, verify_stage

STAGES = ("train", "export", "evaluate", "attack", "verify", "publish")


@dataclass
class RunResult:
    """How a run ended.

    Attributes:
        output_dir: Where everything lies.
        verified: The report and the candidate; ``None`` where the run stopped before the verify stage.
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
) -> RunResult:
    """Run a recipe, or one stage of it, in an output folder; what is finished there is not repeated.

    Args:
        recipe: A checked recipe.
        output_dir: The run's folder.
        only: One of :data:`STAGES`; the stages before it must be finished.
        workers: Worker processes; ``None`` chooses, 0 runs everything in this process.
        progress: Where to announce what happens.

    Raises:
        RequestError: The recipe's data or models are not usable, or the folder belongs to another recipe.
        EnvironmentFailure: Memory, disk, network or a library failed.
    """
    if only == "publish" and recipe.is_audit:
        raise RequestError(f"{recipe.name} judges checkpoints made elsewhere: an audit publishes nothing")
    progress = progress or Progress(Console(highlight=False, quiet=not is_first()))
    check_formats(recipe.export.formats)
    check_benchmarks(recipe.benchmarks)
    bundle = load_bundle(recipe)
    recipe, left_out = fit_to_data(recipe, bundle)
    for name, reason in left_out.items():
        progress.say(f"{name} is left out of the tier {recipe.attack_tier}: {reason}")
    with Surroundings(output_dir):
        first = is_first()
        if first:
            prepare_output_dir(output_dir)
        count = _worker_count(recipe) if workers is None else workers
        with _lock(output_dir, first), Workers(count, output_dir / "workers.log") as pool:
            if first:
                claim_output_dir(output_dir, recipe.name, recipe.to_dict())
            context = RunContext(recipe, output_dir, bundle, pool, progress)
            _ = context.calibrations  # refused here, before anything is trained
            result = _run_stages(context, only, first)
        if first:
            seconds = {stage: round(value, 1) for stage, value in result.seconds.items()}
            write_atomically(output_dir / "timings.json", json.dumps(seconds, indent=1))
        return result


def _run_stages(context: RunContext, only: str | None, first: bool) -> RunResult:
    result = RunResult(context.output_dir, seconds=context.progress.seconds)
    if context.recipe.model.scratch is not None:
        check_scratch_texts(context)
    target, never = base_models(context)
    if context.recipe.model.scratch is None:
        check_target_texts(context, target.folder)
        context.settle_format(settle_ends(context, target))
    check_calibrations(context.calibrations, target.folder)
    check_exportable(context.recipe.export.formats, target.folder)
    if only in (None, "train"):
        reference_stage(context, target, never)
        trained = train_stage(context, target, never)
    elif first or only == "attack":
        trained = trained_subjects(context, target, never)
    part()
    if only == "train" or not (first or only in (None, "attack")):
        return result
    subjects = [target, *([never] if never else []), *trained]
    if not first:  # attacks are independent jobs, which need no more than the models
        attack_stage(context, subjects, helps=True)
        return result
    if only in (None, "export"):
        export_stage(context, subjects)
    if only in (None, "evaluate"):
        evaluate_stage(context, target, subjects)
        benchmark_stage(context, subjects)
    if only in (None, "attack"):
        attack_stage(context, subjects, timed=context.recipe.attack_tier is not None)
    if only in (None, "verify", "publish"):
        result.verified = _judge(context, target, subjects)
    if only in (None, "publish") and result.verified is not None and not context.recipe.is_audit:
        with context.progress.stage("publish"):
            folders = publish_stage(context, subjects, result.verified)
        context.progress.say(f"published to {folders[0].path} and {len(folders) - 1} variants beside it")
        _to_the_hub(context)
    return result


def _to_the_hub(context: RunContext) -> None:
    """Upload what was published, where the recipe asks for it; what did not pass stays here without being an error."""
    options = context.recipe.publish.hub_options()
    if options is None:
        return
    try:
        publish_run(context.output_dir, options, say=context.progress.say)
    except VerificationError as error:
        context.progress.say(str(error))


def _judge(context: RunContext, target: Subject, subjects: list[Subject]) -> Verified:
    with context.progress.stage("verify"):
        for subject in subjects:
            for transform in context.transforms:
                context.variant(subject, transform)  # of several stages that are missing the first one is named
        verified = verify_stage(context, target, subjects)
        page = context.output_dir / "report.html"
        write_html(verified.report, page)
    print_results(verified.report, context.progress.console, report_path=page)
    return verified


def _worker_count(recipe: Recipe) -> int:
    """Small models are built, trained and scored side by side; anything else one after the other."""
    if world_size() > 1:
        return 0
    return default_workers(jobs_fit_in_memory=recipe.model.scratch is not None)


@contextmanager
def _lock(output_dir: Path, first: bool) -> Iterator[None]:
    """Under several processes the first one holds the folder for all."""
    if not first:
        yield
        return
    with output_lock(output_dir):
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
    pass
    from .recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    if not loaded.is_audit:
        raise RequestError(
            f"{recipe}: an audit judges checkpoints, and methods.0 ({loaded.methods[0].name}) names none: give it the "
            "key 'checkpoint' with a Hub id or folder in place of its settings, or use `hf-unlearn run`"
        )
    return run_pipeline(loaded, Path(output_dir or Path("runs") / loaded.name), workers=workers)
