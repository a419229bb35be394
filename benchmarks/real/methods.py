"""The methods of the study. Rates are those of a first look at another split, and the same on every set; that of
``auto`` is found on the model at hand, as it is by default."""

from __future__ import annotations

from typing import Any

from benchmarks.frontier.methods import PLAIN, Method

CHECKPOINTS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 100}
"""A run of some hours needs them."""

_ONE_PASS: dict[str, Any] = {
    "retain_loss_type": "kl",
    "retain_weight": 10.0,
    "retain_per_forget": 2,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 8,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant",
}


_LORA: dict[str, Any] = {"peft": {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}}
"""Adapters on the linear layers alone: embeddings and head, which are one matrix here, stay as they are."""


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(PLAIN, "NPO + 10 KL, eight passes", {**_ONE_PASS, "loss_type": "npo", "beta": 0.1}),
        Method("ga-kl", "gradient ascent + 10 KL", {**_ONE_PASS, "loss_type": "ga", "learning_rate": 5e-6}),
        Method("simnpo", "SimNPO + 10 KL", {**_ONE_PASS, "loss_type": "simnpo"}),
        Method("rmu", "RMU at layer 10 + 10 KL", {**_ONE_PASS, "loss_type": "rmu", "loss_kwargs": {"layer": 10}}),
        Method(
            "undo",
            "NPO + 10 KL, then 20 % of the way to noise, distilled on the retain set",
            {
                **_ONE_PASS,
                "loss_type": "npo",
                "beta": 0.1,
                "num_train_epochs": 32,
                "robust": [{"name": "undo", "unlearn_steps": 48, "alpha": 0.2}],
            },
        ),
        Method(
            "auto",
            "rounds of ascent and repair, an attack rehearsed before each, until no fact is left; it finds its rate",
            {"robust": "auto", "per_device_train_batch_size": 16},
        ),
        Method(
            "npo-kl-lora",
            "NPO + 10 KL with LoRA of rank 32 on all linear layers",
            {**_ONE_PASS, **_LORA, "loss_type": "npo", "beta": 0.1, "learning_rate": 2e-4},
        ),
        Method(
            "auto-lora",
            "`auto` with the same adapters; it finds its rate",
            {**_LORA, "robust": "auto", "per_device_train_batch_size": 16},
        ),
    )
}
