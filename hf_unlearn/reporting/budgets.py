"""What an attack could spend, in words that a reader of one report understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_WORDS: Mapping[str, tuple[str, str]] = {
    "first_rows": ("{} row to fine-tune on before", "{} rows to fine-tune on before"),
    "facts_trained_on": ("{} fact to train on", "{} facts to train on"),
    "rows": ("{} row to train on", "{} rows to train on"),
    "facts_asked_for": ("{} fact to ask for", "{} facts to ask for"),
    "epochs": ("{} epoch", "{} epochs"),
    "steps": ("{} step", "{} steps"),
    "max_steps": ("at most {} step", "at most {} steps"),
    "min_retain": ("each rate until less than {} of the retain score is left", ""),
    "learning_rate": ("learning rate {}", ""),
    "learning_rates": ("learning rate {}", "learning rates {}"),
    "rates": ("learning rate {}", "learning rates {}"),
    "gives_up_after": ("given up after {} epoch without gain", "given up after {} epochs without gain"),
    "samples": ("{} sample of every answer", "{} samples of every answer"),
    "k": ("the best of {}", "the best of {}"),
    "shots": ("{} solved example before the question", "{} solved examples before the question"),
    "other_prompts": ("{} other prompt", "{} other prompts"),
    "factors": ("factor {}", "factors {}"),
}
"""For one, and for several."""

TOLD_WITH_FOLDS = ("folds", "run_folds", "groups_in_T", "groups_in_V")
"""Settings that :func:`folds_phrase` says."""

Plain = Callable[[Any], str]
"""Writes one value, or several."""


def budget_phrases(budget: Mapping[str, Any], folds_run: int | None, plain: Plain) -> list[str]:
    """The settings that have words of their own, the parts that facts were split into first.

    Args:
        budget: As the report has it.
        folds_run: In how many folds the attack was made, if the report says it.
        plain: How values are written.
    """
    return [*folds_phrase(budget, folds_run, plain), *setting_phrases(budget, plain)]


def setting_phrases(budget: Mapping[str, Any], plain: Plain) -> list[str]:
    """``6 epochs``, ``learning rate 0.001`` ...: all that have words but folds."""
    told = []
    for key, (one, several) in _WORDS.items():
        value = budget.get(key)
        if value in (None, [], "") or (key == "gives_up_after" and not _can_give_up(budget)):
            continue
        single = len(value) == 1 if isinstance(value, list | tuple) else value == 1
        told.append((one if single or not several else several).format(plain(value)))
    return told


def _can_give_up(budget: Mapping[str, Any]) -> bool:
    """Whether there are more epochs than an attacker waits for a gain; with fewer, no rate is ever given up."""
    epochs = budget.get("epochs")
    return not isinstance(epochs, int) or epochs > budget["gives_up_after"]


def folds_phrase(budget: Mapping[str, Any], folds_run: int | None, plain: Plain) -> list[str]:
    """``3 of 5 folds, each trained on 160 groups of forgotten facts and asked for 40 others``.

    Nothing of an attack that splits no facts.
    """
    run = folds_run or budget.get("run_folds")
    made = budget.get("folds", run)
    if not run or (made == 1 and "folds" not in budget):
        return []
    counted = f"{plain(run)} of {plain(made)} folds" if made != run else f"{plain(run)} fold{'s' * (run != 1)}"
    trained, asked = budget.get("groups_in_T"), budget.get("groups_in_V")
    if not trained or not asked:
        return [counted]
    split = f"each trained on {plain(trained)} groups of forgotten facts and asked for {plain(asked)} others"
    return [f"{counted}, {split}"]
