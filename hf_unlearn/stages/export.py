"""The export stage: every model of the run in every format, each proven by loading it again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..quantization import export_format
from ..quantization.calibration import Calibration
from ..runtime.jobs import Job
from .chain import check_subjects
from .context import AnyRun, Context, Subject
from .run import Run
from .units import Unit

INFO_FILE = "export.json"


def export_stage(run: AnyRun) -> None:
    """Make every variant that does not exist yet."""
    context = run.context
    waiting = [
        export(context, subject, name, unit)
        for subject in run.subjects
        for name in context.formats
        if not (unit := context.export_unit(subject, name)).done
    ]
    if waiting and isinstance(run, Run):
        check_subjects(run.subjects)
    for _ in context.progress.follow("export", len(waiting), context.workers.run(waiting)):
        pass


def export(context: Context, subject: Subject, format_name: str, unit: Unit) -> Job:
    """The job that writes one variant of a model."""
    calibration = context.calibrations.get(format_name)
    return Job(f"{subject.name} {format_name}", export_job, (unit, format_name, subject.folder, calibration))


def export_job(unit: Unit, format_name: str, source: Path, calibration: Calibration | None = None) -> None:
    """Write one variant."""

    def build(folder: Path) -> None:
        written = folder / "written"
        info = export_format(format_name, source, written, calibration)
        for item in written.iterdir():
            os.replace(item, folder / item.name)
        shutil.rmtree(written)
        (folder / INFO_FILE).write_text(json.dumps(info.to_dict(), indent=1, sort_keys=True), encoding="utf-8")

    unit.run(build)
