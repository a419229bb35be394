"""Running single functions of other people's files, and comparing what they give."""

from __future__ import annotations

import ast
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_unlearn.evaluation.aggregates import AGGREGATES, AggregateInput
from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.records import ScoredRow

IGNORED = -100


class Comparison:
    """Scores compared so far.

    Attributes:
        entries: One per score and source: largest difference (absolute; relative where values are above 1), the
            number of values, and what was compared.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, score: str, source: str, ours: Sequence[float], theirs: Sequence[float], note: str = "") -> None:
        """Compare two lists of values of the same rows."""
        pairs = list(zip(ours, theirs, strict=True))
        largest = max(abs(one - other) / max(1.0, abs(other)) for one, other in pairs)
        self.entries.append(
            {"score": score, "source": source, "values": len(pairs), "largest": float(f"{largest:.2g}"), "note": note}
        )
        print(f"{score:28} {source:44} {len(pairs):6} {largest:9.2g}  {note}", flush=True)


def borrow(file: Path, *names: str, **stand_ins: Any) -> SimpleNamespace:
    """Functions and classes of a file by name, without the decorators and the rest of the file.

    Args:
        file: A Python file.
        names: What to take out of it, at any depth.
        stand_ins: Names that the code finds besides numpy, torch and scipy.
    """
    import scipy as sc
    from scipy.stats import hmean, ks_2samp
    from sklearn.metrics import auc, roc_auc_score, roc_curve

    found = {
        node.name: node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names
    }
    space: dict[str, Any] = {
        "np": np, "torch": torch, "nn": torch.nn, "sc": sc, "scipy": sc, "zlib": zlib, "hmean": hmean,
        "ks_2samp": ks_2samp, "roc_auc_score": roc_auc_score, "get_roc_curve": roc_curve, "get_auc": auc,
        "Dict": dict, "List": list, "Tuple": tuple, "IGNORE_INDEX": IGNORED,
        "logger": SimpleNamespace(warning=lambda *_: None), "warnings": SimpleNamespace(warn=lambda *_: None),
        **stand_ins,
    }  # fmt: skip
    for name in names:
        found[name].decorator_list = []
        exec(compile(ast.Module([found[name]], []), str(file), "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})


def values(name: str, rows: Sequence[ScoredRow]) -> list[float]:
    """A metric's values."""
    metric = METRICS.get(name).value
    found = [metric(row) for row in rows]
    assert all(value is not None for value in found), name
    return found  # type: ignore[return-value]


def aggregate(name: str, records: Any, reference: Any = None, **settings: Any) -> Any:
    """An aggregate's value."""
    return AGGREGATES.get(name).value(AggregateInput(records, reference, settings))


def borrow_inner(file: Path, name: str) -> Callable[..., Any]:
    """A function of generated and true texts that makes a ROUGE scorer."""
    from rouge_score import rouge_scorer

    return getattr(borrow(file, name, rouge_scorer=rouge_scorer), name)
