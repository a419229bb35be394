"""TOFU's two numbers: forget quality and model utility."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RequestError
from ...verification.intervals import MIN_GROUPS, Bootstrap, expanded_percentiles, group_counts
from ...verification.scores import FactScores
from ..metrics.answers import wrong_minus_right
from . import AGGREGATES, AggregateInput, AggregateValue
from .facts import fact_values, reference_rows, set_rows

_QUALITY: dict[str, Any] = {"forget": "forget"}
_UTILITY: dict[str, Any] = {"retain": "retain", "real_authors": "real_authors", "world_facts": "world_facts"}
_BOTH = ("variants:paraphrased", "variants:perturbed")


@AGGREGATES.register(
    "forget_quality",
    summary="p-value that the truth ratios on forget rows are distributed as those of a model that never knew them",
    paper="arXiv 2401.06121, section 2.2.1",
    defaults=_QUALITY,
    needs=("sets:forget", "reference", *_BOTH),
    version=1,
)
def forget_quality(data: AggregateInput) -> AggregateValue:
    """p-value of a two-sided two-sample Kolmogorov-Smirnov test between the truth ratios of both models, one per fact.

    Computed by :func:`scipy.stats.ks_2samp` on the logarithms of the ratios, which changes nothing, since the test
    sees ranks only. Details: ``log10_p``, and the KS ``statistic``, in 0 ... 1. A p-value under the smallest float
    counts as that. A p-value has no interval; it is no measure of size either: with more rows the same difference
    gives a smaller one.

    Raises:
        RequestError: There is no reference, a set is missing, or rows do not line up.
    """
    from scipy.stats import ks_2samp

    name = "forget_quality"
    split = data.options(name, _QUALITY)["forget"]
    theirs = fact_values(reference_rows(data, name, split), name, "truth_ratio", wrong_minus_right)
    ours = fact_values(set_rows(data, name, split), name, "truth_ratio", wrong_minus_right)
    test = ks_2samp(list(ours.values.values()), list(theirs.values.values()))
    p_value = max(float(test.pvalue), sys.float_info.min)
    details = {"log10_p": math.log10(p_value), "statistic": float(test.statistic)}
    return AggregateValue(p_value, len(ours.values), None, details)


@AGGREGATES.register(
    "model_utility",
    summary="harmonic mean of probability, ROUGE-L and truth ratio on retain rows, real authors and world facts",
    paper="arXiv 2401.06121, section 2.2.2",
    defaults=_UTILITY,
    needs=("sets:retain,real_authors,world_facts", "generation", *_BOTH),
    version=1,
)
def model_utility(data: AggregateInput) -> AggregateValue:
    """Harmonic mean of nine means, in 0 ... 1; 0 if one of them is 0.

    On each set: ``rouge_l_stem``, ``truth_ratio_preference``, and ``probability`` (retain rows) or
    ``probability_normalized`` (real authors, world facts). Details hold the nine by ``set.metric``. Sets are
    resampled apart from each other, the three numbers of one set together.

    Raises:
        RequestError: A set is missing, or its rows lack what is needed.
    """
    name = "model_utility"
    options = data.options(name, _UTILITY)
    if len(set(options.values())) < len(options):
        raise RequestError(f"model_utility.retain, real_authors and world_facts must be three sets: {options}")
    sets: list[dict[str, FactScores]] = []
    details: dict[str, float] = {}
    facts = 0
    for key, split in options.items():
        rows = set_rows(data, name, split)
        metrics = ("probability" if key == "retain" else "probability_normalized", *_PARTS)
        scores = {metric: fact_values(rows, name, metric) for metric in metrics}
        sets.append(scores)
        details |= {f"{split}.{metric}": found.mean for metric, found in scores.items()}
        facts += len(scores["truth_ratio_preference"].values)
    value = float(_harmonic(np.array([list(details.values())]))[0])
    return AggregateValue(value, facts, _utility_interval(sets), details)


_PARTS = ("rouge_l_stem", "truth_ratio_preference")


def _utility_interval(sets: Sequence[Mapping[str, FactScores]]) -> tuple[float, float] | None:
    settings = Bootstrap()
    draws, groups = [], []
    for place, scores in enumerate(sets):
        names = sorted({group for found in scores.values() for group in found.groups.values()})
        if len(names) < MIN_GROUPS:
            return None
        counts = group_counts(len(names), settings.draws, settings.seed + place).astype(np.float64)
        groups.append(len(names))
        draws += [_resampled_mean(found, names, counts) for found in scores.values()]
    table = np.stack(draws, axis=1)
    # Where only some facts have a generated text, a resample may have drawn none of them.
    table = table[np.isfinite(table).all(axis=1)]
    return expanded_percentiles(_harmonic(table), min(groups), settings.confidence)


def _resampled_mean(scores: FactScores, names: Sequence[str], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the facts of each resample, shape [draws]; NaN where it has none."""
    place = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(names), 2))
    for fact, value in scores.values.items():
        sums[place[scores.groups[fact]]] += (value, 1.0)
    total = counts @ sums
    return np.divide(total[:, 0], total[:, 1], out=np.full(len(total), np.nan), where=total[:, 1] > 0)


def _harmonic(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic mean of every row of numbers in 0 ... 1; 0 where one of them is 0."""
    safe = np.where(table > 0, table, 1.0)
    return np.where((table > 0).all(axis=1), table.shape[1] / (1 / safe).sum(axis=1), 0.0)
