"""What a model can read: tokens of its vocabulary, and as many as it has positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..data.encoding import EncodedRow
from ..errors import RequestError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def _settings(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def vocabulary_size(model: nn.Module) -> int | None:
    """How many tokens the model has embeddings for; ``None`` if it does not say."""
    embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
    found = getattr(embeddings, "num_embeddings", None)
    return found if found else getattr(_settings(model), "vocab_size", None)


def context_length(model: nn.Module) -> int | None:
    """The most tokens the model takes, or ``None`` if its config does not say."""
    return getattr(_settings(model), "max_position_embeddings", None)


def padding_id(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> int:
    """The token that fills rows up: the pad token, or the end-of-text token where there is none.

    Padding is masked by length, so any will do where neither has an embedding.
    """
    own, size = tokenizer.pad_token_id, vocabulary_size(model)
    own = tokenizer.eos_token_id if own is None else own
    return 0 if own is None or (size is not None and not 0 <= own < size) else int(own)


def refuse_unfit(model: nn.Module, rows: Iterable[EncodedRow], origins: Mapping[str, str]) -> None:
    """Refuse the first row that the model cannot read.

    Args:
        model: Only its settings and its number of embeddings are looked at.
        rows: Encoded rows.
        origins: Row id to where the row came from, for the message.

    Raises:
        RequestError: A row is longer than the model's positions, or has a token beyond its vocabulary.
    """
    positions, size = context_length(model), vocabulary_size(model)
    for row in rows:
        name = origins.get(row.id) or row.id
        if positions is not None and len(row.input_ids) > positions:
            raise RequestError(
                f"{name}: prompt and answer have {len(row.input_ids)} tokens, more than the {positions} of the model: "
                "shorten the row or take it out"
            )
        refuse_unknown_ids(row.input_ids, size, name)


def refuse_unknown_ids(ids: Iterable[int], size: int | None, name: str) -> None:
    """Refuse tokens that a model has no embedding for.

    Args:
        ids: Of one row.
        size: How many tokens the model knows; ``None`` where that is not known.
        name: What messages call the row.

    Raises:
        RequestError: There is one.
    """
    highest = max(ids, default=0)
    if size is not None and highest >= size:
        raise RequestError(
            f"{name}: its token {highest} is beyond the {size} of the model's vocabulary: the tokenizer is not that "
            "of the model, or the model was not resized when tokens were added to it (resize_token_embeddings)"
        )
