"""The methods of the study, each with settings chosen on the tuning seeds and none of its cells' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLAIN = "npo-kl"
"""What costs are compared with."""

_ONE_PASS: dict[str, Any] = {
    "retain_loss_type": "kl",
    "retain_weight": 10.0,
    "retain_per_forget": 3,
    "per_device_train_batch_size": 16,
    "max_steps": 200,
    "learning_rate": 3e-4,
}
_AUTO: dict[str, Any] = {"per_device_train_batch_size": 32, "learning_rate": 1e-3}
_LORA: dict[str, Any] = {
    "peft": {"r": 64, "lora_alpha": 64, "modules_to_save": ["embed_tokens", "lm_head"]},
    "learning_rate": 1e-3,
}


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        name: Its name in recipe and table.
        says: What it is, in a few words.
        settings: Fields of ``UnlearnConfig``.
    """

    name: str
    says: str
    settings: Mapping[str, Any]

    def entry(self) -> dict[str, Any]:
        """As a recipe's ``methods`` has it."""
        return {"name": self.name, **self.settings, "save_strategy": "no"}


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(PLAIN, "NPO + 10 KL, one pass", {**_ONE_PASS, "loss_type": "npo", "beta": 0.1}),
        Method("ga-kl", "gradient ascent + 10 KL", {**_ONE_PASS, "loss_type": "ga", "learning_rate": 2e-4}),
        Method("simnpo", "SimNPO + 10 KL", {**_ONE_PASS, "loss_type": "simnpo"}),
        Method("max-entropy", "maximum entropy + 10 KL", {**_ONE_PASS, "loss_type": "max-entropy"}),
        Method(
            "random-incorrect",
            "wrong answers, other ones each epoch, + 10 KL",
            {**_ONE_PASS, "loss_type": "random-incorrect", "alternates": {"name": "other-answers", "count": 40}},
        ),
        Method(
            "rmu",
            "RMU at layer 2 + 10 KL",
            {**_ONE_PASS, "loss_type": "rmu", "loss_kwargs": {"layer": 2}},
        ),
        Method(
            "undo",
            "NPO + 10 KL, then 60 % of the way to noise, distilled on the retain set",
            {
                **_ONE_PASS,
                "loss_type": "npo",
                "beta": 0.1,
                "max_steps": 800,
                "learning_rate": 1e-3,
                "robust": [{"name": "undo", "unlearn_steps": 100, "alpha": 0.6}],
            },
        ),
        Method(
            "auto",
            "rounds of ascent and healing, an attack rehearsed before each, until it brings nothing back",
            {**_AUTO, "robust": "auto"},
        ),
        Method(
            "auto-unrehearsed",
            "auto without rehearsals",
            {**_AUTO, "robust": [{"name": "auto", "rehearse_passes": 0}]},
        ),
        Method("auto-short", "auto with nine rounds", {**_AUTO, "robust": "auto", "num_train_epochs": 16}),
        Method(
            "npo-kl-lora",
            f"{PLAIN} with adapters of rank 64, embeddings and head whole",
            {**_ONE_PASS, **_LORA, "loss_type": "npo", "beta": 0.1},
        ),
        Method(
            "auto-lora",
            "auto with adapters of rank 64, embeddings and head whole, for up to 110 passes",
            {**_AUTO, **_LORA, "robust": "auto", "num_train_epochs": 110},
        ),
    )
}
