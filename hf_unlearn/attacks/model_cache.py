"""One loaded model per process that jobs take turns with: restored in place, never loaded again for the next job.

An attack is dozens of short trainings of the same weights. Loading takes longer than many of them, and what was loaded
is lost after the first step. Here the weights as they were are kept beside the model and copied back when a job is
done; a job that only adds adapters needs not even that. Two copies of the weights are in memory (the second one in
main memory, also for a model on a GPU).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Resident:
    """A loaded model as its folder holds it, whoever had it in hand before.

    Attributes:
        key: Folder, its files and the dtype.
        model: In eval mode, no gradients wanted.
        tokenizer: Its tokenizer.
        known: What jobs found out of the untouched model, by a key of theirs; lost with the model.
    """

    key: Hashable
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    known: dict[Hashable, Any] = field(default_factory=dict)
    _weights: list[Tensor] | None = None

    def keep_weights(self) -> None:
        """Copy the weights, unless there is a copy."""
        if self._weights is None:
            self._weights = [tensor.detach().to("cpu", copy=True) for tensor in self._tensors()]

    def restore(self) -> None:
        """Put everything back that a job may have changed: weights (where they are kept), gradients, mode."""
        import torch

        if self._weights is not None:
            with torch.no_grad():
                for tensor, kept in zip(self._tensors(), self._weights, strict=True):
                    tensor.copy_(kept)
        self.model.requires_grad_(False)
        self.model.zero_grad(set_to_none=True)
        self.model.eval()

    def _tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]


_held: list[Resident] = []


@contextmanager
def borrowed(folder: Path, dtype: str = "float32", *, edits: bool = True) -> Iterator[Resident]:
    """The model of a folder, loaded only if it is not the one that this process had last.

    Args:
        folder: The model.
        dtype: Type of its weights.
        edits: Whether its own weights will change; ``False`` saves the copy (adapters, scoring).

    Raises:
        RequestError: The folder holds no model, or one whose weights cannot be trained.
    """
    resident = _resident(folder, dtype)
    try:
        if edits:
            resident.keep_weights()
        yield resident
        resident.restore()
    except BaseException:
        release()
        raise


def release() -> None:
    """Let go of the model, for example when the attacks are over."""
    from ..models.memory import release_memory

    if _held:
        _held.clear()
        release_memory()


def _resident(folder: Path, dtype: str) -> Resident:
    from ..models.loading import files_fingerprint, load_model

    key = (str(Path(folder).resolve()), tuple(files_fingerprint(folder)), dtype)
    if not _held or _held[0].key != key:
        release()  # before loading: two models at once may not fit
        resident = Resident(key, load_model(folder, dtype), load_tokenizer(str(folder)))
        resident.model.requires_grad_(False)
        _held.append(resident)
    return _held[0]
