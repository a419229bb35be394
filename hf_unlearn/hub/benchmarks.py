"""Scores on public benchmarks, as the Hub wants them beside the card: one file per benchmark in ``.eval_results/``.

The Hub shows these on the model page and on the benchmark's leaderboard, for data sets that are registered there as
benchmarks. Forget and retain scores are no such thing: they stay in the card's ``model-index``. Layout:
https://huggingface.co/docs/hub/eval-results
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

RESULTS_FOLDER = ".eval_results"


def benchmark_files(report: Mapping[str, Any], transform: str) -> dict[str, str]:
    """The files for one published folder.

    The report's optional section ``benchmarks`` is a list of scores, each with ``dataset`` (id on the Hub), ``task``
    (its name within the benchmark), ``transform``, ``model``, ``value``, and maybe ``dataset_revision``, ``date``
    (ISO 8601) and ``notes``. Those of the released model under ``transform`` are taken.

    Args:
        report: The verification report.
        transform: ``identity`` or the format of the folder.

    Returns:
        Path relative to the folder to text, sorted; empty without such scores.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    candidate = report["verdict"]["candidate"]
    entries: dict[str, list[EvalResultEntry]] = {}
    for score in report.get("benchmarks", ()):
        if (score["model"], score["transform"]) != (candidate, transform):
            continue
        path = f"{RESULTS_FOLDER}/{_file_name(score['dataset'], score['task'])}.yaml"
        entry = EvalResultEntry(
            dataset_id=score["dataset"],
            task_id=score["task"],
            value=score["value"],
            dataset_revision=score.get("dataset_revision"),
            date=score.get("date", report["created"]),
            notes=_notes(score.get("notes"), transform),
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
