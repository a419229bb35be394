"""Never-knew models that are controls: built beside the trainings, and before everything only where none are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn import pipeline
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Job, Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages import models, stages_of, train
from hf_unlearn.stages.context import RunContext, Subject
from hf_unlearn.stages.data import load_data
from hf_unlearn.stages.run import Run

RECIPE = """\
name: controls
seed: 0
model: {scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 600}}
data: {planted: {forget: 16, retain: 16, holdout: 0, practice: 4, generic: 8}}
methods: [{name: npo, loss_type: npo, max_steps: 2}]
controls: [{name: other, kind: never_knew, expected: passed}, {name: third, kind: never_knew, expected: passed}]
gate: {max_recovered_share_formats: 0.3}
"""


class Stopped(Exception):
    """Far enough."""


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, bundle = load_data(load_recipe(tmp_path / "recipe.yaml"))
    return RunContext(recipe, tmp_path / "out", bundle, Workers(0), Progress(Console(quiet=True)))


@pytest.mark.parametrize(
    ("command", "processes", "before"), [(None, 1, False), ("train", 1, False), ("export", 1, True), (None, 2, True)]
)
def test_controls_are_built_before_only_where_no_training_is_beside_them(
    command, processes, before, context, monkeypatch
):
    asked: list[bool] = []

    def stop(context: RunContext, *, with_controls: bool = True) -> Any:
        asked.append(with_controls)
        raise Stopped

    monkeypatch.setattr(pipeline, "base_models", stop)
    monkeypatch.setattr(pipeline, "world_size", lambda: processes)
    with pytest.raises(Stopped):
        pipeline.start_run(context, stages_of(command))
    assert asked == [before]


def test_the_train_stage_builds_what_is_not_there(context, monkeypatch):
    there = {"other"}
    jobs = dict(zip(("other", "third"), models._control_jobs(context), strict=True))
    done: list[str] = []

    def run(self: Workers, waiting: list[Job]) -> Iterator[tuple[Job, None]]:
        for job in waiting:
            done.append(job.title)
            yield job, None

    monkeypatch.setattr(models, "is_as_built", lambda folder: folder in {jobs[name][1] for name in there})
    monkeypatch.setattr(Workers, "run", run)
    monkeypatch.setattr(train, "training_plans", lambda *_: [])
    stage = Run(context, Subject("target", "target", Path("target"), "digest"), None)
    train.train_stage(stage)
    assert done == ["third model"]
    there.add("third")
    train.train_stage(stage)
    assert done == ["third model"]
