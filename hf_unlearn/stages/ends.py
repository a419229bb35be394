"""Whether ends of answers are labels in a run: the target is asked once, and all training follows the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ..data.encoding import TextFormat, load_tokenizer
from ..data.example import DataBundle, Example
from ..models.ends import Ends, ask_ends, rows_to_ask, settled
from ..models.loading import load_model
from ..runtime.jobs import Job, Workers
from ..runtime.locks import claim_file, locked
from ..runtime.processes import on_main_process
from ..runtime.progress import Progress
from .context import Subject, plain_row
from .units import Unit

ENDS_FILE = "ends.json"


class _Run(Protocol):
    output_dir: Path
    bundle: DataBundle
    workers: Workers
    progress: Progress
    text_format: TextFormat

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the numbers."""


def settle_ends(run: _Run, asked: Subject) -> TextFormat:
    """How rows become text, with ``end: auto`` settled. All processes call this together.

    Args:
        run: A run, or a single model that is attacked.
        asked: The target. A model that is already unlearned is asked about retain rows only.

    Raises:
        RequestError: A row cannot be tokenized.
    """
    fmt, bundle = run.text_format, run.bundle
    if fmt.end != "auto":
        return fmt
    kept = bundle.retain.train
    sets = (bundle.forget.train, kept) if asked.role == "target" or not kept else (kept,)
    rows = rows_to_ask(fmt, *sets) or rows_to_ask(fmt, bundle.generic.train)
    if not rows:
        return settled(fmt, Ends("always", None, 0))
    inputs = {
        "stage": "train",
        "ends of": asked.digest,
        "rows": [plain_row(row) for row in rows],
        "format": fmt.described(),
        "versions": run.versions,
    }
    unit = Unit(run.output_dir / "references" / "ends", inputs)

    def ask() -> None:
        claim = claim_file(run.output_dir, unit.path)
        claim.parent.mkdir(parents=True, exist_ok=True)
        with locked(claim, before_waiting=lambda: None):  # of several commands for single units the first one asks
            if unit.done:
                return
            jobs = [Job("target", ends_job, (unit, asked.folder, rows, fmt))]
            for _, said in run.workers.run(jobs):
                run.progress.say(said)

    on_main_process(ask)
    return settled(fmt, read_ends(unit))


def ends_job(unit: Unit, folder: Path, rows: Sequence[Example], fmt: TextFormat) -> str:
    """Ask the model in a folder, keep its answer in the unit, and return it as a sentence."""
    told = ""

    def build(out: Path) -> None:
        nonlocal told
        model = load_model(folder, "float32")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        ends = ask_ends(model, load_tokenizer(str(folder)), rows, fmt, positions or 2**31)
        (out / ENDS_FILE).write_text(json.dumps(asdict(ends)), encoding="utf-8")
        told = str(ends)

    unit.run(build)
    return told


def read_ends(unit: Unit) -> Ends:
    """What the model said.

    Raises:
        RequestError: It has not been asked yet.
    """
    unit.checked()
    return Ends(**json.loads((unit.path / ENDS_FILE).read_text(encoding="utf-8")))
