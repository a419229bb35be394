"""What an attack could spend, in words that a reader of one report understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_WORDS: Mapping[str, tuple[str, str]] = {
    "facts_trained_on": ("{} fact to train on", "{} facts to train on"),
    "rows": ("{} row to train on", "{} rows to train on"),
    "facts_asked_for": ("{} fact to ask for", "{} facts to ask for"),
    "epochs": ("{} epoch", "{} epochs"),
    "steps": ("{} step", "{} steps"),
    "learning_rate": ("learning rate {}", ""),
    "learning_rates": ("learning rate {}", "learning rates {}"),
    "rates": ("learning rate {}", "learning rates {}"),
    "gives_up_after": ("stopped after {} epoch without gain", "stopped after {} epochs without gain"),
    "samples": ("{} sample of every answer", "{} samples of every answer"),
    "k": ("the best of {}", "the best of {}"),
    "shots": ("{} solved example before the question", "{} solved examples before the question"),
    "other_prompts": ("{} other prompt", "{} other prompts"),
    "factors": ("factor {}", "factors {}"),
}
"""For one, and for several."""

_TOLD_TOGETHER = ("folds", "run_folds", "groups_in_T", "groups_in_V")


def budget_phrases(budget: Mapping[str, Any], folds_run: int | None, plain: Callable[[Any], str]) -> list[str]:
    """The settings that have words of their own, the parts that facts were split into first.

    Args:
        budget: As the report has it.
        folds_run: In how many folds the attack was made, if the report says it.
        plain: Writes one value, or several.
    """
    told = _folds(budget, folds_run, plain)
    for key, (one, several) in _WORDS.items():
        value = budget.get(key)
        if value in (None, [], ""):
            continue
        single = len(value) == 1 if isinstance(value, list | tuple) else value == 1
        told.append((one if single or not several else several).format(plain(value)))
    return told


def is_told_with_folds(key: str) -> bool:
    """Whether the phrase about folds says a setting."""
    return key in _TOLD_TOGETHER


def _folds(budget: Mapping[str, Any], run: int | None, plain: Callable[[Any], str]) -> list[str]:
    """``3 of 5 folds, each trained on 160 groups of forgotten facts and asked for 40 others``."""
    run = run or budget.get("run_folds")
    if not run:
        return []
    made = budget.get("folds", run)
    of = f" of {plain(made)}" if made != run else ""
    counted = f"{plain(run)}{of} {'fold' if run == 1 and not of else 'folds'}"
    trained, asked = budget.get("groups_in_T"), budget.get("groups_in_V")
    if not trained or not asked:
        return [counted]
    return [
        f"{counted}, each trained on {plain(trained)} groups of forgotten facts and asked for {plain(asked)} others"
    ]
