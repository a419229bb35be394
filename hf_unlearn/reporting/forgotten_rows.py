"""Whether the model alone gives away which rows were forgotten, for people."""

from __future__ import annotations

from ..verification.forgotten_rows import ForgottenRowsRow
from ..verification.references import IDENTITY
from .results import Results
from .words import show

_LOWER = {
    "loss": "forgotten answers are likelier than holdout ones",
    "entropy": "the model is surer of its words in forgotten answers",
    "refusals": "forgotten rows are refused less often",
}
_HIGHER = {
    "loss": "forgotten answers are less likely than holdout ones",
    "entropy": "the model is less sure of its words in forgotten answers",
    "refusals": "forgotten rows are refused more often",
}


def forgotten_rows_sentence(results: Results, model: str) -> str:
    """What somebody who has only this model can tell; empty where there were no holdout rows to compare with.

    Args:
        results: The report that was read.
        model: The model.
    """
    rows = [row for row in results.forgotten_rows(model) if row.auc is not None]
    if not rows:
        return ""
    row = next((each for each in rows if each.transform == IDENTITY), rows[0])
    beside = f"; a model that never knew: {never}" if (never := never_words(results, row.transform)) else ""
    if row.ci95 is None:
        told = "Too few groups to say whether the model alone tells forgotten rows from holdout rows"
    elif row.ci95[0] > 0.5:
        told = f"Somebody who has only this model can tell forgotten rows from holdout rows: {strongest_words(row)}"
    else:
        told = "Nothing shows that the model alone tells forgotten rows from holdout rows"
    return f"{told} (AUC {auc_words(row)} {results.where(row.transform)}, 0.5 is a guess{beside})."


def auc_words(row: ForgottenRowsRow) -> str:
    """The two-sided AUC with its interval."""
    ends = f" [{show(row.ci95[0], 2)}, {show(row.ci95[1], 2)}]" if row.ci95 else ""
    return f"{show(row.auc, 2)}{ends}"


def strongest_words(row: ForgottenRowsRow) -> str:
    """How forgotten rows differ, by the signal that tells most; empty without one."""
    found = row.strongest
    if found is None:
        return ""
    return (_LOWER if found.auc > 0.5 else _HIGHER).get(found.signal, "")


def signals_words(row: ForgottenRowsRow) -> str:
    """Every signal, one-sided: ``loss 0.12, entropy 0.47``."""
    return ", ".join(f"{each.signal} {show(each.auc, 2)}" for each in row.signals)


def never_words(results: Results, transform: str) -> str:
    """The never-knew model's AUC under the same transform; empty where there is none."""
    return next((auc_words(row) for row in results.forgotten_rows("never_knew") if row.transform == transform), "")


def limit_words(row: ForgottenRowsRow) -> str:
    """How much is allowed, for a table."""
    return "not judged" if row.threshold is None else show(row.threshold, 2)
