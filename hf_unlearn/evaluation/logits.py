"""Logits at chosen positions only, so that the vocabulary projection never sees prompts and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.memory import is_out_of_memory
from .batch import Batch, padded_batch
from .trees import grow_trees, tree_batch

# Float32 logits held at a time. On a CPU what stays in its cache is faster; with fewer positions than this the head's
# weights are read too often.
_LOGITS_AT_ONCE = {"cpu": 2**20}
_LOGITS_AT_ONCE_ELSEWHERE = 2**26
_LEAST_POSITIONS = 128
# Attention functions that take any mask.
_FREE_MASKS = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "attention_chunk_size")

Finish = Callable[[torch.Tensor], torch.Tensor]


class SelectedLogits:
    """A model's next-token logits at chosen positions.

    Where the family allows it, the backbone runs alone and its output head is applied to the chosen positions. That
    is compared once with the whole model; families in which it makes a difference run whole.
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

    @property
    def backbone(self) -> nn.Module | None:
        """What runs without the head, or ``None`` where the whole model runs."""
        return None if self._parts is None else self._parts[0]

    @cached_property
    def longest_branching(self) -> int:
        """Longest text of a tree of tokens that this model scores exactly; 0 where it cannot score trees at all.

        Recurrent layers carry a state from token to token, and attention that sees a window counts neighbours in
        the input: neither knows of trees. Windows do not matter to texts that are shorter.
        """
        config = self._model.config.get_text_config()
        if self._model.config._attn_implementation not in _FREE_MASKS or not self._trees_are_exact():
            return 0
        windows = [getattr(config, name, None) for name in _WINDOWS]
        if not getattr(config, "use_sliding_window", True):
            windows[0] = None
        lengths = [window for window in windows if isinstance(window, int)]
        return min(lengths, default=2**31)

    def select(self, batch: Batch, rows: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """What :meth:`project` makes logits of, at ``(rows[i], positions[i])``: ``[chosen, hidden or vocabulary]``."""
        source = self._source(batch)
        return source[torch.tensor(rows, device=source.device), torch.tensor(positions, device=source.device)]

    def project(self, selected: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``[chosen, vocabulary]``."""
        if self._parts is None:
            return selected.float()
        _, head, finish = self._parts
        return finish(head(selected)).float()

    def parts(self, count: int) -> Iterator[slice]:
        """Slices of ``count`` positions whose logits can be held at a time."""
        at_once = _LOGITS_AT_ONCE.get(self.device.type, _LOGITS_AT_ONCE_ELSEWHERE)
        size = max(_LEAST_POSITIONS, at_once // self._model.config.get_text_config().vocab_size)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def chunks(
        self, batch: Batch, rows: Sequence[int], positions: Sequence[int]
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Float32 logits of ``(rows[i], positions[i])``, a limited number at a time.

        Yields:
            The part of ``rows`` and ``positions`` that a chunk belongs to, and its logits.
        """
        selected = self.select(batch, rows, positions)
        for part in self.parts(len(rows)):
            yield part, self.project(selected[part])

    def _source(self, batch: Batch) -> torch.Tensor:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        inputs["attention_mask"] = batch.attention_mask
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids
            if self._model.config._attn_implementation == "eager":  # adds its mask instead of asking it
                hidden = torch.finfo(self._model.dtype).min
                inputs["attention_mask"] = (~batch.attention_mask).to(self._model.dtype) * hidden
        if self._parts is None:
            return self._model(**inputs).logits
        return self._parts[0](**inputs).last_hidden_state

    def _trees_are_exact(self) -> bool:
        vocabulary = self._model.config.get_text_config().vocab_size
        tokens = ((1, 2, 3, 4, 5, 6), (1, 2, 3, 7, 8), (1, 2, 3, 9))
        texts = [[token % vocabulary for token in text] for text in tokens]
        trees = grow_trees(texts, ["", "", ""], width=2**20, longest_branching=8)
        if len(trees) != 1 or trees[0].is_chain:  # a vocabulary of a few tokens
            return False
        try:
            with torch.inference_mode():
                packed = self._source(tree_batch(trees, self.device))[0].float()
                plain = self._source(padded_batch(texts, self.device)).float()
        except (
            TypeError,
            ValueError,
            RuntimeError,
            AttributeError,
            NotImplementedError,
            KeyError,
            IndexError,
        ) as error:
            if is_out_of_memory(error):
                raise
            # Families that take no such mask or positions say so in all of these ways. They run text by text, which
            # raises whatever else is wrong with the model.
            return False
        alone = [plain[place, : len(text)] for place, text in enumerate(texts)]
        together = [packed[list(path)] for path in trees[0].paths]
        return _same(torch.cat(alone), torch.cat(together), self._model)


def _same(one: torch.Tensor, other: torch.Tensor, model: PreTrainedModel) -> bool:
    allowed = 2e-2
    if model.dtype == torch.float32:
        # Kernels of quantized weights round by batch.
        allowed = 1e-4 if getattr(model, "hf_quantizer", None) is None else 5e-2
    # Numbers that are not finite are for the caller to report, with the row they belong to.
    return bool(not one.isfinite().all() or (one - other).norm() <= allowed * one.norm())


def _finish(config: Any) -> Finish:
    """What some families do to logits after their head."""
    softcap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    if not all(isinstance(number, int | float) for number in (softcap or 1.0, factor, divisor)):
        return lambda logits: logits  # the comparison with the whole model decides
    scale = factor / divisor
    if softcap:
        return lambda logits: torch.tanh(logits * (scale / softcap)) * softcap
    return (lambda logits: logits) if scale == 1.0 else lambda logits: logits * scale


def _backbone_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module, Finish] | None:
    config = model.config.get_text_config()
    backbone, head = model.get_decoder(), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        return None
    finish = _finish(config)
    length = min(8, getattr(config, "max_position_embeddings", None) or 8)
    ids = (torch.arange(length, device=model.device) % config.vocab_size).unsqueeze(0)
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        hidden = getattr(backbone(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape[-1] != getattr(head, "in_features", hidden.shape[-1]):
            return None
        parts = finish(head(hidden)).float()
    allowed = 1e-4 if model.dtype == torch.float32 else 2e-2
    same = not whole.isfinite().all() or (whole - parts).norm() <= allowed * whole.norm()
    return (backbone, head, finish) if same else None
