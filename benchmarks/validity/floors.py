"""What may stand in for a never-knew model under RTT, held against a real one.

    python -m benchmarks.validity.floors --seeds 0 --models npo             # after a run of benchmarks.validity
    python -m benchmarks.validity.floors --seeds 0 --models npo --write     # into benchmarks/validity/floors.md

Without a never-knew model the floor of a recovered share under an attack has to come from elsewhere. Here there is
one, so each candidate can be held against what the attacked never-knew model scores on V:

- *unlearned*: holdout facts asked of the attacked unlearned model, at the epoch that is best for V;
- *unlearned, own best*: the same at the epoch that is best for the holdout facts;
- *target*: holdout facts asked of the attacked target;
- *target, exchanged*: the same where T's answers were dealt out anew, so that T says nothing true;
- *target, holdout T*: the target retrained on some holdout facts and asked for the others.

The attack is that of the recipe. What was attacked is kept beside the run and not attacked again.
"""

from __future__ import annotations

import argparse
import datetime
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hf_unlearn.attacks import Attack
from hf_unlearn.attacks.base import Attacked, AttackResult
from hf_unlearn.attacks.best import Try, best_of, mean_over_folds, read_epochs
from hf_unlearn.data.example import DataBundle, RowSet
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.context import RunContext
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.models import base_models
from hf_unlearn.stages.run import Run
from hf_unlearn.verification.intervals import Bootstrap, difference, recovered_share
from hf_unlearn.verification.scores import FactScores

PAGE = Path(__file__).with_name("floors.md")
ATTACK = "rtt"
NEVER_KNEW = ("never-knew-2", "retrained")


@dataclass(frozen=True)
class Floor:
    """One candidate of one seed by one metric.

    Attributes:
        seed: Of the run.
        metric: The metric.
        name: The candidate.
        judged: The model whose share it gives.
        level: Its mean score.
        off: How much higher that is than what the attacked never-knew model scores, with its 95 % interval.
        share: The judged model's recovered share above it; not a number where it is undefined.
        true_share: Above the attacked never-knew model.
    """

    seed: int
    metric: str
    name: str
    judged: str
    level: float
    off: tuple[float, float, float]
    share: float
    true_share: float


def exchanged(bundle: DataBundle, seed: int) -> DataBundle:
    """The data with the answers of training rows dealt out anew among the forgotten facts."""
    given = {row.fact: row.answer for row in reversed(bundle.forget.train)}
    order = sorted(given)
    random.Random(f"exchanged-{seed}").shuffle(order)
    dealt = {fact: given[order[(place + 1) % len(order)]] for place, fact in enumerate(order)}
    rows = tuple(replace(row, answer=dealt[row.fact], choices=(), variants=()) for row in bundle.forget.train)
    return replace(bundle, forget=RowSet(rows, bundle.forget.score))


def of_holdout(bundle: DataBundle) -> DataBundle:
    """The data with the holdout facts in the place of the forgotten ones."""
    return replace(bundle, forget=bundle.holdout, floor=())


class Bench:
    """One seed: its data, its models, and what attacks on them brought back."""

    def __init__(self, folder: Path) -> None:
        recipe = load_recipe(folder / "recipe.yaml")
        self.folder = folder
        self.bundle = load_bundle(recipe).with_floor()
        workers = Workers(0, folder / "floors.log")
        self.context = RunContext(recipe, folder / "run", self.bundle, workers, Progress())
        target, never = base_models(self.context)
        assert never is not None
        run = Run(self.context, target, never)
        self.models = {one.name: one.folder for one in run.subjects}
        self.attack = recipe.attack[ATTACK]

    def own_best(self, name: str) -> dict[str, FactScores]:
        """Holdout facts of a model that was attacked, at the epoch that is best for them."""
        folder = self.folder / "floors" / f"{name}-plain"
        tries = [
            Try(fold, 0.0, one.epoch, _as_asked(one.scores))
            for fold, job in enumerate(sorted(folder.iterdir()))
            for one in read_epochs(job, fold, 0.0)
        ]
        folds = [
            best_of([one for one in tries if one.fold == fold], self.context.attack_metrics).scores
            for fold in sorted({one.fold for one in tries})
        ]
        return {metric: mean_over_folds([fold[metric] for fold in folds]) for metric in folds[0]}

    def attacked(self, name: str, how: str, bundle: DataBundle, attack: Attack) -> AttackResult:
        """Attack a model, unless that was done; every job has a folder, which gets its place when it is complete."""
        folder = self.folder / "floors" / f"{name}-{how}"
        given = Attacked(
            self.models[name], self.models["target"], bundle, self.context.text_format, self.context.attack_metrics
        )
        jobs = {job: folder / job for job in attack.plan(bundle)}
        for job, place in jobs.items():
            if place.exists():
                continue
            partial = place.with_name(f"{job}.partial")
            partial.mkdir(parents=True, exist_ok=True)
            attack.run_job(job, given, partial)
            partial.rename(place)
            print(f"{name} {how} {job}", flush=True)
        return attack.collect(jobs, self.context.attack_metrics)


