"""A short run that tries a learning rate: its settings, what is measured, and the weights put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.pairing import PaddedRows
from ..errors import RequestError
from ..losses.base import LabelScores
from ..robust.base import OneRound
from ..robust.weights import Weights
from .config import UnlearnConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


_PREPARED = ("forward", "_original_forward", "_is_accelerate_prepared")
"""What accelerate sets on a model that it prepares; what is marked so, it does not prepare again."""


def check_search(args: UnlearnConfig, accelerator: Accelerator, optimizer: object) -> None:
    """Refuse a search for a learning rate where none can be made.

    Raises:
        RequestError: There are several processes, or the optimizer is there already.
    """
    if not args.auto_find_learning_rate:
        return
    if accelerator.num_processes > 1 or accelerator.distributed_type.value != "NO":
        raise RequestError(
            "a learning rate is found by one process, before the model is wrapped or sharded: find it once without a "
            "launcher (training.json names it), or set learning_rate"
        )
    if optimizer is not None:
        raise RequestError(
            "a learning rate cannot be found for an optimizer that exists: set its own, or leave it out"
        )


def trial_settings(args: UnlearnConfig, number: int, one: OneRound, rate: float, folder: str) -> UnlearnConfig:
    """The settings of a run with one round at a constant rate, which writes and logs nothing.

    Args:
        args: Of the whole run.
        number: Place of the part that makes rounds among ``args.robust``.
        one: What takes its place.
        rate: The learning rate.
        folder: An empty folder.
    """
    trial = copy.copy(args)
    robust: list = list(args.robust)
    robust[number] = one.part
    trial.robust = robust
    trial.max_steps = one.steps
    trial.learning_rate = rate
    trial.auto_find_learning_rate = trial.auto_find_batch_size = False
    trial.lr_scheduler_type, trial.warmup_steps = "constant", 0
    trial.output_dir = folder
    trial.save_strategy = trial.eval_strategy = trial.logging_strategy = "no"
    trial.report_to, trial.push_to_hub, trial.disable_tqdm = [], False, True
    trial.resume_from_checkpoint = None
    trial.peft = trial.model_init_kwargs = None  # the model is loaded, and has its adapters
    return trial


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """The trained weights are the same afterwards, bit for bit, and neither gradients nor a wrapped forward are left.

    For a run in 16 bits accelerate wraps the forward method of the model, and what it offers to unwrap it takes off
    what transformers has put around it too.
    """
    before = Weights(model)
    wrapped = {name: vars(model)[name] for name in _PREPARED if name in vars(model)}
    try:
        yield
    finally:
        before.put_back(model)
        for name in _PREPARED:
            vars(model).pop(name, None)
        vars(model).update(wrapped)
        model.zero_grad(set_to_none=True)


@torch.no_grad()
def mean_logp(batches: Iterable[PaddedRows], score: Callable[[PaddedRows], LabelScores]) -> float:
    """Mean log-probability of the labels of some rows, in nats per token.

    Args:
        batches: The rows.
        score: The model's current scores at the labels of a micro-batch.
    """
    total, count = 0.0, 0
    for batch in batches:
        logps = score(batch).logps.double()
        total, count = total + float(logps.sum()), count + logps.numel()
    return total / max(count, 1)
