"""What a forward pass keeps for its backward pass, found by running the layers on the ``meta`` device.

There nothing is stored and nothing computed: tensors have shapes alone. Autograd still says what it keeps, whatever
the family of the model. Two kinds of layers choose their kernels by the values they are given, which a tensor without
values cannot tell, and are replaced by stand-ins that keep what the usual kernels keep: fused attention, and experts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from .._compat import ExpertsInterface
from ..models.decoder import decoder_layers

_NAME = "hf_unlearn_planned"


@dataclass(frozen=True)
class Kept:
    """Bytes that a pass keeps from its forward to its backward.

    Attributes:
        layers: In the decoder layers.
        largest_layer: In the one of them that keeps most.
        inputs: The inputs of all layers, which is all that is kept of them with gradient checkpointing.
        rest: Outside of the layers, output head and loss left out.
    """

    layers: int
    largest_layer: int
    inputs: int
    rest: int

    def bytes(self, *, checkpointing: bool) -> int:
        """At the end of the forward pass; while a checkpointed layer is computed again, all that one keeps."""
        return self.rest + (self.inputs + self.largest_layer if checkpointing else self.layers)


def kept_by(model: Any, rows: int, length: int, dtype: torch.dtype) -> Kept | None:
    """What a pass of these rows keeps.

    Args:
        model: A causal language model on the ``meta`` device, with adapters or without, as it is trained.
        rows: Rows of the pass.
        length: Tokens in each.
        dtype: What is computed in.

    Returns:
        ``None`` where the model cannot be run without values.
    """
    model = copy.deepcopy(model).to(dtype).train()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    stack = decoder_layers(inner)
    ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
    mask = torch.ones((rows, 1, length, length), dtype=torch.bool, device="meta")
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    _use_stand_ins(inner)
    with _watched(stack, weights) as seen:
        try:  # a family may look at values, which meta tensors lack: the plan says when a rule stands in
            inner.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, KeyError, IndexError):
            return None
    of_layers = [seen.bytes.get(number, 0) for number in range(len(stack))]
    width = inner.get_input_embeddings().weight.shape[-1]
    inputs = len(stack) * rows * length * width * dtype.itemsize
    return Kept(sum(of_layers), max(of_layers), inputs, seen.bytes.get(None, 0))


def by_rule(layers: int, width: int, inner: int, rows: int, length: int, itemsize: int) -> Kept:
    """What a pass keeps of a model that cannot be run without values, by a rule for the usual layer.

    Eight tensors of the model's width and four of its widest matrix in each layer.
    """
    tokens = rows * length
    layer = tokens * (8 * width + 4 * inner) * itemsize
    return Kept(layers * layer, layer, layers * tokens * width * itemsize, 3 * tokens * width * itemsize)


class _Seen:
    """What autograd keeps, each storage once, by the layer that was running; ``None`` outside of them."""

    def __init__(self, weights: set[int]) -> None:
        self.bytes: dict[int | None, int] = {}
        self.layer: int | None = None
        self._weights = weights
        self._storages: dict[int, Any] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights and storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage  # alive, so that no other gets its address
            self.bytes[self.layer] = self.bytes.get(self.layer, 0) + storage.nbytes()
        return tensor


@contextmanager
def _watched(stack: nn.ModuleList, weights: set[int]) -> Iterator[_Seen]:
    seen = _Seen(weights)

    def entering(number: int) -> Any:
        def enter(*_: Any) -> None:
            seen.layer = number

        return enter

    def leave(*_: Any) -> None:
        seen.layer = None

    hooks = [layer.register_forward_pre_hook(entering(number)) for number, layer in enumerate(stack)]
    hooks += [layer.register_forward_hook(leave) for layer in stack]
    try:
        with torch.autograd.graph.saved_tensors_hooks(seen.keep, lambda tensor: tensor):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: queries, keys, values, the result, and a number for each row of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        raise RuntimeError("a plan has no backward pass")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """As transformers calls attention: ``[rows, heads, length, width]`` in, ``[rows, length, heads, width]`` out."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # with a mask keys and values are repeated before the kernel
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return _FusedAttention.apply(query, key, value).transpose(1, 2).contiguous(), None


def _experts(module: Any, states: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """Every pair of a token and its expert goes through the first expert's matrices, which have the shape of all."""
    pairs = states.repeat_interleave(chosen.shape[-1], dim=0)
    gated = getattr(module, "has_gate", True)
    up = module.gate_up_proj if gated else module.up_proj
    out = pairs @ _first(up, module)
    out = module._apply_gate(out) if gated else module.act_fn(out)
    out = out @ _first(module.down_proj, module)
    weighted = out * shares.reshape(-1, 1)
    return weighted.view(states.shape[0], chosen.shape[-1], -1).sum(dim=1).to(states.dtype)


def _first(weights: Tensor, module: Any) -> Tensor:
    first = weights[0]
    return first if getattr(module, "is_transposed", False) else first.transpose(0, 1)


def _use_stand_ins(model: Any) -> None:
    """A copy that is only looked at calls the stand-ins; nothing else knows their name."""
    AttentionInterface.register(_NAME, _attention)
    ExpertsInterface.register(_NAME, _experts)
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config._attn_implementation = _NAME
        config._experts_implementation = _NAME
