"""One cell of the study: a kind of fact and a seed, with any number of methods, by the package's own stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.frontier.kinds import Kind

NEVER = "never-knew-2"
"""A second model that never saw the facts, attacked and judged as the methods are: what chance alone gives."""


def run_cell(
    kind: Kind,
    seed: int,
    methods: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    run_folds: int = 5,
    sources: Mapping[str, str] | None = None,
    workers: int = 2,
    formats: bool = True,
) -> dict[str, Any]:
    """Trains, exports, scores, attacks and judges every method; what is finished in ``out`` is not repeated.

    Methods may be added from one call to the next: each has folders of its own, which name what they were made from.

    Args:
        kind: The kind of fact.
        seed: Of data, models, training and attacks.
        methods: Entries of a recipe's ``methods``, at least two.
        out: The cell's folder.
        run_folds: How many of the five folds of RTT are attacked.
        sources: Set to a local file, where rows do not come from the Hub.
        workers: Worker processes.
        formats: Whether formats are exported and scored; where settings are tried they need not be.

    Returns:
        The report.
    """
    from hf_unlearn.jobs import Workers
    from hf_unlearn.pipeline import load_bundle
    from hf_unlearn.progress import Progress
    from hf_unlearn.recipe import load_recipe
    from hf_unlearn.stages.attack import attack_stage
    from hf_unlearn.stages.context import RunContext
    from hf_unlearn.stages.evaluate import evaluate_stage
    from hf_unlearn.stages.export import export_stage
    from hf_unlearn.stages.models import base_models
    from hf_unlearn.stages.references import reference_stage
    from hf_unlearn.stages.train import train_stage
    from hf_unlearn.stages.verify import verify_stage

    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.yaml"
    content = kind.recipe(seed, [dict(method) for method in methods], run_folds, sources or {})
    content["controls"] = [{"name": NEVER, "kind": "never_knew", "expected": "passed"}]
    if not formats:
        content["export"]["formats"] = []
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    recipe = load_recipe(path)
    run = out / "run"
    run.mkdir(exist_ok=True)
    with Workers(workers, run / "workers.log") as pool:
        progress = Progress(Console(highlight=False, quiet=True))
        context = RunContext(recipe, run, load_bundle(recipe), pool, progress)
        target, never = base_models(context)
        reference_stage(context, target, never)
        trained = train_stage(context, target, never)
        subjects = [target, *([never] if never else []), *trained]
        export_stage(context, subjects)
        evaluate_stage(context, target, subjects)
        attack_stage(context, subjects)
        return verify_stage(context, target, subjects).report


def training_of(out: Path, method: str) -> dict[str, Any]:
    """What training wrote down of a method: steps, seconds, rows that went through the model."""
    text = (out / "run" / "train" / method / "training.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
