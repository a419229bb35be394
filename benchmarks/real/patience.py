"""What an attacker loses who gives up: RTT run to its end, and ended after some epochs without gain.

    python -m benchmarks.real.patience RUN [RUN ...]          # runs whose RTT has patience 0

For each model and metric, the best epoch of every fold is taken, of all epochs and of those that an attacker with a
given patience sees. Nothing is trained: the scores of every epoch are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.pages import table
from benchmarks.real.outcome import JUDGED
from hf_unlearn.attacks.retraining import EarlyStopping
from hf_unlearn.evaluation.records import ScoredRow, fact_scores, read_records
from hf_unlearn.reporting.words import show

PATIENCES = (1, 2, 3, 4, 5, 6, 8)


def epochs_of(job: Path) -> list[list[ScoredRow]]:
    """The records of a job, epoch by epoch, from before the attack on."""
    found = {int(path.stem.removeprefix("epoch")): path for path in job.glob("epoch*.jsonl")}
    return [read_records(found[number]) for number in sorted(found)]


def epochs_seen(epochs: Sequence[Sequence[ScoredRow]], patience: int) -> int:
    """How many epochs (that before the attack among them) somebody sees who gives up; all of them with 0."""
    stopping = EarlyStopping(patience)
    for number, records in enumerate(epochs, start=1):
        if not stopping.goes_on(records):
            return number
    return len(epochs)


def best(epochs: Iterable[Sequence[ScoredRow]], metric: str) -> float:
    """The best mean over the forget facts of any of these epochs."""
    return max(fact_scores(list(records))["forget", metric].mean for records in epochs)


def rows_of(attack: Path) -> list[list[str]]:
    """One row for each metric: the best, and by patience what is lost of it and how many epochs are trained.

    Args:
        attack: The folder of the attack's jobs, one for each fold and rate.
    """
    jobs = [epochs_of(job) for job in sorted(attack.iterdir()) if (job / "epoch1.jsonl").exists()]
    seen = {patience: [epochs_seen(job, patience) for job in jobs] for patience in PATIENCES}
    rows = []
    for metric in JUDGED:
        whole = [best(job, metric) for job in jobs]
        row = [metric, str(len(jobs)), show(fmean(best(job[:1], metric) for job in jobs), 3), show(fmean(whole), 3)]
        for counts in seen.values():
            got = [best(job[:count], metric) for job, count in zip(jobs, counts, strict=True)]
            lost = fmean(full - part for full, part in zip(whole, got, strict=True))
            row.append(f"{show(lost, 3)} ({fmean(counts) - 1:.1f})")
        rows.append(row)
    return rows


def main() -> None:
    """Prints one table of all models of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    head = ["model", "metric", "jobs", "before", "best", *(f"patience {each}" for each in PATIENCES)]
    rows = []
    for run in arguments.runs:
        for attack in sorted(run.glob("**/attack/*/rtt")):
            rows += [[attack.parent.name, *row] for row in rows_of(attack)]
    print("Lost of the best mean score, and in brackets the epochs that are trained.\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
