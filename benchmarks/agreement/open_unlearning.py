"""locuslab/open-unlearning: likelihood, truth ratio, membership, PrivLeak, forget quality, model utility."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_unlearn.evaluation.records import ScoredRow

from .common import Comparison, aggregate, borrow, borrow_inner, values
from .random_rows import FixedModel, random_answers, random_batch, random_texts, without_end


def compare_open_unlearning(root: Path, report: Comparison) -> None:
    """Likelihood, truth ratio, membership, PrivLeak, forget quality, model utility."""
    source, where = "open-unlearning", root / "src" / "evals" / "metrics"
    tools = borrow(
        where / "utils.py", "aggregate_to_1D", "evaluate_probability", "tokenwise_logprobs", "tokenwise_vocab_logprobs"
    )
    around = {
        **vars(tools),
        "DataLoader": lambda data, **_: data,
        "run_batchwise_evals": lambda model, data, compute, *_: dict(enumerate(compute(model, data))),
    }
    memorization = borrow(
        where / "memorization.py", "probability", "probability_w_options", "truth_ratio",
        "exact_memorization", "extraction_strength", **around,
    )  # fmt: skip
    model, batch, rows = random_batch(1)
    shortened = without_end(batch)

    def by_index(compute: Callable[..., Any], given: dict[str, torch.Tensor], key: str) -> list[float]:
        result = compute(model, data=given, collators=None, batch_size=1)["value_by_index"]
        return [float(item[key]) for item in result.values()]

    report.add(
        "probability", source, values("probability", rows), by_index(memorization.probability, shortened, "prob")
    )
    found = by_index(memorization.exact_memorization, batch, "score")
    report.add("exact_memorization", source, values("exact_memorization", rows), found)
    ours, theirs = values("extraction_strength", rows), by_index(memorization.extraction_strength, batch, "score")
    last_hit = [row.hits[-1] for row in rows]
    report.add(
        "extraction_strength", source,
        [one for one, hit in zip(ours, last_hit, strict=True) if hit],
        [one for one, hit in zip(theirs, last_hit, strict=True) if hit],
        "rows whose last token is hit",
    )  # fmt: skip
    report.add(
        "extraction_strength", source,
        [one + 1 / len(row.hits) for one, row, hit in zip(ours, rows, last_hit, strict=True) if not hit],
        [one for one, hit in zip(theirs, last_hit, strict=True) if not hit],
        "rows whose last token is missed, after adding the 1/n that ours leaves out",
    )  # fmt: skip
    compare_answers(memorization, report, source)
    compare_attacks(where / "mia", tools, batch, shortened, model, rows, report, source)
    compare_generated(
        report, source, borrow_inner(where / "utils.py", "eval_rouge_recall_batch"),
        {"rouge_1_stem": "rouge1_recall", "rouge_l_stem": "rougeL_recall"},
    )  # fmt: skip
    privacy = borrow(where / "privacy.py", "ks_test", "privleak")
    compare_privacy(privacy, borrow(where / "utility.py", "hm_aggregate"), report, source)


def compare_answers(memorization: SimpleNamespace, report: Comparison, source: str) -> None:
    """Truth ratio in three aggregations and the probability against wrong answers."""

    def computed(rows: Sequence[ScoredRow]) -> dict[str, Any]:
        right = {n: {"avg_loss": -row.variants["paraphrased"][0].mean} for n, row in enumerate(rows)}
        own = {n: {"prob": value} for n, value in enumerate(values("probability", rows))}
        wrong = {
            n: {
                "avg_loss": [-score.mean for score in row.variants["perturbed"]],
                "prob": [math.exp(score.mean) for score in row.variants["perturbed"]],
            }
            for n, row in enumerate(rows)
        }
        return {"ratio": _parts(right, wrong), "options": _parts(own, wrong)}

    for lowest, note in ((-6.0, ""), (-40.0, "losses up to 40 nats per token, where the 1e-10 added there outweighs")):
        rows = random_answers(2, lowest)
        given = computed(rows)
        for name, how in (("truth_ratio", "closer_to_1_better"), ("truth_share", "prob_mean")):
            result = memorization.truth_ratio(None, pre_compute=given["ratio"], aggregator=how)
            theirs = [float(item["score"]) for item in result["value_by_index"].values()]
            ours = values(name, rows)
            if lowest < -6 and name == "truth_ratio":  # beyond all bounds: compare the logarithms
                ours, theirs, name = [math.log(x) for x in ours], [math.log(x) for x in theirs], "log truth_ratio"
            report.add(name, source, ours, theirs, note)
        for name, how in (("truth_ratio_closeness", "closer_to_1_better"), ("truth_ratio_preference", "true_better")):
            result = memorization.truth_ratio(None, pre_compute=given["ratio"], aggregator=how)["agg_value"]
            report.add(name, source, [float(np.mean(values(name, rows)))], [float(result)], note or "mean of 300 rows")
        result = memorization.probability_w_options(None, pre_compute=given["options"])["value_by_index"]
        theirs = [float(item["prob"]) for item in result.values()]
        report.add("probability_normalized", source, values("probability_normalized", rows), theirs, note)


def _parts(correct: Any, wrong: Any) -> dict[str, Any]:
    return {"correct": {"value_by_index": correct}, "wrong": {"value_by_index": wrong}}


def compare_attacks(
    where: Path,
    tools: SimpleNamespace,
    batch: dict[str, torch.Tensor],
    shortened: dict[str, torch.Tensor],
    model: FixedModel,
    rows: Sequence[ScoredRow],
    report: Comparison,
    source: str,
) -> None:
    """Scores per row, and the AUC."""

    class Attack:
        model: Any

    texts = [row.answer for row in rows]
    around = {**vars(tools), "Attack": Attack, "extract_target_texts_from_processed_data": lambda *_: texts}
    low = borrow(where / "min_k.py", "MinKProbAttack", **around).MinKProbAttack
    files = {
        "loss": (borrow(where / "loss.py", "LOSSAttack", **around).LOSSAttack, shortened),
        "zlib_ratio": (borrow(where / "zlib.py", "ZLIBAttack", **around).ZLIBAttack, shortened),
        "min_k": (low, batch),
        "min_k_plus_plus": (
            borrow(
                where / "min_k_plus_plus.py", "MinKPlusPlusAttack", MinKProbAttack=low, **around
            ).MinKPlusPlusAttack,
            batch,
        ),
    }
    for name, (attack_class, given) in files.items():
        attack = attack_class()
        attack.model, attack.k, attack.tokenizer = model, 0.4, None
        theirs = [float(attack.compute_score(item)) for item in attack.compute_batch_values(dict(given))]
        report.add(name, source, values(name, rows), theirs)
    other = random_batch(2)[2]
    reference = borrow(where / "reference.py", "ReferenceAttack", **around).ReferenceAttack()
    losses = [
        {"target_loss": a, "ref_loss": b} for a, b in zip(values("loss", rows), values("loss", other), strict=True)
    ]
    split = {"forget": losses[:120], "holdout": losses[120:]}
    area = _mia_auc(where, [[reference.compute_score(item) for item in split[key]] for key in split])
    ours = aggregate(
        "mia_reference",
        {"forget": rows[:120], "holdout": rows[120:]},
        {"forget": _renamed(other[:120], rows), "holdout": _renamed(other[120:], rows[120:])},
    )
    report.add("mia_reference", source, [ours.value], [area], "AUC of 120 and 180 rows")
    for name in ("loss", "min_k"):
        scores = values(name, rows)
        area = _mia_auc(where, [scores[:120], scores[120:]])
        ours = aggregate(f"mia_{name}", {"forget": rows[:120], "holdout": rows[120:]})
        report.add(f"mia_{name}", source, [ours.value], [area], "AUC of 120 and 180 rows")


def _renamed(rows: Sequence[ScoredRow], like: Sequence[ScoredRow]) -> list[ScoredRow]:
    return [replace(row, id=other.id, fact=other.fact) for row, other in zip(rows, like, strict=False)]


def _mia_auc(where: Path, scores: Sequence[Sequence[float]]) -> float:
    waiting: Iterator[Sequence[float]] = iter(scores)

    class Ready:
        def __init__(self, **_: Any) -> None:
            self.scores = next(waiting)

        def attack(self) -> dict[str, Any]:
            return {"value_by_index": {n: {"score": value} for n, value in enumerate(self.scores)}}

    data = {"forget": None, "holdout": None}
    made = borrow(where / "utils.py", "mia_auc").mia_auc(Ready, None, data, None, 1)
    return float(made["agg_value"])


def compare_privacy(privacy: SimpleNamespace, utility: SimpleNamespace, report: Comparison, source: str) -> None:
    """PrivLeak with a given AUC, forget quality and the harmonic mean."""
    rows = random_batch(1)[2]
    records = {"forget": rows[:120], "holdout": rows[120:]}
    area = aggregate("mia_min_k", records).value
    given = {"pre_compute": {"forget": {"agg_value": area}}, "ref_value": 0.4772}
    theirs = privacy.privleak(None, **given)["agg_value"]
    report.add("privleak", source, [aggregate("privleak", records, reference_auc=1 - 0.4772).value], [theirs])
    rows, other = random_answers(2), random_answers(3)
    ratios = [{n: {"score": value} for n, value in enumerate(values("truth_ratio", some))} for some in (rows, other)]
    theirs = privacy.ks_test(
        None,
        pre_compute={"forget": {"value_by_index": ratios[0]}},
        reference_logs={"retain_model_logs": {"retain": {"value_by_index": ratios[1]}}},
    )["agg_value"]
    found = aggregate("forget_quality", {"forget": rows}, {"forget": other})
    report.add("forget_quality", source, [found.value], [theirs])
    nine = np.random.default_rng(0).uniform(0.05, 1, 9)
    theirs = utility.hm_aggregate(None, pre_compute={n: {"agg_value": value} for n, value in enumerate(nine)})
    from hf_unlearn.evaluation.aggregates.tofu import _harmonic

    report.add(
        "model_utility", source, [float(_harmonic(nine[None])[0])], [float(theirs["agg_value"])], "of nine numbers"
    )


def compare_generated(report: Comparison, source: str, score: Callable[..., Any], names: dict[str, str]) -> None:
    """ROUGE of random texts."""
    texts = random_texts(4)
    rows = [ScoredRow("a", "a", "a", "forget", answer=answer, generated=text) for answer, text in texts]
    theirs = score([text for _, text in texts], [answer for answer, _ in texts])
    for ours, key in names.items():
        report.add(ours, source, values(ours, rows), [item[key] for item in theirs])
