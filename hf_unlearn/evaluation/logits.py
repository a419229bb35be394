"""Logits at chosen positions only: the vocabulary projection never sees prompts and padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.head import Tail, matching_tail, narrowed_head
from ..models.placement import input_device
from ..runtime.environment import is_out_of_memory
from .batch import Batch, grow_trees, padded_batch, tree_batch

# Float32 logits held at a time. On a CPU what stays in its cache is faster; with fewer positions than this the head's
# weights are read too often.
_LOGITS_AT_ONCE = {"cpu": 2**20}
_LOGITS_AT_ONCE_ELSEWHERE = 2**26
_LEAST_POSITIONS = 128
# Attention functions that take any mask.
_FREE_MASKS = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "attention_chunk_size")

# Families that take no such inputs say so in all of these ways.
_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError)


class SelectedLogits:
    """A model's next-token logits at chosen positions.

    Where the family allows it, the model runs without logits, and its output head is applied to the chosen positions.
    That is compared once with the whole model; families in which the result differs run whole.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._head: nn.Module | None = model.get_output_embeddings()
        self._tail = Tail()
        if self._head is not None and not self._gives_the_logits(self._head):
            self._head = None

    @property
    def device(self) -> torch.device:
        """Where inputs have to be, and where results are: the layers of a large model may be on several devices."""
        return input_device(self._model)

    @property
    def whole(self) -> bool:
        """Whether the whole model runs, with logits at all positions."""
        return self._head is None

    @cached_property
    def longest_branching(self) -> int:
        """Longest text of a tree of tokens that this model scores exactly; 0 if it cannot score trees at all.

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
        return self._select(self._inputs(batch), (torch.tensor(rows), torch.tensor(positions)))

    def project(self, selected: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``[chosen, vocabulary]``."""
        if self._head is None:
            return selected.float()
        return self._tail.folded(self._head(selected)).float().to(self.device)

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

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        inputs["attention_mask"] = batch.attention_mask
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids
            if self._model.config._attn_implementation == "eager":  # adds its mask instead of asking it
                hidden = torch.finfo(self._model.dtype).min
                inputs["attention_mask"] = (~batch.attention_mask).to(self._model.dtype) * hidden
        return inputs

    def _select(self, inputs: Mapping[str, Any], chosen: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self._head is None:
            logits: torch.Tensor = self._model(**inputs).logits
            return logits[chosen[0].to(logits.device), chosen[1].to(logits.device)].to(self.device)
        with narrowed_head(self._head, chosen, logits=False) as taken:
            self._model(**inputs)
        (selected,) = taken
        return selected.to(self.device)

    def _gives_the_logits(self, head: nn.Module) -> bool:
        """Find the tail with which the head gives the model's logits; false if there is none."""
        config = self._model.config.get_text_config()
        length = min(8, getattr(config, "max_position_embeddings", None) or 8)
        ids = (torch.arange(length, device=self.device) % config.vocab_size).unsqueeze(0)
        inputs = {"input_ids": ids, "use_cache": False}
        with torch.inference_mode():
            expected = self._model(**inputs).logits[0].float()
            try:
                selected = self._select(inputs, (torch.zeros(length, dtype=torch.long), torch.arange(length)))
                outputs = head(selected)
            except _REFUSALS as error:
                if is_out_of_memory(error):
                    raise
                return False
        tail = matching_tail(self._model, lambda tail: tail.folded(outputs), expected, self._close)
        self._tail = tail or Tail()
        return tail is not None

    def _close(self, logits: torch.Tensor, expected: torch.Tensor) -> bool:
        allowed = 1e-4 if _computed(self._model) == torch.float32 else 2e-2
        return bool(not expected.isfinite().all() or (expected - logits).norm() <= allowed * expected.norm())

    def _trees_are_exact(self) -> bool:
        vocabulary = self._model.config.get_text_config().vocab_size
        tokens = ((1, 2, 3, 4, 5, 6), (1, 2, 3, 7, 8), (1, 2, 3, 9))
        texts = [[token % vocabulary for token in text] for text in tokens]
        trees = grow_trees(texts, ["", "", ""], width=2**20, longest_branching=8)
        if len(trees) != 1 or trees[0].is_chain:  # a vocabulary of a few tokens
            return False
        batches = tree_batch(trees, self.device), padded_batch(texts, self.device)
        try:
            with torch.inference_mode():
                packed, plain = (self._everywhere(batch) for batch in batches)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            # Such a family runs text by text, which raises whatever else is wrong with the model.
            return False
        packed = packed[0]
        alone = [plain[place, : len(text)] for place, text in enumerate(texts)]
        together = [packed[list(path)] for path in trees[0].paths]
        return _same(torch.cat(alone), torch.cat(together), self._model)

    def _everywhere(self, batch: Batch) -> torch.Tensor:
        """What :meth:`select` gives at all positions: ``[rows, time, hidden or vocabulary]``, in float32."""
        rows, times = torch.ones(batch.input_ids.shape).nonzero(as_tuple=True)
        return self._select(self._inputs(batch), (rows, times)).float().unflatten(0, tuple(batch.input_ids.shape))


def _same(one: torch.Tensor, other: torch.Tensor, model: PreTrainedModel) -> bool:
    allowed = 2e-2
    if _computed(model) == torch.float32:
        # Kernels of quantized weights round by batch.
        allowed = 1e-4 if getattr(model, "hf_quantizer", None) is None else 5e-2
    # Numbers that are not finite are for the caller to report, with the row they belong to.
    return bool(not one.isfinite().all() or (one - other).norm() <= allowed * one.norm())


def _computed(model: PreTrainedModel) -> torch.dtype:
    """What matrix products are computed in: under autocast not the type of the weights."""
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
