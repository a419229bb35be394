"""Ablating the direction in which forgotten questions differ from kept ones.

Unlearning that adds a signal to the hidden states of what is to be forgotten (RMU, arXiv 2403.03218) leaves the
knowledge in place behind it. The difference of mean hidden states of forget and retain questions points along that
signal; taken out of every layer's states, what was behind it can be read. No training, no answers.

Source: Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction" (arXiv 2406.11717), sections 2.3
and 2.4 (difference of means, directional ablation).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.encoding import encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import write_records
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_try
from .cost import AttackCost
from .model_cache import CachedModel, borrowed
from .prompting import PLAIN, RECORDS, question_budget
from .scoring import Asked, ask

if TYPE_CHECKING:
    from torch import Tensor

#: What is left of the direction: nothing, or what retain questions have of it on average.
LEVELS = ("none", "retain")


class Direction(NamedTuple):
    """Attributes:
    unit: The direction, ``[width]``, of length 1.
    retain: Mean component of retain questions along it.
    """

    unit: Tensor
    retain: float


@ATTACKS.register(
    "ablate-direction",
    summary="remove the direction in which forget and retain questions differ from all hidden states",
    paper="arXiv 2406.11717 (directional ablation), on unlearning by misdirection (arXiv 2403.03218)",
    defaults={"depths": [0.25, 0.5, 0.75, 1.0], "examples": 256},
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True)
class AblateDirection(Attack):
    """Settings of the ablation.

    Each direction is tried twice: with nothing left of it (as published), and set everywhere to what retain questions
    have of it, which does less harm to a model that uses the direction otherwise.

    Attributes:
        depths: Where directions are taken from, as shares of the layers from the first on; the attacker keeps the
            best. Each is removed after every layer.
        examples: Maximum number of questions of each set for the means.
        seed: Seed of the draw of questions.
    """

    depths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    examples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.depths or any(not 0 < depth <= 1 for depth in self.depths):
            raise RequestError("ablate-direction.depths must name shares above 0 and at most 1, at least one")
        if len(set(self.depths)) < len(self.depths):
            raise RequestError("ablate-direction.depths names a depth twice: remove one")
        if self.examples < 1:
            raise RequestError(f"ablate-direction.examples is {self.examples}: it must be at least 1")

    def plan(self, bundle: DataBundle) -> list[str]:
        """The model as it is, and a job per depth and level."""
        return [PLAIN, *(f"depth{depth!r}-{level}" for depth in self.depths for level in LEVELS)]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Score the forget set with one direction taken out."""
        from ..evaluation.hidden import ablated

        bundle = attacked.bundle
        asked = Asked(bundle.forget.score, attacked.text_format, holdout=self.floor_rows(bundle))
        with borrowed(attacked.folder, edits=False) as cached:
            if job == PLAIN:
                records = ask(cached.model, cached.tokenizer, asked, attacked.metrics)
            else:
                depth, level = _parse(job)
                direction = self._directions(cached, attacked)[depth]
                amount = direction.retain if level == "retain" else 0.0
                with ablated(cached.model, direction.unit, amount):
                    records = ask(cached.model, cached.tokenizer, asked, attacked.metrics)
        write_records(out / RECORDS, records)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best depth and level; the model as it is is among them."""
        names = [PLAIN, *(job for job in folders if job != PLAIN)]
        tries = [read_try(folders[job] / RECORDS, names.index(job), changed=job != PLAIN) for job in names]
        result = best_of(tries, metrics, setting_name="direction")
        details = [{**detail, "direction": names[int(detail["direction"])]} for detail in result.details]
        return replace(result, details=details)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Questions the directions are made of."""
        given = "weights, prompts of the forget set, prompts of retain rows"
        return {
            **question_budget(bundle, given),
            "forget_questions": len(self._drawn(bundle.forget.score)),
            "retain_questions": len(self._drawn(bundle.retain.score)),
            "depths": list(self.depths),
            "levels": list(LEVELS),
        }

    def cost(self, bundle: DataBundle) -> AttackCost:
        """One pass over the forget set per job, and one for the means."""
        jobs = len(self.plan(bundle))
        means = len(self._drawn(bundle.forget.score)) + len(self._drawn(bundle.retain.score))
        return AttackCost(jobs, rows_scored=jobs * self.rows_per_pass(bundle) + means)

    def _directions(self, cached: CachedModel, attacked: Attacked) -> Mapping[float, Direction]:
        """By depth. Jobs of one model that follow each other share them."""
        bundle = attacked.bundle
        key = (self, attacked.text_format, bundle.forget.score, bundle.retain.score)
        return cached.once(key, lambda: self._find_directions(cached, attacked))

    def _find_directions(self, cached: CachedModel, attacked: Attacked) -> Mapping[float, Direction]:
        from ..evaluation.batch_runner import Passes
        from ..evaluation.hidden import mean_states
        from ..models.decoder import decoder_layers
        from ..models.memory import batch_budget

        model, tokenizer = cached.model, cached.tokenizer
        count = len(decoder_layers(model))
        layers = [math.ceil(depth * count) for depth in self.depths]

        def mean(rows: Sequence[Example]) -> Tensor:
            encoded = [encode_row(row, tokenizer, attacked.text_format, eos=False) for row in self._drawn(rows)]
            # The first token is left out: many models put there what outweighs everything else. A row without a
            # prompt is a text, all of which is looked at.
            texts = [row.input_ids[: row.n_prompt] if row.n_prompt > 1 else row.input_ids for row in encoded]
            passes = Passes(batch_budget("auto", model.device))
            starts = [min(1, len(text) - 1) for text in texts]
            return mean_states(model, texts, starts, layers, passes).double().mean(0)

        forget, retain = mean(attacked.bundle.forget.score), mean(attacked.bundle.retain.score)
        return {depth: direction_between(forget[place], retain[place]) for place, depth in enumerate(self.depths)}

    def _drawn(self, rows: Sequence[Example]) -> list[Example]:
        distinct = list({(row.turns, row.prompt or row.answer): row for row in rows}.values())
        return random.Random(f"ablate-{self.seed}").sample(distinct, min(self.examples, len(distinct)))


def direction_between(forget: Tensor, retain: Tensor) -> Direction:
    """The unit vector from the mean of retain states ``[width]`` to that of forget states; zero where they agree."""
    difference = forget - retain
    length = difference.norm()
    unit = difference / length if length > 0 else difference
    return Direction(unit.float(), float(retain @ unit))


def _parse(job: str) -> tuple[float, str]:
    depth, _, level = job.removeprefix("depth").rpartition("-")
    return float(depth), level
