"""The facts that methods are tried on: the shipped recipes for SmolLM2 135M, with another seed and other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

TUNING_SEEDS = (100, 101, 102)
"""Splits of these seeds are for choosing; none of them is in a table of results."""


@dataclass(frozen=True)
class Way:
    """How a cell is computed and attacked.

    Attributes:
        bf16: Whether models are saved, scored and trained in bfloat16; several times as fast where the processor has
            instructions for it.
        epochs: Of RTT.
    """

    bf16: bool = False
    epochs: int = 12


@dataclass(frozen=True)
class Facts:
    """One set of facts.

    Attributes:
        name: Its name.
        says: What is forgotten.
        recipe_name: The shipped recipe that it is taken from.
        drawn: Whether the retain term sees texts that the target writes by itself.
    """

    name: str
    says: str
    recipe_name: str
    drawn: bool = True

    def recipe(self, seed: int, methods: Sequence[Mapping[str, Any]], way: Way) -> dict[str, Any]:
        """The shipped recipe with another split and other methods.

        Args:
            seed: Of the split, of training and of attacks.
            methods: Entries of ``methods``.
            way: How it is computed and attacked.
        """
        text = (files("hf_unlearn") / "recipes" / f"{self.recipe_name}.yaml").read_text(encoding="utf-8")
        content: dict[str, Any] = yaml.safe_load(text)
        content |= {"name": f"real-{self.name}-{seed}", "seed": seed, "methods": [dict(each) for each in methods]}
        # Of methods nobody knows beforehand what the verdict must be, and a never-knew model needs no second one here.
        content.pop("controls", None)
        if "world" in content["data"]:
            content["data"]["world"]["seed"] = seed
        if "scratch" in content["model"]:
            content["model"]["scratch"]["seed"] = seed
        if not self.drawn:
            content["data"].pop("keep_drawn", None)
        # Run to its end: what a dip hides comes back after it.
        content["attack"]["rtt"] |= {"epochs": way.epochs, "patience": 0}
        if way.bf16:
            _compute_in_bf16(content)
        return content


def _compute_in_bf16(content: dict[str, Any]) -> None:
    """Saves and scores all models in bfloat16, and computes every training in it. Steps stay in float32."""
    content["model"]["dtype"] = "bfloat16"
    if "scratch" in content["model"]:
        content["model"]["scratch"]["bf16"] = True
    content["methods"] = [{**method, "bf16": True} for method in content["methods"]]
    content["attack"]["rtt"]["bf16"] = True
    # As a model stands, it is in this format already.
    content["export"]["formats"] = [name for name in content["export"]["formats"] if name != "bf16"]


SETS: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts("capitals", "capitals of 45 countries, in both directions", "smollm2-capitals"),
        Facts(
            "capitals-undrawn",
            "the same, with no texts of the target in the retain term",
            "smollm2-capitals",
            drawn=False,
        ),
        Facts("symbols", "symbols of 36 chemical elements, in both directions", "smollm2-symbols"),
        Facts("cities", "the countries that 70 cities are in", "smollm2-cities"),
        Facts("tofu", "20 authors of TOFU, learned by fine-tuning", "smollm2-tofu"),
    )
}
"""By name. The first four are knowledge from pretraining."""
