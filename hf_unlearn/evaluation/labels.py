"""The labels of a batch, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..data.encoding import EncodedRow
from ..errors import RequestError
from .trees import TokenTree


class LabelScores(NamedTuple):
    """Scores of the labels of one encoded row.

    Attributes:
        logps: Log-probability (nats) of each label given all tokens before it.
        hits: Whether each label was the most likely token.
        means: Mean log-probability of the next token under the model's own distribution, where asked for.
        variances: Its variance, where asked for.
        layers: Mean log-probability per label after each layer, where asked for.
        layer_logps: Log-probability of each label after each layer, where asked for: ``[layers][labels]``.
        layer_hits: Whether each label was the most likely token after each layer, where asked for.
    """

    logps: tuple[float, ...]
    hits: tuple[bool, ...]
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()
    layers: tuple[float, ...] = ()
    layer_logps: tuple[Sequence[float], ...] = ()
    layer_hits: tuple[Sequence[bool], ...] = ()


class NotFiniteError(RequestError):
    """The model's logits are not finite: a result for whoever trains it, a broken model for all others."""


@dataclass(frozen=True)
class Text:
    """An encoded row, and what is wanted of it beyond log-probabilities and hits.

    Attributes:
        row: The encoded row.
        vocabulary: Whether mean and variance over the vocabulary are wanted.
        layers: Whether log-probabilities after each layer are wanted.
        layer_tokens: With ``layers``: whether those of each label are wanted, and not only their mean.
    """

    row: EncodedRow
    vocabulary: bool = False
    layers: bool = False
    layer_tokens: bool = False


class Labels:
    """Every label of a batch and the place in the batch that predicts it. Equal places are looked at once.

    Attributes:
        slots: Place (row, position) to its index among the chosen ones.
        ids: Token id of each label.
        places: For each label, the index of its slot.
        wanted: For each slot, whether vocabulary statistics are wanted there.
        watched: Labels that are looked at after each layer.
    """

    def __init__(self, trees: Sequence[TokenTree], texts: Sequence[Text]) -> None:
        self.slots: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.places: list[int] = []
        self.watched: list[int] = []
        wanted = set()
        for row, tree in enumerate(trees):
            for path, member in zip(tree.paths, tree.members, strict=True):
                text = texts[member]
                for position in range(text.row.n_prompt, len(text.row.input_ids)):
                    slot = self.slots.setdefault((row, path[position - 1]), len(self.slots))
                    if text.layers:
                        self.watched.append(len(self.ids))
                    if text.vocabulary:
                        wanted.add(slot)
                    self.places.append(slot)
                    self.ids.append(text.row.input_ids[position])
        self.wanted = [slot in wanted for slot in range(len(self.slots))]


class Scores:
    """Scores of the labels of a batch, filled part by part."""

    def __init__(self, labels: Labels, device: torch.device) -> None:
        self.label_ids = torch.tensor(labels.ids, device=device)
        self._where = torch.tensor(labels.places, device=device)
        self._wanted = torch.tensor(labels.wanted, device=device)
        self._any_wanted = any(labels.wanted)
        self._logps = torch.zeros(len(labels.ids), device=device)
        self._best = torch.zeros(len(labels.slots), dtype=torch.long, device=device)
        self._means = torch.zeros(len(labels.slots), device=device)
        self._variances = torch.zeros(len(labels.slots), device=device)

    def add(self, part: slice, values: torch.Tensor) -> None:
        """Take in the logits of a part of the slots."""
        logps = values.log_softmax(-1)
        self._best[part] = values.argmax(-1)
        here = (self._where >= part.start) & (self._where < part.stop)
        self._logps[here] = logps[self._where[here] - part.start, self.label_ids[here]]
        if self._any_wanted:
            wanted = self._wanted[part]
            means, variances = vocabulary_statistics(logps if bool(wanted.all()) else logps[wanted])
            self._means[part][wanted] = means
            self._variances[part][wanted] = variances

    @property
    def finite(self) -> bool:
        """Whether all scores so far are numbers."""
        return bool(self._logps.isfinite().all())

    def by_text(
        self,
        trees: Sequence[TokenTree],
        texts: Sequence[Text],
        layers: tuple[torch.Tensor, torch.Tensor],
        origins: Mapping[str, str],
    ) -> list[list[list[list[Any]]]]:
        logps, finite = self._logps.tolist(), self._logps.isfinite().tolist()
        hits = (self._best[self._where] == self.label_ids).tolist()
        means, variances = self._means[self._where].tolist(), self._variances[self._where].tolist()
        found: list[list[list[list[Any]]]] = []
        start = watched = 0
        for tree in trees:
            found.append([])
            for member in tree.members:
                text = texts[member]
                end = start + len(text.row.input_ids) - text.row.n_prompt
                if not all(finite[start:end]):
                    raise NotFiniteError(_not_finite(text.row, origins))
                of_layers: list[list[Any]] = [[], [], []]
                if text.layers:
                    after, best = (part[:, watched : watched + end - start] for part in layers)
                    of_layers[0] = after.double().mean(1).tolist()
                    if text.layer_tokens:
                        of_layers[1:] = [after.tolist(), best.tolist()]
                    watched += end - start
                span = slice(start, end if text.vocabulary else start)
                found[-1].append([logps[start:end], hits[start:end], means[span], variances[span], *of_layers])
                start = end
        return found


def vocabulary_statistics(logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the next token's log-probability under the distribution itself.

    Args:
        logps: Float32 log-probabilities (nats), ``[positions, vocabulary]``. Changed in place.

    Returns:
        ``sum_v p(v) log p(v)`` and ``sum_v p(v) (log p(v) - mean)**2``, each ``[positions]``. The variance is taken
        around the mean, so that nothing cancels and float32 is enough. A token of no probability counts 0.
    """
    probabilities = logps.exp()
    logps = logps.clamp_(min=-1e4)
    means = (probabilities * logps).sum(-1)
    variances = probabilities.mul_(logps.sub_(means[:, None]).square_()).sum(-1)
    return means, variances


def _not_finite(row: EncodedRow, origins: Mapping[str, str]) -> str:
    origin = origins.get(row.id, row.id)
    place = "" if origin == row.id else f"{origin}: "
    return (
        f"{place}the model's logits on row {row.id} are not finite: its weights are broken, or its dtype is too small "
        "for it"
    )
