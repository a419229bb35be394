"""A loaded model as it is trained: with adapters, without dropout, in the precision of its steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..robust.weights import trained_parameters
from .adapters import add_adapters
from .models import disable_dropout
from .stepping import check_stepping, round_model

if TYPE_CHECKING:
    from peft import PeftConfig

    from .config import UnlearnConfig

logger = logging.getLogger(__name__)


def made_ready(model: nn.Module, args: UnlearnConfig, adapters: PeftConfig | None) -> nn.Module:
    """The model to train, which is the one given or has it inside.

    Args:
        model: The target; changed in place.
        args: The run's settings.
        adapters: Adapters to put on it; ``None`` for none.

    Raises:
        RequestError: The model cannot have such adapters, or cannot be stepped as the settings say.
    """
    if adapters is not None:
        model = add_adapters(model, adapters)
    if args.disable_dropout:
        disable_dropout(model)
    check_stepping(args.stepping, model, args.deepspeed)
    if args.stepping != "fp32":
        round_model(model)
    if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in trained_parameters(model).values()):
        logger.warning("the trained weights are stored in 16 bits: steps much smaller than a weight are lost")
    return model
