"""The facts that methods are tried on: three kinds, and one of them under other conditions, as recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hf_unlearn.data.planted import fact_kind

FORMATS = ("bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32")
METRICS = ("probability", "extraction_strength", "exact_match", "mc_accuracy")
TUNING_SEEDS = (100, 101, 102)
"""Data and models of these seeds are for choosing; none of them is in a table of results."""


@dataclass(frozen=True)
class Kind:
    """One kind of fact.

    Attributes:
        name: Its name.
        says: What the facts are.
        data: The recipe's ``data``, the seed left open.
        model: The recipe's ``model``.
        rates: Learning rates of the retraining attack.
        epochs: Its passes over T.
    """

    name: str
    says: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    rates: tuple[float, ...]
    epochs: int

    def recipe(
        self, seed: int, methods: list[dict[str, Any]], run_folds: int, sources: Mapping[str, str]
    ) -> dict[str, Any]:
        """A whole recipe.

        Args:
            seed: Of data, models, training and attacks.
            methods: Entries of ``methods``.
            run_folds: How many of the five folds of RTT are attacked.
            sources: Set to a local file, where rows do not come from the Hub.
        """
        data, model = dict(self.data), dict(self.model)
        if "planted" in data:
            data["planted"] = {**data["planted"], "seed": seed}
        for name, path in sources.items():
            if name in data:
                own = {key: value for key, value in data[name].items() if key not in ("dataset", "config")}
                data[name] = {**own, "path": path}
        model["scratch"] = {**model["scratch"], "seed": seed}
        attack = {
            "folds": 5,
            "run_folds": run_folds,
            "learning_rates": list(self.rates),
            "epochs": self.epochs,
            "batch_size": 32,
            "warmup_steps": 24,
            "patience": 0,
            "seed": seed,
        }
        return {
            "name": f"frontier-{self.name}-{seed}",
            "seed": seed,
            "model": model,
            "data": data,
            "methods": methods,
            "export": {"formats": list(FORMATS)},
            "evaluate": {"metrics": list(METRICS), "max_new_tokens": 4, "generate_limit": 0},
            "attack": {"rtt": attack},
        }


_SMALL = {"hidden_size": 128, "intermediate_size": 384, "layers": 4, "heads": 4, "kv_heads": 2}
_PLANTED = {"forget": 240, "retain": 240, "practice": 60, "holdout": 40, "generic": 240, "option_draws": 4}


def _planted(name: str, says: str, kind: str) -> Kind:
    return Kind(
        name,
        says,
        {"max_length": 64, "keep_generic": True, "planted": {**_PLANTED, "kind": kind}},
        {"min_known": 0.95, "scratch": {**_SMALL, "vocab_size": 1024, "epochs": 20, "batch_size": 64}},
        rates=(3e-4, 1e-3),
        epochs=6,
    )


YEARS = _planted("years", "birth years of made-up people: a hundred values", "birth_year")
TRADES = _planted("trades", "trades of made-up people: 32 values of one word", "trade")
TOFU = Kind(
    "tofu",
    "questions and answers about made-up authors (TOFU forget10)",
    {
        "max_length": 256,
        "format": {"kind": "plain", "template": "Question: {prompt}\nAnswer:", "separator": " "},
        "forget": {"dataset": "locuslab/TOFU", "config": "forget10", "rows_per_group": 20, "draw_choices": 3},
        "retain": {"dataset": "locuslab/TOFU", "config": "retain90", "limit": 300, "rows_per_group": 20},
    },
    {
        "min_known": 0.9,
        "scratch": {
            **_SMALL,
            "vocab_size": 4096,
            "max_positions": 256,
            "epochs": 24,
            "batch_size": 16,
            "learning_rate": 2.0e-3,
            "labels": "answer",
        },
    },
    (3e-4, 1e-3),
    5,
)


def _years_with(name: str, says: str, **changed: Any) -> Kind:
    return replace(YEARS, name=name, says=f"{YEARS.says}; {says}", **changed)


_NEOX = {**YEARS.model["scratch"], "architecture": "gpt_neox", "kv_heads": _SMALL["heads"]}
_DRAWN = {"texts": 4000, "max_new_tokens": 30}
_STATING = tuple(text.replace("{name}", "") for text in fact_kind("birth_year").train_templates)
"""The sentences that state the facts, without whom they are about: with no fact kept, nothing else tells that their
words are ordinary."""
_TWICE = {name: 2 * _SMALL[name] for name in _SMALL}

MAIN: dict[str, Kind] = {kind.name: kind for kind in (YEARS, TRADES, TOFU)}
"""What settings have to work on."""

CONDITIONS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _years_with("years-neox", "a GPT-NeoX in place of a Llama", model={**YEARS.model, "scratch": _NEOX}),
        _years_with(
            "years-wide",
            "a Llama of twice the width and depth",
            model={**YEARS.model, "scratch": {**YEARS.model["scratch"], **_TWICE}},
        ),
        _years_with(
            "years-tenth",
            "methods see a tenth of the retain facts, and generic text",
            data={**YEARS.data, "retain_at_hand": 0.1},
        ),
        _years_with(
            "years-drawn",
            "methods see a tenth of the retain facts, generic text, and what the target writes by itself",
            data={**YEARS.data, "retain_at_hand": 0.1, "keep_drawn": _DRAWN},
        ),
        _years_with("years-generic", "methods see generic text alone", data={**YEARS.data, "retain_at_hand": 0.0}),
        _years_with(
            "years-generic-drawn",
            "methods see generic text, and what the target writes by itself",
            data={**YEARS.data, "retain_at_hand": 0.0, "keep_drawn": {**_DRAWN, "ordinary": list(_STATING)}},
        ),
    )
}
"""The first kind under other conditions, to which nothing was tuned but how texts are drawn."""

KINDS: dict[str, Kind] = {**MAIN, **CONDITIONS}
