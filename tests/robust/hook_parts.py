"""Parts that use the trainer's hooks and write down what they were given, and a trainer that has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from tiny_run import tiny_trainer

from hf_unlearn.robust.base import TrainingPart, View
from hf_unlearn.trainer import UnlearnConfig


def parts_trainer(folder: Any, *parts: TrainingPart, **settings: Any) -> Any:
    """A trainer with parts that no recipe names."""
    with patch.object(UnlearnConfig, "build_parts", lambda config: list(parts)):
        return tiny_trainer(folder, **settings)


class Shifted(TrainingPart):
    """Sees each term at weights that are larger by so large a share, with the weight given."""

    makes_views: ClassVar[bool] = True

    def __init__(self, **shifts: list[tuple[float, float]]) -> None:
        self.shifts, self.model = shifts, None

    def before_step(self, context):
        self.model = context.model

    def views(self, term):
        return [View(f"shift-{by}", lambda by=by: self.shift(by), weight) for by, weight in self.shifts.get(term, [])]

    @contextmanager
    def shift(self, by: float) -> Iterator[None]:
        kept = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        try:
            with torch.no_grad():
                for value in self.model.parameters():
                    value.mul_(1 + by)
            yield
        finally:
            with torch.no_grad():
                for name, value in self.model.named_parameters():
                    value.copy_(kept[name])


class Doubled(TrainingPart):
    """Steps along twice the forget gradient minus half the retain gradient; counts the steps it sees."""

    changes_gradients: ClassVar[bool] = True

    def __init__(self) -> None:
        self.seen: list[dict[str, dict[str, torch.Tensor]]] = []

    def change_gradients(self, gradients):
        self.seen.append({term: {k: v.clone() for k, v in kept.items()} for term, kept in gradients.items()})
        factors = {"forget": 2.0, "retain": -0.5}
        return {term: {k: factors[term] * v for k, v in kept.items()} for term, kept in gradients.items()}


class Asks(TrainingPart):
    """Asks for both terms' gradients before each step."""

    def __init__(self) -> None:
        self.answers: list[dict[str, dict[str, torch.Tensor]]] = []
        self.left_behind: list[str] = []

    def before_step(self, context):
        self.answers.append({term: context.term_gradients(term) for term in ("forget", "retain")})
        self.left_behind += [name for name, value in context.model.named_parameters() if value.grad is not None]


class Counts(TrainingPart):
    """Adds its own running number to one weight after each step, and keeps the number with checkpoints."""

    def __init__(self) -> None:
        self.number, self.loaded, self.finished = 0, [], []

    def after_step(self, result):
        self.number += 1
        with torch.no_grad():
            result.model.model.norm.weight.add_(0.01 * self.number)

    def finish(self, context):
        self.finished.append((self.number, context.max_steps))
        with torch.no_grad():
            context.model.model.norm.weight.fill_(7.0)

    def save_state(self, folder):
        (folder / "counts.json").write_text(json.dumps(self.number))

    def load_state(self, folder):
        self.number = json.loads((folder / "counts.json").read_text())
        self.loaded.append(self.number)
