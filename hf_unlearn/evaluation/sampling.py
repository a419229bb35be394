"""Sampling whose draws belong to the row: what else is in the batch does not change them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor


def uniform_draws(seed: int, key: str, sample: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that depend on seed, key and number of the sample only."""
    digest = hashlib.sha256(f"{seed}:{sample}:{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big")).random(count)


class RowSampler(LogitsProcessor):
    """Leaves only the drawn token, so that greedy decoding takes it.

    The token is the first whose cumulative probability is above the row's uniform number of this step (inverse
    transform sampling), computed in float64.

    Args:
        draws: Uniform numbers ``[rows, steps]``.
        width: Number of tokens before the first step.
        temperature: Divides the logits.
        top_p: Nucleus sampling (arXiv 1904.09751): the fewest most likely tokens that have this probability together.
    """

    def __init__(self, draws: Sequence[np.ndarray], width: int, temperature: float, top_p: float) -> None:
        self._draws = torch.from_numpy(np.stack(draws))
        self._width = width
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[rows, vocabulary]`` that are -inf but at one token a row."""
        # Not every accelerator has float64.
        device = torch.device("cpu") if scores.device.type == "mps" else scores.device
        probabilities = (scores.to(device).double() / self._temperature).softmax(-1)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        cumulative = probabilities.cumsum(-1)
        draws = self._draws[:, input_ids.shape[1] - self._width, None].to(device)
        tokens = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
        tokens = tokens.clamp_(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(-1, tokens, 0.0)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, places = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter_(-1, places, ordered.masked_fill(before >= top_p, 0.0))
