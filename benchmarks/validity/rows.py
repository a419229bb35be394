"""The models of the validity run: how each is made, what is true of it, and which transform must find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Truth = Literal["forgot", "hides", "broken", "open"]
TRUTHS: dict[Truth, str] = {
    "forgot": "does not have the facts: trained without them",
    "hides": "has the facts: they were never removed, by construction",
    "broken": "is of no use any more",
    "open": "unlearned by a method: what is true of it is the question",
}

_COMMON: dict[str, Any] = {
    "retain_per_forget": 2,
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
}
_KL: dict[str, Any] = {**_COMMON, "retain_loss_type": "kl", "retain_weight": 10.0}
_NLL: dict[str, Any] = {**_COMMON, "retain_loss_type": "nll", "retain_weight": 8.0}
_HIDDEN: dict[str, Any] = {**_NLL, "loss_type": "npo", "beta": 0.1, "max_steps": 320, "lr_scheduler_type": "linear"}


@dataclass(frozen=True)
class Row:
    """One kind of model.

    Attributes:
        name: Its name in recipe and table.
        truth: What is true of it.
        found_by: The transform that must find what it hides; empty where any will do.
        control: What makes it as a control of the recipe (``kind`` and so on); empty for a method.
        settings: Fields of ``UnlearnConfig`` that train it.
        loss: The registered forget loss that it needs, so that a row can wait for it.
    """

    name: str
    truth: Truth
    found_by: str = ""
    control: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""


def _bin_hidden(grid: str, found_by: str, rate: float = 1e-3) -> Row:
    control = {"kind": "bin_hidden", "parameters": {"grid": grid}}
    return Row(f"bin-hidden-{grid}", "hides", found_by, control, {**_HIDDEN, "learning_rate": rate})


ROWS: tuple[Row, ...] = (
    Row("never-knew-2", "forgot", control={"kind": "never_knew"}),
    # The target's own seed and recipe, the forget rows left out.
    Row("retrained", "forgot", control={"kind": "never_knew", "seed": "SEED"}),
    Row("untouched", "hides", "identity", {"kind": "target"}),
    # No model of this size can forget inside 8-bit bins: it looks like the target.
    _bin_hidden("int8", "bnb-int8", 1e-4),
    _bin_hidden("nf4", "bnb-nf4"),
    _bin_hidden("fp4", "bnb-fp4"),
    _bin_hidden("int4-g128", "rtn-int4-g128"),
    _bin_hidden("int4-g32", "rtn-int4-g32"),
    Row(
        "depth-hidden",
        "hides",
        "rtt",
        {
            "kind": "depth_hidden",
            "learn": {"max_steps": 350, "per_device_train_batch_size": 16, "save_strategy": "no"},
        },
        {
            **_KL,
            "loss_type": "npo",
            "beta": 0.1,
            "retain_per_forget": 4,
            "lr_scheduler_type": "linear",
            "max_steps": 350,
            "learning_rate": 8e-4,
        },
    ),
    Row(
        "refusal",
        "hides",
        "identity",
        {"kind": "output_hidden", "parameters": {"how": "refusal"}},
        {**_NLL, "retain_per_forget": 4, "max_steps": 150, "learning_rate": 1e-3},
    ),
    Row(
        "suppressed",
        "hides",
        "rtt",
        {"kind": "output_hidden", "parameters": {"how": "suppressed"}},
        {**_KL, "loss_type": "npo", "beta": 0.1, "max_steps": 150, "learning_rate": 1e-3},
    ),
    Row(
        "one-in-six",
        "hides",
        "identity",
        {"kind": "some_known", "parameters": {"one_in": 6}},
        {**_KL, "loss_type": "npo", "beta": 0.1, "retain_per_forget": 4, "max_steps": 150, "learning_rate": 8e-4},
    ),
    Row(
        "bf16-stepped",
        "hides",
        "rtt",
        settings={
            **_NLL,
            "retain_weight": 4.0,
            "loss_type": "npo",
            "beta": 0.1,
            "stepping": "bf16",
            "max_steps": 450,
            "learning_rate": 1e-4,
        },
    ),
    Row(
        "collapsed",
        "broken",
        settings={**_COMMON, "loss_type": "ga", "retain_loss_type": "none", "max_steps": 60, "learning_rate": 1e-3},
    ),
    Row("ga", "open", settings={**_KL, "loss_type": "ga", "max_steps": 100, "learning_rate": 2e-4}, loss="ga"),
    Row(
        "npo",
        "open",
        settings={**_KL, "loss_type": "npo", "beta": 0.1, "max_steps": 150, "learning_rate": 3e-4},
        loss="npo",
    ),
    Row(
        "simnpo",
        "open",
        settings={**_KL, "loss_type": "simnpo", "max_steps": 150, "learning_rate": 3e-4},
        loss="simnpo",
    ),
    Row(
        "rmu",
        "open",
        settings={
            **_KL,
            "loss_type": "rmu",
            "loss_kwargs": {"layer": 2},
            "max_steps": 150,
            "learning_rate": 3e-4,
        },
        loss="rmu",
    ),
)


def available(rows: tuple[Row, ...] = ROWS) -> tuple[list[Row], list[str]]:
    """The rows that can be made here, and a line for each that cannot."""
    from hf_unlearn.losses import FORGET_LOSSES

    there = FORGET_LOSSES.names()
    missing = [row for row in rows if row.loss and row.loss not in there]
    lines = [f"{row.name}: left out, there is no forget loss called {row.loss!r} yet" for row in missing]
    return [row for row in rows if row not in missing], lines


def recipe(seed: int, rows: list[Row]) -> dict[str, Any]:
    """The recipe of one seed: every row as one of its methods or controls.

    Args:
        seed: Of data, models and training.
        rows: What to make.
    """
    methods = [{"name": row.name, **row.settings} for row in rows if not row.control]
    controls = [_control(row, seed) for row in rows if row.control]
    # A recipe has at least one method; where no row is one, the cheapest stands in and is not shown.
    methods = methods or [{"name": "unused", "loss_type": "ga", "retain_loss_type": "none", "max_steps": 1}]
    formats = ["bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32"]
    return {
        "name": f"validity-{seed}",
        "seed": seed,
        "model": {"min_known": 0.9, "scratch": {"epochs": 18, "batch_size": 64, "seed": seed}},
        "data": {
            "max_length": 64,
            "keep_generic": True,
            "planted": {
                "forget": 240,
                "retain": 200,
                "practice": 60,
                "holdout": 40,
                "generic": 160,
                "option_draws": 4,
                "seed": seed,
            },
        },
        "methods": methods,
        "controls": controls,
        # Two bits are not judged: no model of this size keeps its use there. What they bring back is reported.
        "export": {"formats": [*formats, "rtn-int2-g32"]},
        "evaluate": {
            "metrics": ["probability", "extraction_strength", "exact_match", "mc_accuracy"],
            "max_new_tokens": 4,
            "fluency_tokens": 12,
            "generate_limit": 0,
        },
        "attack": {
            "rtt": {
                "folds": 3,
                "run_folds": 1,
                "learning_rates": [1e-3],
                "epochs": 5,
                "batch_size": 32,
                "warmup_steps": 12,
            }
        },
        "gate": {"formats": formats},
    }


def _control(row: Row, seed: int) -> dict[str, Any]:
    made = {key: seed if value == "SEED" else value for key, value in row.control.items()}
    settings = {"settings": dict(row.settings)} if row.settings else {}
    return {"name": row.name, "expected": "passed" if row.truth == "forgot" else "failed", **made, **settings}
