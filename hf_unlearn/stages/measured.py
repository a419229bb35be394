"""What the finished units of a run took, as their manifests have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..planning.measured import Measured
from .plans import METRICS_FILE
from .units import MANIFEST, read_manifest

_STAGES = ("train", "export", "evaluate", "attack")


def measured_in(folder: Path, methods: Sequence[str]) -> Measured:
    """Mean seconds of the units that are finished in a run's folder and were made in one go.

    Args:
        folder: The run's; it need not exist.
        methods: Names of its methods.
    """
    steps: dict[str, float] = {}
    units: dict[str, float] = {}
    for stage in _STAGES:
        seconds: dict[str, list[float]] = {}
        for unit, took in _units(folder, stage):
            if stage == "train":
                name = methods[0] if unit == folder / stage and methods else unit.name
                made = _steps(unit)
                if made:
                    steps[name] = took / made
            else:
                kind = f"attack {unit.parent.name}" if stage == "attack" else stage
                seconds.setdefault(kind, []).append(took)
        units.update({kind: sum(each) / len(each) for kind, each in seconds.items()})
    verified = _seconds(folder / "verify")
    if verified is not None:
        units["verify"] = verified
    return Measured(str(folder), steps, units)


def request_seconds(folder: Path, workers: int) -> float | None:
    """What a finished run took as a whole, its units shared by workers; ``None`` where some were not timed."""
    if _seconds(folder / "verify") is None:
        return None
    found = [read_manifest(path.parent) for path in folder.rglob(MANIFEST) if _is_finished(path, folder)]
    seconds = [None if each is None else each.get("seconds") for each in found]
    if not all(isinstance(each, int | float) for each in seconds):
        return None
    total = float(sum(each for each in seconds if each))
    return total / workers if total else None


def _units(folder: Path, stage: str) -> Iterator[tuple[Path, float]]:
    for place in (folder / stage, folder / "references" / stage):
        for manifest in sorted(place.rglob(MANIFEST)):
            took = _seconds(manifest.parent)
            if _is_finished(manifest, folder) and took is not None:
                yield manifest.parent, took


def _is_finished(manifest: Path, run: Path) -> bool:
    places = manifest.relative_to(run).parts
    return not any(part.startswith(".") or part.endswith(".partial") for part in places)


def _seconds(unit: Path) -> float | None:
    seconds = (read_manifest(unit) or {}).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _steps(unit: Path) -> int | None:
    try:
        steps = json.loads((unit / METRICS_FILE).read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) and steps > 0 else None
