"""Logit lens: what the output head would say after each layer, seen in the same forward as everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import RequestError
from ..models.decoder import decoder_layers
from .batch import padded_batch
from .logits import SelectedLogits

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm", "ln_out")


class LogitLens:
    """Hidden states after each layer at chosen positions, through the final norm and the output head.

    nostalgebraist, "interpreting GPT: the logit lens" (2020). The last layer gives the model's own logits.

    Args:
        model: In eval mode.
        logits: Its logits.

    Raises:
        RequestError: The model's layers, final norm and head do not make its logits.
    """

    def __init__(self, model: PreTrainedModel, logits: SelectedLogits) -> None:
        self._logits = logits
        norm = None if logits.whole else _final_norm(model.get_decoder())
        self._caught: list[torch.Tensor] = []
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
        self._caught = []
        where = (torch.tensor(rows), torch.tensor(positions))

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            self._caught.append(hidden[where[0].to(hidden.device), where[1].to(hidden.device)])

        handles = [layer.register_forward_hook(catch) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def label_logps(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each layer says of one label for each position that was watched.

        Returns:
            Log-probabilities (nats) of the labels, and whether each was the most likely token: ``[layers, chosen]``.
        """
        logps, hits = [], []
        for hidden in self._caught:
            of_labels, best = [], []
            for part in self._logits.parts(len(labels)):
                every = self._logits.project(self._norm(hidden[part])).log_softmax(-1)
                wanted = labels[part].to(every.device)
                of_labels.append(every.gather(-1, wanted[:, None])[:, 0].to(labels.device))
                best.append((every.argmax(-1) == wanted).to(labels.device))
            logps.append(torch.cat(of_labels))
            hits.append(torch.cat(best))
        self._caught = []
        return torch.stack(logps), torch.stack(hits)

    def _gives_the_models_logits(self) -> bool:
        """Whether head and norm of the last layer's states are the head of the backbone's."""
        batch = padded_batch([(1, 0, 1)], self._logits.device)
        with torch.inference_mode(), self.watching([0, 0, 0], [0, 1, 2]):
            expected = self._logits.select(batch, [0, 0, 0], [0, 1, 2]).float()
        if len(self._caught) != len(self._layers):
            return False
        with torch.inference_mode():
            found = self._norm(self._caught[-1]).float()
        return bool(not expected.isfinite().all() or (found - expected).norm() <= 2e-2 * expected.norm())


def _final_norm(backbone: nn.Module | None) -> nn.Module | None:
    norms = [child for name, child in backbone.named_children() if name in _NORMS] if backbone is not None else []
    return norms[0] if len(norms) == 1 else None
