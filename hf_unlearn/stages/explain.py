"""Why formats show what they show, worked out while the report is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..jobs import Job
from ..quantization.explain import explain_job, grids_of
from ..verification.report import Explanation
from .context import RunContext, Subject
from .export import INFO_FILE
from .train import METRICS_FILE


def explain_stage(context: RunContext, target: Subject, subjects: Sequence[Subject]) -> Explanation:
    """Compare every model that was made from the target with it, on the grids of the run's formats."""
    grids = grids_of(context.recipe.export.formats)
    names = list(dict.fromkeys(grids.values()))
    jobs = [
        Job(subject.name, explain_job, (target.folder, subject.folder, names))
        for subject in subjects
        if _comes_from_the_target(context, subject)
    ]
    found = {job.title: result for job, result in context.workers.run(jobs)}
    # In the order of the subjects, not in which they ended: equal runs have equal reports.
    models = {job.title: {**found[job.title], **_saved(context, job.title)} for job in jobs}
    return Explanation(grids, models)


def export_info(context: RunContext, subject: Subject, format_name: str) -> dict[str, Any]:
    """What the export of a format wrote down of it."""
    path = context.variant(subject, format_name) / INFO_FILE
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return info


def _comes_from_the_target(context: RunContext, subject: Subject) -> bool:
    """Never-knew models were trained apart: beside the target their weights say nothing."""
    apart = {control.name for control in context.recipe.controls if control.kind == "never_knew"}
    return subject.role in ("method", "control") and subject.name not in apart


def _saved(context: RunContext, name: str) -> dict[str, Any]:
    path = context.folder("train", name) / METRICS_FILE
    if not path.exists():
        return {}
    metrics = json.loads(path.read_text(encoding="utf-8"))
    return {"saved": metrics["saved"]} if metrics.get("saved") else {}
