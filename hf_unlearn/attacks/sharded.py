"""One job over all processes of a launch, for a model that no single device can train: weights in shards (FSDP2).

Each process holds a part of every layer's weights, gradients and optimizer states, and gathers a layer when it is
called. The rows of a step are shared by the processes. Scores are computed by all of them alike, because every process
has to make the same forward passes. So what a job brings back is what one process would have found, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import EncodedRow, load_tokenizer
from ..data.example import Example
from ..evaluation.records import ScoredRow
from ..models.even_share import even_share
from ..models.training_loop import finite
from ..runtime.processes import alone, gather, world_size
from .base import Attacked
from .model_cache import CachedModel, release
from .retrained_model import Retraining
from .retraining_settings import RetrainingSettings

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def sharded_retraining(settings: RetrainingSettings, folder: Path) -> Iterator[Retraining]:
    """The model of a folder in shards, for one job. All processes of the group call it together.

    It is read anew for each job: what was sharded is trained, and no process has the whole of it to put back.

    Args:
        settings: How it is fine-tuned.
        folder: The model; every process reads it into main memory before it keeps its shards.

    Raises:
        RequestError: The model cannot be trained like this.
        MissingExtraError: A library that the settings need is not installed.
    """
    from ..models.loading import load_model, run_device
    from ..models.memory import release_memory
    from ..models.sharding import shard

    release()  # what this process attacked alone before
    model = load_model(folder, settings.steps.dtype, device="cpu").requires_grad_(False)
    cached = CachedModel(("sharded", str(folder)), model, load_tokenizer(str(folder)))
    try:
        with settings.trained.applied(settings.name, model, settings.order) as trained:
            shard(model, run_device())
            yield ShardedRetraining(settings, cached, trained)
    finally:
        del cached, model
        release_memory()


class ShardedRetraining(Retraining):
    """One sharded model in the attacker's hands: see :func:`sharded_retraining`."""

    def shards(self) -> dict[str, Any] | None:
        """What runs, and how many numbers of the largest weight this process and all together have."""
        weights: list[Any] = list(self.cached.model.parameters())
        largest = max(weights, key=lambda weight: int(weight.numel()))
        held = int(largest.to_local().numel()) if hasattr(largest, "to_local") else int(largest.numel())
        return {"engine": "FSDP2", "processes": world_size(), "held": held, "of": int(largest.numel())}

    def score_untouched(
        self, rows: Sequence[Example], attacked: Attacked, holdout: Sequence[Example] = ()
    ) -> list[ScoredRow]:
        """See :meth:`score`."""
        with self.unshared():
            return super().score_untouched(rows, attacked, holdout)

    def score(
        self, rows: Sequence[Example], attacked: Attacked, holdout: Sequence[Example] = ()
    ) -> list[ScoredRow] | None:
        """As one process scores: all make the same passes, and none has a share of the rows to itself."""
        with self.unshared():
            return super().score(rows, attacked, holdout)

    @contextmanager
    def unshared(self) -> Iterator[None]:
        """Passes without gradients that every process makes on the same rows."""
        from ..models.sharding import reshard

        with alone():
            yield
        reshard(self.cached.model)

    def _add_gradients(self, rows: Sequence[EncodedRow]) -> None:
        """Gradients of the mean loss over the labels of all rows; FSDP2 averages what the processes come with."""
        share = even_share(len(rows))
        labels = int((self.pad(rows)["labels"] != -100).sum())
        batch = self.pad([rows[place] for place in share.places])
        batch["labels"][share.own :] = -100  # another process has them too
        with self.computing():
            loss = self._summed_loss(batch) * (world_size() / labels)
        loss_of_step = sum(gather(loss.item())) / world_size()
        finite(loss_of_step)
        loss.backward()

    def _summed_loss(self, batch: dict[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        labels = batch.pop("labels")
        logits: Tensor = self.model(**batch, use_cache=False).logits[:, :-1].float()
        return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
