"""A key-value cache with room for the tokens to come.

The usual cache of generation makes a new tensor of everything it holds for every token and layer, which on a CPU
takes more time than the model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def roomy_cache(model: PreTrainedModel, length: int) -> DynamicCache | None:
    """A cache for one call of ``generate``.

    Args:
        model: What generates.
        length: Tokens of prompt and continuation.

    Returns:
        The cache; ``None`` for families with other caches than one of all tokens in every layer, which make their own.
    """
    supported = getattr(model, "_supports_default_dynamic_cache", None)
    if supported is None or not supported() or getattr(model, "_is_stateful", False):
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer(length) for _ in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values ``[rows, heads, tokens, size]`` as the beginning of tensors that are made once.

    Args:
        length: Tokens there is room for; more are taken as the usual layer takes them.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; returns those of all tokens."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0 and end <= self._length:
            self.lazy_initialization(key_states, value_states)
            self._rooms = (self._room(key_states), self._room(value_states))
        if self._rooms is None or end > self._length:
            self._rooms = None
            return super().update(key_states, value_states, *args, **kwargs)
        keys, values = self._rooms
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty((*states.shape[:-2], self._length, states.shape[-1]))
