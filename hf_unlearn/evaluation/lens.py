"""Logit lens: what the output head would say after each layer, seen in the same forward as everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..errors import RequestError
from ..models.decoder import decoder_layers, final_norm, watched_layers
from .batch import padded_batch
from .logits import SelectedLogits


@dataclass(frozen=True)
class Translator:
    """A map of hidden states that is put before the final norm.

    Attributes:
        matrix: ``[width, width]``.
        shift: ``[width]``.
    """

    matrix: torch.Tensor
    shift: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """``h + A h + b`` for states ``[positions, width]``."""
        matrix, shift = (part.to(states.device, states.dtype) for part in (self.matrix, self.shift))
        return states + states @ matrix.T + shift


class LogitLens:
    """Hidden states after each layer at chosen positions, through the final norm and the output head.

    nostalgebraist, "interpreting GPT: the logit lens" (2020). The last layer gives the model's own logits.

    Args:
        model: In eval mode.
        logits: Its logits.
        translators: What is put before the final norm, by the number of the layer from 0; nothing if left out.

    Raises:
        RequestError: The model's layers, final norm and head do not make its logits.
    """

    def __init__(
        self, model: PreTrainedModel, logits: SelectedLogits, translators: Mapping[int, Translator] | None = None
    ) -> None:
        self._logits = logits
        self._translators = translators or {}
        norm = None if logits.whole else final_norm(model.get_decoder())
        self._caught: dict[int, torch.Tensor] = {}
        if norm is not None:
            self._layers, self._norm = decoder_layers(model), norm
            if self._gives_the_models_logits():
                return
        raise RequestError(
            f"the logit lens does not know the final norm of {type(model).__name__}: leave out metrics "
            "that need layers"
        )

    @contextlib.contextmanager
    def watching(self, rows: Sequence[int], positions: Sequence[int]) -> Iterator[None]:
        """Keep the hidden states at ``(rows[i], positions[i])`` of the forward that is made inside."""
        where = (torch.tensor(rows), torch.tensor(positions))

        def take(states: torch.Tensor) -> torch.Tensor:
            return states[where[0].to(states.device), where[1].to(states.device)]

        with watched_layers(dict(enumerate(self._layers)), take) as self._caught:
            yield

    def label_logps(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each layer says of one label for each position that was watched.

        Returns:
            Log-probabilities (nats) of the labels, and whether each was the most likely token: ``[layers, chosen]``.
        """
        logps, hits = [], []
        for number, hidden in self._caught.items():
            of_labels, best = [], []
            for part in self._logits.parts(len(labels)):
                translator = self._translators.get(number)
                states = hidden[part] if translator is None else translator(hidden[part])
                every = self.read(states).log_softmax(-1)
                wanted = labels[part].to(every.device)
                of_labels.append(every.gather(-1, wanted[:, None])[:, 0].to(labels.device))
                best.append((every.argmax(-1) == wanted).to(labels.device))
            logps.append(torch.cat(of_labels))
            hits.append(torch.cat(best))
        self._caught = {}
        return torch.stack(logps), torch.stack(hits)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``[positions, vocabulary]`` of states ``[positions, width]`` as if the model ended there."""
        return self._logits.project(self._norm(states))

    def _gives_the_models_logits(self) -> bool:
        """Whether head and norm of the last layer's states are the head of the backbone's."""
        batch = padded_batch([(1, 0, 1)], self._logits.device)
        with torch.inference_mode(), self.watching([0, 0, 0], [0, 1, 2]):
            expected = self._logits.select(batch, [0, 0, 0], [0, 1, 2]).float()
        if len(self._caught) != len(self._layers):
            return False
        with torch.inference_mode():
            found = self._norm(self._caught[len(self._layers) - 1]).float().to(expected.device)
        return bool(not expected.isfinite().all() or (found - expected).norm() <= 2e-2 * expected.norm())
