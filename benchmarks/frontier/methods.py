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
_ROUNDS: dict[str, Any] = {
    "retain_loss_type": "kl",
    "retain_per_forget": 2,
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "warmup_stable_decay",
}


def rounds(loss: str, unlearn: int, heal: int, count: int, last: int, **cycles: Any) -> dict[str, Any]:
    """Settings of cycles: the rate falls in the last, healing steps only.

    Args:
        loss: Forget loss.
        unlearn: Steps of each phase of unlearning.
        heal: Steps of each phase of healing.
        count: Rounds.
        last: Steps that only heal, after all rounds.
        cycles: Further parameters of ``cycles``.
    """
    part = {"name": "cycles", "unlearn_steps": unlearn, "heal_steps": heal, "rounds": count, **cycles}
    length = {"max_steps": count * (unlearn + heal) + last, "lr_scheduler_kwargs": {"num_decay_steps": last}}
    return {"loss_type": loss, "robust": [part], **_ROUNDS, **length}


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
        Method("cycles", "24 rounds of ascent and healing", rounds("ga", 12, 20, 24, 120)),
        Method(
            "cycles-rehearsed",
            "the same, an attack rehearsed before each round",
            rounds("ga", 12, 20, 24, 120, rehearse_steps=8),
        ),
        Method(
            "cycles-rehearsed-cheap",
            "eight such rounds",
            rounds("ga", 12, 20, 8, 100, rehearse_steps=8),
        ),
    )
}
