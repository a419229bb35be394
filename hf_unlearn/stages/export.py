"""The export stage: every model of the run in every format, each proven by loading it again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..quantization import FORMATS, export_format
from ..quantization.calibration import Calibration
from ..runtime.jobs import Job
from .context import RunContext, Subject
from .units import Unit

INFO_FILE = "export.json"


def check_formats(names: Sequence[str]) -> None:
    """Refuse formats whose library is missing, before any work.

    Raises:
        MissingExtraError: Says which extra to install.
        EnvironmentFailure: A library has a version that the format does not work with.
    """
    for name in names:
        FORMATS.get(name).value().check_available()


def check_exportable(names: Sequence[str], source: Path) -> None:
    """Refuse formats that cannot hold a model of this shape, before it is trained.

    Args:
        names: Formats.
        source: The target: what is unlearned from it has the same shape.

    Raises:
        RequestError: Says which layer does not fit, or that the folder's config names no causal language model.
    """
    from ..models.loading import empty_model

    model = empty_model(source)
    for name in names:
        FORMATS.get(name).value().check(model)


def export_stage(context: RunContext, subjects: Sequence[Subject]) -> None:
    """Make every variant that is not there yet."""
    units = [
        (subject, name, context.export_unit(subject, name))
        for subject in subjects
        for name in context.recipe.export.formats
    ]
    waiting = [
        Job(f"{subject.name} {name}", export_job, (unit, name, subject.folder, context.calibrations.get(name)))
        for subject, name, unit in units
        if not unit.done
    ]
    for _ in context.progress.follow("export", len(waiting), context.workers.run(waiting)):
        pass


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
