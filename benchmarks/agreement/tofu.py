"""locuslab/tofu: the numbers of the logs that its authors publish; and the words of NLTK on their texts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_unlearn.evaluation.metrics.text import ngram_entropy, text_entropy
from hf_unlearn.evaluation.records import AnswerScore, ScoredRow

from .common import Comparison, aggregate, borrow, values

SPLITS = {
    "eval_log.json": "retain",
    "eval_log_forget.json": "forget",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}


def compare_tofu(root: Path, report: Comparison) -> None:
    """Forget quality and model utility of the logs that the authors publish, and each part of them."""
    code = borrow(root / "aggregate_eval_stat.py", "get_forget_quality", "get_model_utility")
    older = borrow(root / "utils.py", "get_model_utility")
    logs = {}
    for path in sorted(root.glob("data/ft_epoch5_*/eval_results/ds_size300/eval_log_aggregated.json")):
        log = json.loads(path.read_text(encoding="utf-8"))
        if all(split in log for split in SPLITS):
            logs[path.parents[2].name] = log
    records = {name: read_log(log) for name, log in logs.items()}
    note = f"published logs of {len(logs)} models"
    utilities = {name: code.get_model_utility(log) for name, log in logs.items()}
    ours = [aggregate("model_utility", found) for found in records.values()]
    theirs = [float(found["Model Utility"]) for found in utilities.values()]
    report.add("model_utility", "tofu", [found.value for found in ours], theirs, f"{note}, ROUGE by our words")
    recorded_rouge = [
        aggregate(
            "model_utility", {split: [replace(row, generated=None) for row in rows] for split, rows in found.items()}
        )
        for found in records.values()
    ]
    report.add(
        "model_utility", "tofu", [found.value for found in recorded_rouge], theirs, f"{note}, ROUGE as recorded"
    )
    parts = {"Prob. Retain": "retain.probability", "Truth Ratio Retain": "retain.truth_ratio_preference"}
    parts |= {"Prob. Real World": "world_facts.probability_normalized"}
    parts |= {"Truth Ratio Real Authors": "real_authors.truth_ratio_preference", "ROUGE Retain": "retain.rouge_l_stem"}
    for key, part in parts.items():
        of_them = [float(found[key]) for found in utilities.values()]
        report.add(
            "model_utility", "tofu", [found.details[part] for found in ours], of_them, f"its part {part}, {note}"
        )
    closeness = [float(np.mean(values("truth_ratio_closeness", found["forget"]))) for found in records.values()]
    of_them = [float(found["Truth Ratio Forget"]) for found in utilities.values()]
    report.add("truth_ratio_closeness", "tofu", closeness, of_them, f"means, {note}")
    arithmetic = [
        float(np.mean([min(value, 1 / value) for value in values("truth_ratio_arithmetic", found["forget"])]))
        for found in records.values()
    ]
    of_them = [float(older.get_model_utility(log)["Forget Truth Ratio"]) for log in logs.values()]
    report.add("truth_ratio_arithmetic", "tofu (utils.py)", arithmetic, of_them, f"means of min(t, 1/t), {note}")
    sizes = {name: len(found["forget"]) for name, found in records.items()}
    pairs = [(one, other) for one in logs for other in logs if one != other and sizes[one] == sizes[other]]
    ours_p = [aggregate("forget_quality", records[one], records[other]).value for one, other in pairs]
    theirs_p = [float(code.get_forget_quality(logs[one], logs[other])["Forget Quality"]) for one, other in pairs]
    report.add("forget_quality", "tofu", ours_p, theirs_p, f"{len(pairs)} pairs of published logs")
    rows = [row for found in records.values() for split in found.values() for row in split]
    recorded = [row.values for row in rows]
    plain = [place for place, row in enumerate(rows) if (row.answer + str(row.generated)).isascii()]
    for name in ("rouge_1_stem", "rouge_l_stem"):
        ours_r, theirs_r = values(name, rows), [item[name] for item in recorded]
        report.add(
            name, "tofu (its logs)", [ours_r[place] for place in plain], [theirs_r[place] for place in plain],
            "recorded values, rows in ASCII",
        )  # fmt: skip
        other = sorted(set(range(len(rows))) - set(plain))
        report.add(
            name, "tofu (its logs)", [ours_r[place] for place in other], [theirs_r[place] for place in other],
            "recorded values, rows with other letters",
        )  # fmt: skip
    compare_entropy_of(rows, report)


def read_log(log: dict[str, Any]) -> dict[str, list[ScoredRow]]:
    """Records of a published log."""
    records = {}
    for split, name in SPLITS.items():
        part = log[split]
        records[name] = [
            ScoredRow(
                f"{name}{key}", f"{name}{key}", f"{name}{key}", name,
                values={
                    "probability": math.exp(-loss),
                    "rouge_l_stem": part["rougeL_recall"][key],
                    "rouge_1_stem": part["rouge1_recall"][key],
                },
                answer=part["generated_text"][key][2],
                generated=part["generated_text"][key][1],
                variants={
                    "paraphrased": (AnswerScore(-part["avg_paraphrased_loss"][key], 1),),
                    "perturbed": tuple(AnswerScore(-one, 1) for one in part["average_perturb_loss"][key]),
                },
            )
            for key, loss in part["avg_gt_loss"].items()
        ]  # fmt: skip
    return records


def compare_entropy_of(rows: Sequence[ScoredRow], report: Comparison) -> None:
    """Entropy of real continuations with the words of NLTK and with ours."""
    from nltk.tokenize import NLTKWordTokenizer

    texts = [row.generated or "" for row in rows[:817]]
    theirs = [ngram_entropy(NLTKWordTokenizer().tokenize(text)) for text in texts]
    ours = [text_entropy(text) for text in texts]
    apart = float(np.mean(np.abs(np.subtract(ours, theirs))))
    note = f"NLTK's words against ours, 817 continuations of a published log; {apart:.2g} on average"
    report.add("fluency", "nltk", ours, theirs, note)
