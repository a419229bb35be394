"""Logits at chosen positions only, so that the vocabulary projection never sees prompts and padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

# Settings with which some families change logits after their head.
_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
# Float32 logits held at a time: 256 MiB.
_LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Batch:
    """Right-padded inputs.

    Attributes:
        input_ids: ``[rows, time]``.
        attention_mask: ``[rows, time]``, from real lengths.
        members: For each row of the batch, its index in the list the batch was made from.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    members: tuple[int, ...]


def length_batches(inputs: Sequence[Sequence[int]], batch_tokens: int, device: torch.device) -> Iterator[Batch]:
    """Batches of similar length with at most ``batch_tokens`` tokens, padding included (one row at least)."""
    waiting = sorted(range(len(inputs)), key=lambda index: (-len(inputs[index]), index))
    while waiting:
        width = len(inputs[waiting[0]])
        size = max(1, batch_tokens // width)
        members, waiting = waiting[:size], waiting[size:]
        # Id 0 is only filler: padding stands after everything that is read, and is masked.
        ids = torch.zeros((len(members), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, index in enumerate(members):
            ids[place, : len(inputs[index])] = torch.tensor(inputs[index])
            mask[place, : len(inputs[index])] = 1
        yield Batch(ids.to(device), mask.to(device), tuple(members))


class SelectedLogits:
    """A model's next-token logits at chosen positions.

    Where the family allows it, the backbone runs alone and its output head is applied to the chosen positions. That
    is compared once with the whole model; families whose logits are changed after the head run whole.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._parts = _backbone_and_head(model)

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        return self._model.device

    @property
    def whole(self) -> bool:
        """Whether the whole model runs, with logits at all positions."""
        return self._parts is None

    def chunks(
        self, batch: Batch, rows: Sequence[int], positions: Sequence[int]
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Float32 logits ``[chosen, vocabulary]`` of ``(rows[i], positions[i])``, a limited number at a time.

        Yields:
            The part of ``rows`` and ``positions`` that a chunk belongs to, and its logits.
        """
        where = (torch.tensor(rows, device=self.device), torch.tensor(positions, device=self.device))
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        backbone, head = self._parts or (None, nn.Identity())
        source = self._model(**inputs).logits if backbone is None else backbone(**inputs).last_hidden_state
        size = max(1, _LOGITS_AT_ONCE // self._model.config.get_text_config().vocab_size)
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, head(source[where[0][part], where[1][part]]).float()


def _backbone_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module] | None:
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_SETTINGS):
        return None
    backbone, head = model.get_decoder(), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        return None
    length = min(8, getattr(config, "max_position_embeddings", None) or 8)
    ids = (torch.arange(length, device=model.device) % config.vocab_size).unsqueeze(0)
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        hidden = getattr(backbone(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape[-1] != getattr(head, "in_features", hidden.shape[-1]):
            return None
        parts = head(hidden).float()
    allowed = 1e-4 if model.dtype == torch.float32 else 2e-2
    # Logits that are not finite are for the caller to report, with the row they belong to.
    same = not whole.isfinite().all() or (whole - parts).norm() <= allowed * whole.norm()
    return (backbone, head) if same else None
