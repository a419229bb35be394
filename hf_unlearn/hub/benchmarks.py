"""Scores on public benchmarks, as the Hub expects them next to the card: one file per benchmark in ``.eval_results/``.

The Hub shows these on the model page and on the benchmark's leaderboard, for data sets that are registered there as
benchmarks. Forget and retain scores are not among these: they stay in the card's ``model-index``. Layout:
https://huggingface.co/docs/hub/eval-results
"""

from __future__ import annotations

import re

from ..verification.report import Report

RESULTS_FOLDER = ".eval_results"


def benchmark_files(report: Report, transform: str) -> dict[str, str]:
    """The files for one published folder.

    Of the report's ``benchmarks``, those of the released model under ``transform`` are taken.

    Args:
        report: The verification report.
        transform: ``identity`` or the format of the folder.

    Returns:
        Path relative to the folder to text, sorted; empty without such scores.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries: dict[str, list[EvalResultEntry]] = {}
    for score in report.benchmarks or ():
        if (score.model, score.transform) != (report.verdict.candidate, transform):
            continue
        path = f"{RESULTS_FOLDER}/{_file_name(score.dataset, score.task)}.yaml"
        entry = EvalResultEntry(
            dataset_id=score.dataset,
            task_id=score.task,
            value=score.value,
            dataset_revision=score.dataset_revision,
            date=score.date or report.created,
            notes=_notes(score.notes, transform),
        )
        entries.setdefault(path, []).append(entry)
    return {
        path: yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False)
        for path, found in sorted(entries.items())
    }


def _file_name(dataset: str, task: str) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{dataset.rpartition('/')[2]}-{task}").strip("-.")


def _notes(own: str | None, transform: str) -> str:
    state = "after unlearning" if transform == "identity" else f"after unlearning, in the format {transform}"
    return f"{state}; {own}" if own else state
