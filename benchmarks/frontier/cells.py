"""One cell of the study: a kind of fact and a seed, with any number of methods, by the package's own stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from benchmarks.frontier.kinds import Kind

if TYPE_CHECKING:
    from hf_unlearn.stages.run import Run

NEVER = "never-knew-2"
"""A second model that never saw the facts, attacked and judged as the methods are: what chance alone gives."""


@dataclass(frozen=True)
class Cell:
    """A kind of fact with a seed, and the methods that are tried on it.

    Methods may be added from one run to the next: each has folders of its own, which name what they were made from.

    Attributes:
        kind: The kind of fact.
        seed: Of data, models, training and attacks.
        methods: Entries of a recipe's ``methods``, at least one.
        out: The cell's folder.
        run_folds: How many of the five folds of RTT are attacked.
        sources: Set to a local file, where rows do not come from the Hub.
        workers: Worker processes.
        formats: Whether formats are exported and scored; where settings are tried they need not be.
        attacks: In place of the kind's own RTT.
    """

    kind: Kind
    seed: int
    methods: Sequence[Mapping[str, Any]]
    out: Path
    run_folds: int = 5
    sources: Mapping[str, str] = field(default_factory=dict)
    workers: int = 2
    formats: bool = True
    attacks: Mapping[str, Mapping[str, Any]] | None = None

    def recipe(self) -> dict[str, Any]:
        """The cell's recipe."""
        methods = [dict(method) for method in self.methods]
        content = self.kind.recipe(self.seed, methods, self.run_folds, self.sources)
        content["controls"] = [{"name": NEVER, "kind": "never_knew", "expected": "passed"}]
        if not self.formats:
            content["export"]["formats"] = []
        if self.attacks is not None:
            content["attack"] = {name: dict(settings) for name, settings in self.attacks.items()}
        return content

    def run(self) -> dict[str, Any]:
        """Trains, exports, scores, attacks and judges what is not there yet; the report."""
        with self.through("verify") as run:
            assert run.verified is not None  # by its last stage
            return run.verified.report

    @contextmanager
    def through(self, stage: str) -> Iterator[Run]:
        """The cell's run after this stage and all before it, workers at hand."""
        from hf_unlearn.pipeline import run_stages, start_run
        from hf_unlearn.recipe import load_recipe
        from hf_unlearn.runtime.jobs import Workers
        from hf_unlearn.runtime.progress import Progress
        from hf_unlearn.stages import stages_through
        from hf_unlearn.stages.context import RunContext
        from hf_unlearn.stages.data import load_bundle

        folder = self.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        path = self.out / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe(), sort_keys=False), encoding="utf-8")
        recipe = load_recipe(path)
        with Workers(self.workers, folder / "workers.log") as pool:
            # run_pipeline would refuse a folder whose recipe has changed, and folds too few for a verdict.
            progress = Progress(Console(highlight=False))
            run = start_run(RunContext(recipe, folder, load_bundle(recipe), pool, progress))
            run_stages(run, stages_through(stage))
            yield run

    def training_of(self, method: str) -> dict[str, Any]:
        """What training wrote down of a method: steps, seconds, floating-point operations."""
        text = (self.out / "run" / "train" / method / "training.json").read_text(encoding="utf-8")
        return dict(json.loads(text))
