"""A run: the chain of stages train, export, evaluate, attack, verify, publish, each resuming what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .data.checks import check_bundle
from .data.encoding import check_tokenizer, encode_row, encode_rows, load_tokenizer
from .data.example import DataBundle
from .data.planted import make_planted
from .data.sources import load_source
from .jobs import Workers, default_workers
from .progress import Progress
from .recipe import Recipe
from .reporting.html import write_html
from .reporting.terminal import print_results
from .stages.attack import attack_stage
from .stages.context import RunContext, Subject
from .stages.evaluate import evaluate_stage
from .stages.export import check_formats, export_stage
from .stages.models import base_models
from .stages.publish import publish_stage
from .stages.train import train_stage, trained_subjects
from .stages.units import claim_output_dir, output_lock, write_atomically
from .stages.verify import Verified, verify_stage
from .surroundings import Surroundings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def load_bundle(recipe: Recipe) -> DataBundle:
    """Read or generate every set of a recipe and check them.

    Raises:
        RequestError: Missing file or column, an empty set, a row in both forget and retain; with file and line.
        EnvironmentFailure: The Hub could not be reached.
    """
    data = recipe.data
    if data.planted is not None:
        bundle = make_planted(data.planted)
    else:
        sets = {
            name: load_source(source, name)
            for name, source in (
                ("forget", data.forget),
                ("retain", data.retain),
                ("holdout", data.holdout),
                ("generic", data.generic),
            )
            if source is not None
        }
        extra = {name: load_source(source, name) for name, source in data.extra.items()}
        bundle = DataBundle(**sets, extra=extra)
    check_bundle(bundle)
    return bundle


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
    progress = progress or Progress()
    check_formats(recipe.export.formats)
    bundle = load_bundle(recipe)
    for attack in recipe.attack.values():
        attack.plan(bundle)
    with Surroundings(output_dir):
        first = int(os.environ.get("RANK", "0")) == 0
        if first:
            claim_output_dir(output_dir, recipe.name, recipe.to_dict())
        count = _worker_count(recipe) if workers is None else workers
        with _lock(output_dir, first), Workers(count, output_dir / "workers.log") as pool:
            context = RunContext(recipe, output_dir, bundle, pool, progress)
            result = _run_stages(context, only, first)
        if first:
            seconds = {stage: round(value, 1) for stage, value in result.seconds.items()}
            write_atomically(output_dir / "timings.json", json.dumps(seconds, indent=1))
        return result


def _run_stages(context: RunContext, only: str | None, first: bool) -> RunResult:
    result = RunResult(context.output_dir, seconds=context.progress.seconds)
    target, never = base_models(context)
    _check_texts(context, target.folder)
    if only in (None, "train"):
        trained = train_stage(context, target)
    elif first:
        trained = trained_subjects(context, target)
    # Training is the only collective stage: quantizers place devices themselves.
    if only == "train" or not first:
        return result
    subjects = [target, *([never] if never else []), *trained]
    if only in (None, "export"):
        export_stage(context, subjects)
    if only in (None, "evaluate"):
        evaluate_stage(context, target, subjects)
    if only in (None, "attack"):
        attack_stage(context, subjects)
    if only in (None, "verify", "publish"):
        result.verified = _judge(context, target, subjects)
    if only in (None, "publish") and result.verified is not None:
        with context.progress.stage("publish"):
            folders = publish_stage(context, subjects, result.verified)
        context.progress.say(f"published to {folders[0].path} and {len(folders) - 1} variants beside it")
    return result


def _judge(context: RunContext, target: Subject, subjects: list[Subject]) -> Verified:
    with context.progress.stage("verify"):
        verified = verify_stage(context, target, subjects)
        page = context.output_dir / "report.html"
        write_html(verified.report, page)
    print_results(verified.report, context.progress.console, report_path=page)
    return verified


def _check_texts(context: RunContext, target: Path) -> None:
    """Tokenize everything once, so that a row that does not fit is refused before any training."""
    data, bundle = context.recipe.data, context.bundle
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(target))
    for rows in (bundle.forget, bundle.retain, bundle.generic):
        check_tokenizer(tokenizer, data.format, rows)
        encode_rows(
            list(rows), tokenizer, data.format, eos=True, max_length=data.max_length, truncation=data.truncation
        )
    for rows in (bundle.holdout, *bundle.extra.values()):  # only scored, and scoring cuts nothing
        check_tokenizer(tokenizer, data.format, rows)
        for row in rows:
            encode_row(row, tokenizer, data.format, eos=False)


def _worker_count(recipe: Recipe) -> int:
    """Small models are built, trained and scored side by side; anything else one after the other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
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