def _as_asked(scores: Mapping[tuple[str, str], FactScores]) -> dict[tuple[str, str], FactScores]:
    """The scores of holdout facts, as if they were what an attacker asks for."""
    return {("forget", metric): facts for (split, metric), facts in scores.items() if split == "holdout"}


def floors_of(seed: int, folder: Path, models: Sequence[str]) -> list[Floor]:
    """All candidates of one seed.

    Args:
        seed: Of the run.
        folder: The seed's folder of a run of ``benchmarks.validity``.
        models: Judged models.
    """
    bench = Bench(folder)
    never = bench.attacked("never_knew", "plain", bench.bundle, bench.attack)
    target = bench.attacked("target", "plain", bench.bundle, bench.attack)
    swapped = bench.attacked("target", "exchanged", exchanged(bench.bundle, seed), bench.attack)
    apart = bench.attacked(
        "target",
        "holdout",
        of_holdout(bench.bundle),
        replace(bench.attack, run_folds=None),
    )
    found = []
    for name in models:
        judged = bench.attacked(name, "plain", bench.bundle, bench.attack)
        candidates = {
            "unlearned": judged.holdout,
            "unlearned, own best": bench.own_best(name),
            "target": target.holdout,
            "target, exchanged": swapped.holdout,
            "target, holdout T": apart.scores,
        }
        for metric in bench.context.recipe.gate.metrics:
            truth, scores = never.scores[metric], judged.scores[metric]
            true_share = recovered_share(scores, target.scores[metric], truth, Bootstrap()).value
            for candidate, levels in candidates.items():
                gap = difference(levels[metric], truth, Bootstrap(), paired=False)
                share = recovered_share(scores, target.scores[metric], levels[metric], Bootstrap(), paired=False).value
                low, high = gap.interval or (np.nan, np.nan)
                found.append(
                    Floor(
                        seed,
                        metric,
                        candidate,
                        name,
                        levels[metric].mean,
                        (gap.value if gap.value is not None else np.nan, low, high),
                        np.nan if share is None else share,
                        np.nan if true_share is None else true_share,
                    )
                )
    return found


def table(found: Sequence[Floor]) -> str:
    """One line per metric and candidate."""
    lines = [
        "| seed | metric | floor | judged model | level | above the real one (95 % interval) | recovered share | "
        "real share |",
        f"|{'---|' * 8}",
    ]
    lines += [
        f"| {row.seed} | {row.metric} | {row.name} | {row.judged} | {row.level:.3f} | {row.off[0]:+.3f} "
        f"({row.off[1]:+.3f} to {row.off[2]:+.3f}) | {row.share:.2f} | {row.true_share:.2f} |"
        for row in found
    ]
    return "\n".join(lines)


def _largest(found: Sequence[Floor], name: str) -> str:
    apart = [row.share - row.true_share for row in found if row.name == name]
    return f"{max(apart, key=abs):+.2f}" if apart else "–"


def page(found: Sequence[Floor]) -> str:
    """The whole page."""
    names = list(dict.fromkeys(row.name for row in found))
    off = {name: np.mean([abs(row.off[0]) for row in found if row.name == name]) for name in names}
    wrong = {
        name: np.nanmean([abs(row.share - row.true_share) for row in found if row.name == name]) for name in names
    }
    forgot = [row for row in found if row.judged in NEVER_KNEW]
    summary = [
        "| floor | level: mean distance | share: mean distance | share of models that never knew: largest distance |",
        "|---|---|---|---|",
        *(f"| {name} | {off[name]:.3f} | {wrong[name]:.3f} | {_largest(forgot, name)} |" for name in names),
    ]
    return "\n".join(
        [
            "# What stands in for a never-knew model under RTT",
            "",
            f"Made by `python -m benchmarks.validity.floors --write`, {datetime.date.today().isoformat()}. The attack "
            "is that of `benchmarks/validity`; what the candidates are: `floors.py`. *Real* is what the attacked "
            "never-knew model scores on V. Distances are absolute; *largest* has its sign. A floor that is too low "
            "makes shares too large.",
            "",
            *summary,
            "",
            table(found),
            "",
        ]
    )


def main() -> None:
    """Attack what was not attacked yet, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/validity"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", default=["npo"], help="judged models, by their rows")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    found = [
        floor
        for seed in arguments.seeds
        for floor in floors_of(seed, arguments.out / f"seed-{seed}", arguments.models)
    ]
    text = page(found)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
