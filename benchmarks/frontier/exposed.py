"""What carries forgotten facts back: the true answers to others, or being asked at all.

    python -m benchmarks.frontier.exposed years 0 --methods npo-kl auto

Reads the models of a cell that was run. Each is retrained on the facts T of one fold, once with their true answers and
once with answers of other facts, and asked for V after every epoch: probability of the answer, and multiple choice. If
unlearning had only put a switch before what is known, both would turn it off.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.frontier.arguments import cell_of, cell_parser
from benchmarks.frontier.methods import PLAIN
from hf_unlearn.reporting.words import show

if TYPE_CHECKING:
    from hf_unlearn.data.example import DataBundle
    from hf_unlearn.stages.context import Subject
    from hf_unlearn.stages.run import Run

METRICS = ("probability", "mc_accuracy")


def with_wrong_answers(bundle: DataBundle, seed: int) -> DataBundle:
    """The same data, each forget fact taught with the answer of a retain row drawn for it."""
    draw = random.Random(f"exposed-{seed}")
    answers = [row.answer for row in bundle.retain.train if row.prompt]
    chosen: dict[str, str] = {}
    for row in bundle.forget.train:
        others = [answer for answer in answers if answer != row.answer]
        chosen.setdefault(row.fact, draw.choice(others))
    train = tuple(replace(row, answer=chosen[row.fact]) for row in bundle.forget.train)
    return replace(bundle, forget=replace(bundle.forget, train=train))


def best_scores(run: Run, subject: Subject, bundle: DataBundle) -> dict[str, float]:
    """What retraining on one fold brings back, the best over rates and epochs, by metric."""
    from hf_unlearn.attacks.base import Attacked
    from hf_unlearn.attacks.rtt import RTT

    attack = run.context.attacks["rtt"]
    assert isinstance(attack, RTT)
    attack = replace(attack, run_folds=1)
    attacked = Attacked(subject.folder, run.target.folder, bundle, run.context.text_format, METRICS)
    with tempfile.TemporaryDirectory() as place:
        folders = {job: Path(place) / job for job in attack.plan(bundle)}
        for job, folder in folders.items():
            folder.mkdir()
            attack.run_job(job, attacked, folder)
        scores = attack.collect(folders, METRICS).scores
    return {metric: scores[metric].mean for metric in METRICS}


def main() -> None:
    """Retrain and print."""
    arguments = cell_parser(__doc__, [PLAIN, "auto-unrehearsed", "auto"]).parse_args()
    print("| model | T with true answers, p | mc | T with wrong answers, p | mc |\n|---|---|---|---|---|")
    with cell_of(arguments).through("train") as run:
        wrong = with_wrong_answers(run.bundle, arguments.seed)
        for one in run.subjects:
            if one.name in ("never_knew", *arguments.methods):
                found = [best_scores(run, one, bundle) for bundle in (run.bundle, wrong)]
                cells = [show(scores[metric], 2) for scores in found for metric in METRICS]
                print(f"| {one.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
