"""One loaded model per process that jobs use in turn: restored in place, never loaded again for the next job.

An attack is dozens of short trainings of the same weights. Loading takes longer than many of them, and what was loaded
is lost after the first step. Here the original weights are kept next to the model and copied back when a job is
done; a job that only adds adapters needs not even that. Two copies of the weights are in memory (the second one in
main memory, also for a model on a GPU).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data.encoding import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Found = TypeVar("Found")


@dataclass
class CachedModel:
    """A loaded model in the state of its folder, whichever job used it before.

    Attributes:
        key: Folder, its files and the dtype.
        model: In eval mode, no gradients wanted.
        tokenizer: Its tokenizer.
    """

    key: Hashable
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _found: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)
    _weights: list[Tensor] | None = field(default=None, init=False, repr=False)

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What a job finds out about the untouched model, for the jobs after it too; lost with the model.

        Args:
            key: Everything that decides the result, besides the model.
            find: Finds it out, the first time.
        """
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

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


_held: list[CachedModel] = []


@contextmanager
def borrowed(folder: Path, dtype: str = "float32", *, edits: bool = True) -> Iterator[CachedModel]:
    """The model of a folder, loaded only if it is not the one that this process had last.

    Args:
        folder: The model.
        dtype: Type of its weights.
        edits: Whether its own weights will change; ``False`` saves the copy (adapters, scoring).

    Raises:
        RequestError: The folder holds no model, or one whose weights cannot be trained.
    """
    cached = _cached(folder, dtype)
    try:
        if edits:
            cached.keep_weights()
        yield cached
        cached.restore()
    except BaseException:
        release()
        raise


def release() -> None:
    """Let go of the model, for example when the attacks are over."""
    from ..models.memory import release_memory

    if _held:
        _held.clear()
        release_memory()


def _cached(folder: Path, dtype: str) -> CachedModel:
    from ..models.loading import files_fingerprint, load_model

    key = (str(Path(folder).resolve()), tuple(files_fingerprint(folder)), dtype)
    if not _held or _held[0].key != key:
        release()  # before loading: two models at once may not fit
        cached = CachedModel(key, load_model(folder, dtype), load_tokenizer(str(folder)))
        cached.model.requires_grad_(False)
        _held.append(cached)
    return _held[0]
