"""jaechan-repo/muse_bench: scores of texts, the AUC as it is turned there, ROUGE, the cut of answers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_unlearn.evaluation.records import ScoredRow

from .common import Comparison, aggregate, borrow, values
from .random_rows import random_batch, random_texts

_STOPS = ["\n\n", "\nQuestion", " Question: ", " "] * 75


def compare_muse(root: Path, report: Comparison) -> None:
    """Min-k and the other scores of texts, the AUC as it is turned there, ROUGE, the cut of answers."""
    from rouge_score import rouge_scorer

    source = "muse_bench"
    rows = random_batch(1)[2]
    known = {row.answer: row for row in rows}

    def compute_ppl(text: str, *_: Any, **__: Any) -> tuple[float, list[float], float]:
        if text not in known:  # its lower-case form, of which nothing is compared
            return 1.0, [-1.0] * 10, 1.0
        loss = -sum(known[text].logps) / len(known[text].logps)
        return math.exp(loss), list(known[text].logps), loss

    inference = borrow(root / "privleak" / "get_ppl_utils.py", "inference", compute_ppl=compute_ppl).inference
    some = [row for row in known.values() if len(row.logps) > 20]  # shorter ones have no 5 % there
    anything = SimpleNamespace(device=None)
    theirs = [inference(row.answer, anything, anything, None, None) for row in some]
    for ours, key in (("loss", "PPL"), ("zlib_ratio", "PPL/zlib"), ("min_k", "Min-40%")):
        report.add(ours, source, values(ours, some), [item[key] for item in theirs])
    half = len(some) // 3
    sweep = borrow(root / "privleak" / "scripts" / "get_ppl.py", "sweep").sweep
    scores = np.array([item["Min-40%"] for item in theirs])
    area = float(sweep(scores, np.array([0] * half + [1] * (len(some) - half)))[2])
    found = aggregate("privleak", {"forget": some[:half], "holdout": some[half:]}, reference_auc=0.4772)
    report.add("privleak", source, [found.details["auc"]], [area], "the AUC, as it is turned there")
    report.add("privleak", source, [found.value], [100 * (area - 0.4772) / 0.4772])
    code = root / "knowmem" / "get_rouge_qa.py"
    made = borrow(code, "EvalLogger", "get_prefix_before_words_occur", rouge_scorer=rouge_scorer)
    log = made.EvalLogger()
    for answer, text in random_texts(5):
        log.log("", answer, text)
    compared = [ScoredRow("a", "a", "a", "f", answer=answer, generated=text) for answer, text in random_texts(5)]
    for ours, key in {
        "verbmem": "rougeL", "rouge_l_f1": "rougeL", "rouge_l": "rougeL_recall",
        "rouge_1": "rouge1_recall", "rouge_1_f1": "rouge1",
    }.items():  # fmt: skip
        report.add(ours, source, values(ours, compared), [item[key] for item in log.report()[1]])
    cut = made.EvalLogger()
    texts = [
        (answer, f"{text[:20]}{stop}{text}") for (answer, text), stop in zip(random_texts(5), _STOPS, strict=False)
    ]
    for answer, text in texts:
        cut.log("", answer, made.get_prefix_before_words_occur(text, ["\n\n", "\nQuestion", "Question:"]))
    compared = [ScoredRow("a", "a", "a", "f", answer=answer, generated=text) for answer, text in texts]
    report.add("knowmem", source, values("knowmem", compared), [item["rougeL"] for item in cut.report()[1]])
