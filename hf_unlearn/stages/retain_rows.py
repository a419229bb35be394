"""What the retain term is trained on: named sets or a part of them, and texts that the target wrote by itself."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.example import Example
from ..data.self_generated import DrawSpec
from .context import RunContext, Subject
from .units import Unit, fingerprint

TEXTS_FILE = "texts.json"


@dataclass(frozen=True)
class SelfGenerated:
    """Texts that the target wrote by itself.

    Attributes:
        rows: Plain text rows.
        digest: Fingerprint of them.
    """

    rows: tuple[Example, ...]
    digest: str


def self_generated_texts(context: RunContext, target: Subject) -> SelfGenerated | None:
    """What the target wrote and the run kept; nothing if the recipe does not ask for it.

    Raises:
        RequestError: It has not been written yet.
    """
    spec = context.recipe.data.keep_drawn
    if spec is None:
        return None
    unit = self_generated_unit(context, target, spec)
    outputs = unit.checked()
    texts = json.loads((unit.path / TEXTS_FILE).read_text(encoding="utf-8"))
    return SelfGenerated(text_rows(texts), fingerprint(outputs))


def text_rows(texts: Sequence[str]) -> tuple[Example, ...]:
    """Texts as plain text rows, each a fact and a group of its own."""
    names = [f"drawn-{number:05d}" for number in range(len(texts))]
    return tuple(
        Example(id=name, prompt="", answer=text, fact=name, group=name, origin=f"drawn text {number}")
        for number, (name, text) in enumerate(zip(names, texts, strict=True))
    )


def self_generated_unit(context: RunContext, target: Subject, spec: DrawSpec) -> Unit:
    """The folder of what the target wrote."""
    inputs = {
        "stage": "train",
        "drawn from": target.digest,
        "data": context.data_digest,
        "spec": asdict(spec),
        "max_length": context.recipe.data.max_length,
        "seed": context.recipe.seed,
        "dtype": context.recipe.model.dtype,
        "versions": context.versions,
        **named_inputs(context),
    }
    return Unit(context.output_dir / "references" / "drawn", inputs)


def named_sets(context: RunContext) -> list[tuple[Example, ...]]:
    """Rows of the sets that the recipe names, set by set."""
    bundle, data = context.bundle, context.recipe.data
    sets = [at_hand(bundle.retain.train, data.retain_at_hand, context.recipe.seed)]
    if data.keep_generic:
        sets.append(bundle.generic.train)
    return sets + [bundle.extra[name].train for name in data.keep_extra]


def named_rows(context: RunContext) -> tuple[Example, ...]:
    """All of them."""
    return tuple(row for rows in named_sets(context) for row in rows)


def named_inputs(context: RunContext) -> Mapping[str, Any]:
    """What decides :func:`named_rows` besides the data; empty if exactly the whole retain set is kept."""
    data, inputs = context.recipe.data, dict[str, Any]()
    if data.keep_generic:
        inputs["keep_generic"] = True
    if data.keep_extra:
        inputs["keep_extra"] = list(data.keep_extra)
    if data.retain_at_hand != 1:
        inputs["retain_at_hand"] = data.retain_at_hand
    return inputs


def at_hand(rows: tuple[Example, ...], fraction: float, seed: int) -> tuple[Example, ...]:
    """The rows of a random fraction of the groups, in their order; of at least one group unless it is 0."""
    if fraction == 1:
        return rows
    groups = sorted({row.group for row in rows})
    count = max(1, round(fraction * len(groups))) if fraction else 0
    drawn = set(random.Random(f"at-hand-{seed}").sample(groups, count))
    return tuple(row for row in rows if row.group in drawn)
