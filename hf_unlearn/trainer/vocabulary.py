"""Whether two models speak of the same tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import RequestError


def check_same_vocabulary(model: str | nn.Module, reference: str | nn.Module | None) -> None:
    """Refuse a reference model of other tokens than the model. Of ids and folders only the settings are read.

    Raises:
        RequestError: The vocabularies differ in size.
    """
    if reference is None:
        return
    own, other = _size(model), _size(reference)
    if own is not None and other is not None and own != other:
        raise RequestError(
            f"ref_model has a vocabulary of {other} tokens and the model one of {own}: its probabilities are of other "
            "tokens; give a reference with the same tokenizer, or leave ref_model out"
        )


def _size(model: str | nn.Module) -> int | None:
    """``None`` where it cannot be told; loading the model then says what is wrong."""
    config: Any = getattr(model, "config", None)
    if isinstance(model, str):
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError):
            return None
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, "vocab_size", None)
