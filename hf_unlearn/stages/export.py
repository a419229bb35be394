"""The export stage: every model of the run in every format, each proven by loading it again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..jobs import Job
from ..quantization import FORMATS, export_format
from .context import RunContext, Subject
from .units import Unit

INFO_FILE = "export.json"


def check_formats(names: Sequence[str]) -> None:
    """Refuse formats whose library is missing, before any work.

    Raises:
        MissingExtraError: Says which extra to install.
    """
    for name in names:
        FORMATS.get(name).value().check_available()


def export_stage(context: RunContext, subjects: Sequence[Subject]) -> None:
    """Make every variant that is not there yet."""
    units = [
        (subject, name, context.export_unit(subject, name))
        for subject in subjects
        for name in context.recipe.export.formats
    ]
    waiting = [
        Job(f"{subject.name} {name}", export_job, (unit, name, subject.folder))
        for subject, name, unit in units
        if not unit.done
    ]
    for _ in context.progress.follow("export", len(waiting), context.workers.run(waiting)):
        pass


def export_job(unit: Unit, format_name: str, source: Path) -> None:
    """Write one variant."""

    def build(folder: Path) -> None:
        written = folder / "written"
        info = export_format(format_name, source, written)
        for item in written.iterdir():
            os.replace(item, folder / item.name)
        shutil.rmtree(written)
        (folder / INFO_FILE).write_text(json.dumps(info.to_dict(), indent=1, sort_keys=True), encoding="utf-8")

    unit.run(build)
