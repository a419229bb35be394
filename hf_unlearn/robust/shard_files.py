"""What a part keeps of sharded weights in a checkpoint: a file for each process, beside the one that all read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import RequestError
from ..runtime.processes import rank, world_size
from .trained_weights import TrainedWeights
from .weights import load_tensors, save_tensors


def shard_file(path: Path) -> Path:
    """This process's file beside ``path``: ``a-0-of-2.safetensors`` beside ``a.safetensors``."""
    return path.with_name(f"{path.stem}-{rank()}-of-{world_size()}{path.suffix}")


def save_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes what belongs to this process's shards, if there is anything.

    Args:
        path: The file that all processes read, in which these tensors are not.
        tensors: By the names of :meth:`~.trained_weights.TrainedWeights.tensors`.
    """
    if tensors:
        save_tensors(shard_file(path), tensors)


def with_shard(path: Path, whole: Mapping[str, Tensor], weights: TrainedWeights, part: str) -> Mapping[str, Tensor]:
    """What was kept of the weights that this process holds.

    Args:
        path: The file that all processes read.
        whole: What it has of the weights: nothing if they were sharded.
        weights: What this process holds now.
        part: Whose it is, for messages.

    Raises:
        RequestError: The checkpoint belongs to another number of processes, or to another way to shard weights.
    """
    own = shard_file(path)
    kept = load_tensors(own, part) if own.exists() else whole
    held = weights.tensors() if kept else {}
    of_others = not own.exists() and any(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))
    if of_others or any(name not in held or held[name].shape != tensor.shape for name, tensor in kept.items()):
        raise RequestError(
            f"{part}: what {path.parent.parent} holds belongs to the shards of another launch: go on with as many "
            "processes and the same strategy as before, or delete that folder to go on from an earlier one"
        )
    return kept
