"""Judging a checkpoint that somebody else unlearned: everything a run does but training and publishing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RequestError

if TYPE_CHECKING:
    from .pipeline import RunResult


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
    from .pipeline import run_pipeline
    from .recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    if not loaded.is_audit:
        raise RequestError(
            f"{recipe}: an audit judges checkpoints, and methods.0 ({loaded.methods[0].name}) names none: give it the "
            "key 'checkpoint' with a Hub id or folder in place of its settings, or use `hf-unlearn run`"
        )
    return run_pipeline(loaded, Path(output_dir or Path("runs") / loaded.name), workers=workers)
