"""A rehearsed attack: part of what is to be forgotten is learned again briefly, and that change is undone later."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import reduce
from torch import Tensor

from ..data.encoding import EncodedRow
from ..losses.base import label_positions
from ..models.even_share import even_share
from ..models.training_loop import take_steps
from ..runtime.processes import rank, world_size
from .base import TrainingContext
from .trained_weights import TrainedWeights
from .weights import trained_parameters

MAX_GRAD_NORM = 1.0
"""What the gradients of an attack are clipped to."""


@dataclass
class Rehearsal:
    r"""Learns part of the forget facts again, and later undoes just that change of the weights.

    Retraining on some forgotten facts brings others back: what they share was made small, not removed. So the attack
    is rehearsed. With :math:`A` a few optimizer steps on a random part :math:`T` of the facts,

    .. math:: \theta' = A(\theta, T), \qquad \theta'' = U(\theta'), \qquad
              \theta \leftarrow \theta'' - (\theta' - \theta)

    with :math:`U` steps of unlearning: it meets what an attacker would bring back, and nothing of the rehearsal itself
    stays. (To first order in the steps this is the gradient of first-order meta-learning, with the attack as the inner
    loop, as in arXiv 2408.00761; there one gradient is taken at the end of each attack, here unlearning continues from
    there.)

    Cost: ``steps`` forward and backward passes over as many forget rows as a step of the run has; a copy of the
    trained weights while it lasts, of which each process keeps its shards where they are sharded.

    Attributes:
        steps: Optimizer steps on T, each on as many rows as a step of the run has forget rows.
        share: Of the groups of facts, how many are in T.
        seed: Of the draw of T and of the order of its rows.
        learned: The change of each trained weight, or of this process's shards, from :meth:`learn` to
            :meth:`take_back`; on the CPU.
        floating_point_ops: Of all rehearsals so far, as transformers counts them.
    """

    steps: int
    share: float
    seed: int
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    floating_point_ops: int = 0

    def learn(self, context: TrainingContext, rate: float, number: int, spared: Collection[int] = ()) -> None:
        """Gives the model some forget facts again.

        Processes share the rows of each step and add their gradients up, so their number changes nothing.

        Args:
            context: Of the run; its model is changed in place.
            rate: Learning rate of AdamW, without weight decay.
            number: Which rehearsal of the run this is: decides what is drawn.
            spared: Positions of forget rows whose groups are only taught if there are too few others.
        """
        weights = context.trained_weights()
        before = weights.copied()
        add = self._add_evenly if weights.sharded else self._add_gradients
        model, was_training = context.model, context.model.training
        model.train()
        with weights.adamw(rate, MAX_GRAD_NORM) as optimizer:
            take_steps(
                optimizer,
                self._batches(context, number, spared),
                lambda rows: add(context, weights, rows),
                max_grad_norm=MAX_GRAD_NORM,
            )
        model.train(was_training)
        self.learned = {name: tensor.cpu() - before[name] for name, tensor in weights.tensors().items()}

    def _add_gradients(self, context: TrainingContext, weights: TrainedWeights, rows: Sequence[EncodedRow]) -> None:
        """Gradients of the mean negative label log-probability over the rows of all processes."""
        own, trained = rows[rank() :: world_size()], trained_parameters(context.model)
        labels = torch.zeros((), dtype=torch.float64, device=next(iter(trained.values())).device)
        for batch in context.batches(own) if own else ():
            logps = context.score(batch).logps
            weights.backward(-logps.sum(), last=False)
            labels += logps.numel()
            self.floating_point_ops += context.floating_point_ops(batch)
        with torch.no_grad():
            labels = reduce(labels, "sum")
            for parameter in trained.values():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(gradient, "sum") / labels.to(gradient)

    def _add_evenly(self, context: TrainingContext, weights: TrainedWeights, rows: Sequence[EncodedRow]) -> None:
        """The same for sharded weights: all make equally many passes, and what shards averages their gradients."""
        share = even_share(len(rows))
        labels = sum(int(label_positions(batch["labels"]).sum()) for batch in context.batches(rows))
        batches = list(context.batches([rows[place] for place in share.places]))
        first = 0
        for number, batch in enumerate(batches, start=1):
            scores = context.score(batch)
            counted = scores.rows + first < share.own
            loss = -torch.where(counted, scores.logps, 0.0).sum() * (world_size() / labels)
            weights.backward(loss, last=number == len(batches))
            first += scores.n_rows
            self.floating_point_ops += context.floating_point_ops(batch)

    @torch.no_grad()
    def take_back(self, context: TrainingContext) -> None:
        """Subtracts what :meth:`learn` changed, however the weights have changed since; only once."""
        if not self.learned:
            return
        weights = context.trained_weights()
        for name, tensor in weights.tensors().items():
            if name in self.learned:
                tensor.sub_(self.learned[name].to(tensor))
        weights.changed()
        self.learned = {}

    def others(self, context: TrainingContext, number: int, spared: Collection[int] = ()) -> list[int]:
        """Positions of the forget rows that a rehearsal does not teach.

        Args:
            context: Of the run.
            number: Which rehearsal of the run it is.
            spared: See :meth:`learn`.
        """
        chosen = self._chosen(context, self._draw(number), spared)
        return [place for place, row in enumerate(context.forget_rows) if _group(row) not in chosen]

    def _batches(
        self, context: TrainingContext, number: int, spared: Collection[int] = ()
    ) -> Iterator[Sequence[EncodedRow]]:
        draw = self._draw(number)
        chosen = self._chosen(context, draw, spared)
        rows = [row for row in context.forget_rows if _group(row) in chosen]
        left = self.steps
        while left:
            draw.shuffle(rows)
            for start in range(0, len(rows), context.rows_per_step)[:left]:
                yield rows[start : start + context.rows_per_step]
                left -= 1

    def _draw(self, number: int) -> random.Random:
        return random.Random(f"rehearsal-{self.seed}-{number}")

    def _chosen(self, context: TrainingContext, draw: random.Random, spared: Collection[int]) -> set[str]:
        groups = {_group(row) for row in context.forget_rows}
        last = {_group(context.forget_rows[place]) for place in spared}
        wanted = max(1, round(self.share * len(groups)))
        first = draw.sample(sorted(groups - last), min(wanted, len(groups - last)))
        return {*first, *draw.sample(sorted(last), wanted - len(first))}


def _group(row: EncodedRow) -> str:
    return row.group or row.id
