"""Public benchmarks of the target and the unlearned models as they are, for the report and the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ..data.encoding import load_tokenizer
from ..errors import RequestError
from ..evaluation.records import ScoredRow
from ..evaluation.suites.harness import harness_chat, read_harness, run_harness
from ..evaluation.suites.spec import HarnessSpec
from ..recipe import BenchmarkSpec
from ..runtime.jobs import Job
from ..verification.references import IDENTITY
from ..verification.report import BenchmarkScore
from .context import RunContext, Subject
from .run import Run
from .units import Unit

FOLDER = "benchmarks"


def benchmark_stage(run: Run) -> None:
    """Run what has not been run yet."""
    context, spec = run.context, run.recipe.benchmarks
    if spec is None:
        return
    waiting = [
        benchmarking(context, spec, subject, unit)
        for subject, unit in _units(context, spec, run.subjects)
        if not unit.done
    ]
    for _ in context.progress.follow("benchmarks", len(waiting), context.workers.run(waiting)):
        pass


def benchmarking(context: RunContext, spec: BenchmarkSpec, subject: Subject, unit: Unit) -> Job:
    """The job that runs all tasks on one model."""
    arguments = (unit, subject.folder, context.recipe.model.dtype, spec)
    return Job(f"{subject.name} benchmarks", benchmark_job, arguments)


def benchmark_job(unit: Unit, folder: Path, dtype: str, spec: BenchmarkSpec) -> None:
    """Run all tasks on one model."""

    def build(out: Path) -> None:
        harness = spec.harness()
        chat = harness_chat(harness, bool(load_tokenizer(str(folder)).chat_template))
        run_harness(folder, dtype, harness, chat, None, out)

    unit.run(build)


def benchmark_scores(context: RunContext, subjects: Sequence[Subject]) -> list[BenchmarkScore]:
    """What the report says of them.

    Raises:
        RequestError: A task has not been run yet, or has no such metric.
    """
    spec = context.recipe.benchmarks
    if spec is None:
        return []
    scores = []
    for subject, unit in _units(context, spec, subjects):
        unit.checked()
        records, _ = read_harness(unit.path, spec.harness())
        for task, dataset in spec.tasks.items():
            values = _values([record for record in records if record.set == task], task, spec.metric)
            scores.append(
                BenchmarkScore(
                    dataset=dataset,
                    task=task,
                    model=subject.name,
                    transform=IDENTITY,
                    value=sum(values) / len(values),
                    notes=_notes(spec.harness(), spec.metric, len(values)),
                )
            )
    return scores


def _values(records: Sequence[ScoredRow], task: str, metric: str) -> list[float]:
    found = sorted({name for record in records for name in record.values})
    names = [name for name in found if name.partition(":")[0] == metric]
    if len(names) != 1:
        raise RequestError(
            f"benchmarks.metric is {metric!r}, and {task} gives {', '.join(found)}: that is not one value per question"
        )
    return [record.values[names[0]] for record in records if names[0] in record.values]


def _units(context: RunContext, spec: BenchmarkSpec, subjects: Sequence[Subject]) -> list[tuple[Subject, Unit]]:
    judged = [subject for subject in subjects if subject.role in ("target", "method")]
    return [(subject, benchmark_unit(context, spec, subject)) for subject in judged]


def benchmark_unit(context: RunContext, spec: BenchmarkSpec, subject: Subject) -> Unit:
    inputs = {
        "stage": FOLDER,
        "model": subject.digest,
        "spec": asdict(spec),
        "dtype": context.recipe.model.dtype,
        "versions": {**context.versions, "lm_eval": version("lm_eval")},
    }
    return Unit(context.folder("evaluate", subject.name) / FOLDER, inputs)


def _notes(spec: HarnessSpec, metric: str, questions: int) -> str:
    shots = "the task's own shots" if spec.shots is None else f"{spec.shots} shots"
    return f"lm-evaluation-harness {version('lm_eval')}, {metric}, {shots}, {questions} questions"
