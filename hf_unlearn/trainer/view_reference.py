"""What the target says under a view of its weights, kept with no more memory than its plain answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..models.head import output_head
from ..models.sharding import frozen_copy
from ..robust.base import View
from .reference import CachedStates, Reference, TargetModel


def reference_under(
    view: View, target: TargetModel, plain: Reference, make: Callable[[TargetModel], Reference]
) -> Reference:
    """What a loss will ask about the target as this view shows it.

    Args:
        view: A view of the target's weights, which end as they were.
        target: The model before unlearning.
        plain: What is kept of the target as it is; its copy of the output head is shared where the view leaves the
            head alone.
        make: Makes the reference of a target model that will not stay as it is.
    """
    head = output_head(target.model)
    before = _mark(head)
    with view.enter():
        touched = _mark(head) != before
        seen = make(replace(target, changes=True))
        if not isinstance(seen.states, CachedStates):
            return seen
        if not touched and isinstance(plain.states, CachedStates):
            return replace(seen, states=replace(seen.states, head=plain.states.head))
        if touched and seen.states.head is head:
            return replace(seen, states=replace(seen.states, head=frozen_copy(head)))
        return seen


def _mark(module: nn.Module) -> list[tuple[int, int]]:
    """Differs as soon as a weight was changed in place or exchanged for another tensor."""
    return [(parameter.data_ptr(), parameter._version) for parameter in module.parameters()]
