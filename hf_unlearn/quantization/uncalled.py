"""Layers that a model never calls: it multiplies by their weight itself, so that none may take their place."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..models.decoder import linear_layers
from ..models.loading import empty_model_of


class _PackedWeight:
    """Stands for a weight in a few bits: its type and place can be asked for, and nothing can be computed with it."""

    def __init__(self, like: Tensor) -> None:
        self.dtype, self.device, self.shape = like.dtype, like.device, like.shape
        self.used = False

    @classmethod
    def __torch_function__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        for each in (*args, *(kwargs or {}).values()):
            if isinstance(each, cls):
                each._use()
        raise TypeError

    def _use(self, *_: object) -> NoReturn:
        self.used = True
        raise TypeError

    __matmul__ = __rmatmul__ = __mul__ = __rmul__ = __add__ = __getitem__ = __getattr__ = _use


class _PackedLayer(nn.Module):
    """Stands for a quantized layer, which can be called."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.weight = _PackedWeight(layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the right shape, with nothing in it."""
        return inputs.new_empty((*inputs.shape[:-1], self.out_features))


def uncalled_layers(config: PretrainedConfig) -> list[str]:
    """Names of linear layers whose weight is computed with in a forward pass, without a call of the layer.

    The pass is made without weights, on the ``meta`` device. It ends at the first such layer, or where an architecture
    cannot be run without numbers; what was found until then is returned.

    Args:
        config: The model's.
    """
    model = empty_model_of(config)
    stand_ins = {name: _PackedLayer(layer) for name, layer in linear_layers(model).items()}
    for name, stand_in in stand_ins.items():
        model.set_submodule(name, stand_in)
    ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
    # Attention makes its mask of numbers, unless it is given a whole one, which other architectures cannot take.
    for mask in (None, torch.zeros((1, 1, 2, 2), device="meta")):
        try:
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask, use_cache=False)
        except Exception:  # whatever an architecture does on this device: only the use of weights is looked at
            continue
    return [name for name, stand_in in stand_ins.items() if stand_in.weight.used]
