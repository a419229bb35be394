"""What a recipe leaves to the target: settled once, before anything is made, and kept for as long as a run's folder.

``data.format.kind`` and ``model.dtype`` may be ``auto``, and a chat model is asked in both forms although no attack is
named for it. A folder in which something has been made has its decisions in ``run.json``, and keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attacks import ATTACKS
from ..attacks.composed import judged_attacks, kind_of
from ..data.encoding import load_tokenizer
from ..data.example import DataBundle, RowSet
from ..data.form import FormDecision, Kind, decide_form
from ..data.sources import prompt_column
from ..errors import RequestError, about
from ..models.own_dtype import own_dtype
from ..recipe import ModelSpec, Recipe
from .models import fetch_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Begun = Mapping[str, Any]
"""The recipe that a run's folder was begun with, as plain data; empty for a new one."""

OTHER_FORM = "other-form"
_KEPT = "as in the part of this run that is there"


@dataclass(frozen=True)
class Target:
    """The target that a recipe names, fetched without its weights when it is first looked at."""

    spec: ModelSpec

    @cached_property
    def folder(self) -> Path:
        """A folder with its configuration and tokenizer, perhaps without its weights."""
        with about("model.target"):
            return fetch_target(self.spec, weights=False)

    def whole(self) -> Path:
        """The folder with its weights."""
        with about("model.target"):
            return fetch_target(self.spec)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer; ``None`` where the target is built from the data."""
        with about("model.target"):
            return None if self.spec.target is None else load_tokenizer(str(self.folder))


def settle_form(recipe: Recipe, forget: RowSet | None, target: Target, begun: Begun) -> tuple[Recipe, list[str]]:
    """A recipe that says whether questions are put in a conversation.

    Args:
        recipe: A recipe.
        forget: The forget set, or ``None`` where its facts are made as sentences to go on with.
        target: The recipe's target.
        begun: What the run's folder was begun with.

    Returns:
        The recipe, and the decision as a sentence; none where the recipe had decided.

    Raises:
        RequestError: The target or its tokenizer cannot be read.
        EnvironmentFailure: The Hub could not be reached.
    """
    spec = recipe.data.format
    if spec.kind != "auto":
        return recipe, []
    kept: Kind | None = _before(begun, "data", "format", "kind")
    if forget is None:
        decision = FormDecision("plain", "the prompts are sentences to go on with")
    else:
        named = recipe.data.score.get("forget", recipe.data.forget)
        column = prompt_column(named) if named is not None else None
        decision = decide_form(forget, target.tokenizer, spec, column=column)
    if kept is not None and kept != decision.kind:
        decision = FormDecision(kept, _KEPT)
    settled = replace(recipe, data=replace(recipe.data, format=replace(spec, kind=decision.kind)))
    return settled, [str(decision)]


def settle_dtype(recipe: Recipe, target: Target, begun: Begun) -> tuple[Recipe, list[str]]:
    """A recipe that says in which precision models are scored and saved.

    Returns:
        The recipe, and the decision as a sentence where it is not float32.

    Raises:
        RequestError: The target cannot be read.
        EnvironmentFailure: The Hub could not be reached.
    """
    if recipe.model.dtype != "auto":
        return recipe, []
    kept = _before(begun, "model", "dtype")
    with about("model.target"):
        dtype, why = own_dtype(target.folder, target.whole), "the target's own type"
    if kept is not None and kept != dtype:
        dtype, why = kept, _KEPT
    told = f"Models are scored and saved in {dtype} (model.dtype: auto): {why}."
    settled = replace(recipe, model=replace(recipe.model, dtype=dtype))
    return settled, [] if dtype == "float32" else [told]


def with_other_form(recipe: Recipe, bundle: DataBundle, target: Target, begun: Begun) -> tuple[Recipe, list[str]]:
    """A recipe that asks a chat model in both forms: what was unlearned in one may still be said in the other.

    The attack is added where the tokenizer has a chat template, the rows can be asked and the recipe names no tier
    (every tier has it) nor ``other-form: false``. A gate that judges all attacks judges it too.

    Returns:
        The recipe, and a sentence if the attack was added.

    Raises:
        RequestError: The tokenizer cannot be read.
        EnvironmentFailure: The Hub could not be reached.
    """
    named = recipe.attack_tier is not None or OTHER_FORM in recipe.attack_left_out
    named = named or any(kind_of(name, attack) == OTHER_FORM for name, attack in recipe.attack.items())
    if named or recipe.model.target is None:
        return recipe, []
    if begun and OTHER_FORM not in (begun.get("attack") or {}):
        return recipe, []
    attack = ATTACKS.get(OTHER_FORM).value()
    try:
        attack.plan(bundle)
    except RequestError:  # rows without a question have no other form
        return recipe, []
    if target.tokenizer is None or not target.tokenizer.chat_template:
        return recipe, []
    attacks, never_knew = {OTHER_FORM: attack, **recipe.attack}, recipe.model.has_never_knew
    gate = recipe.gate
    if gate.attacks == judged_attacks(recipe.attack, never_knew=never_knew):
        gate = replace(gate, attacks=judged_attacks(attacks, never_knew=never_knew))
    told = "Questions are put in the other form too, in conversation or as plain text: the target is a chat model."
    return replace(recipe, attack=attacks, gate=gate), [told]


def _before(begun: Begun, *keys: str) -> Any:
    """What the folder was begun with under these keys; ``None`` for a new one."""
    found: Any = begun
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
