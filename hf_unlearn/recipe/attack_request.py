"""The request behind ``hf-unlearn attack MODEL``: attacks, and rows from a recipe or from the user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..attacks import tier_names
from ..data.encoding import TextFormat, lacks_space
from ..data.example import Example
from ..data.form import FormatSpec
from ..data.sources import Source
from ..errors import RequestError
from ..evaluation.run import EvalSpec
from ..registry import suggest
from ..runtime.secret_values import check_secrets
from ..runtime.strict_yaml import Located, build, override, read_yaml
from .attacks import AttackSection, parse_attacks
from .loading import find_recipe, parse_recipe
from .spec import Recipe

SETS = ("forget", "retain", "holdout", "generic")
# Recipe keys that do not matter for attacking one model.
_NOT_READ = ("attack", "controls", "export", "publish", "benchmarks")


@dataclass(frozen=True)
class OwnData:
    """Rows from the user's own files or Hub data sets.

    Attributes:
        forget, retain, holdout, generic: Where each set comes from.
        format: How rows become text.
    """

    forget: Source | None = None
    retain: Source | None = None
    holdout: Source | None = None
    generic: Source | None = None
    format: FormatSpec = field(default_factory=FormatSpec)

    @property
    def sources(self) -> dict[str, Source]:
        """The sets that are named."""
        named = {name: getattr(self, name) for name in SETS}
        return {name: source for name, source in named.items() if source is not None}


@dataclass(frozen=True)
class AttackRequest:
    """The request.

    Attributes:
        section: The attacks.
        evaluate: Names the metrics.
        text_format: How the request says that rows become text.
        recipe: The recipe that rows and models come from, or
        data: rows of the user's own.
        format_given: Whether the user said how rows become text.
    """

    section: AttackSection
    evaluate: EvalSpec
    text_format: FormatSpec
    recipe: Recipe | None = None
    data: OwnData | None = None
    format_given: bool = True


@dataclass(frozen=True)
class Chosen:
    """Attacks as the command line names them.

    Attributes:
        names: Attacks by name, from the registry or the recipe's own.
        tier: A tier of them.
        after: Format whose file is attacked, for each of ``names``.
        then: Format that the result of each of ``names`` is exported to.
    """

    names: tuple[str, ...] = ()
    tier: str | None = None
    after: str | None = None
    then: str | None = None

    def __post_init__(self) -> None:
        for key in ("after", "then"):
            if getattr(self, key) is not None and not self.names:
                raise RequestError(f"--{key} goes with attacks by name: give --attack NAME in place of --tier")

    def section(self, given: Located | None) -> Located:
        """An attack section with these attacks, with the recipe's settings for them."""
        items = given.value if given is not None and isinstance(given.value, dict) else {}
        chosen: dict[str, Located] = {}
        for name in self.names:
            own, item = self._named(name, items.get(name, Located(None, f"--attack {name}")))
            chosen[own] = item
        if self.tier is not None:
            chosen["tier"] = Located(self.tier, "--tier")
            of_tier = tier_names(self.tier)
            chosen |= {name: item for name, item in items.items() if name in of_tier and name not in chosen}
        return Located(chosen, "the command line")

    def _named(self, name: str, item: Located) -> tuple[str, Located]:
        order = {key: getattr(self, key) for key in ("after", "then") if getattr(self, key) is not None}
        if not order or (item.value is not None and not isinstance(item.value, dict)):
            return name, item
        own = name + "".join(f"-{key}-{value}" for key, value in order.items())
        located = {key: Located(value, f"--{key}") for key, value in order.items()}
        return own, Located({"attack": Located(name, item.where), **(item.value or {}), **located}, item.where)


def read_request(chosen: Chosen, recipe: str | None, files: Sequence[str], overrides: Sequence[str]) -> AttackRequest:
    """Read the request. No model is loaded.

    Args:
        chosen: The attacks.
        recipe: A YAML file or the name of a recipe that comes with the package.
        files: ``FILE`` or ``SET=FILE`` each, instead of a recipe.
        overrides: ``section.key=value`` assignments.

    Raises:
        RequestError: Neither or both of recipe and files are given, or something in them is wrong.
    """
    if recipe is not None and files:
        raise RequestError("--recipe and --data are both given: the recipe names its rows, so leave one of them out")
    if recipe is None and not files:
        raise RequestError(
            "attacking a model needs rows to ask for: give either --recipe RECIPE or --data FORGET_FILE"
        )
    tree = read_yaml(find_recipe(recipe)) if recipe is not None else Located({"data": _data_tree(files)}, "--data")
    for assignment in overrides:
        tree = override(tree, assignment)
    check_secrets(tree)
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: a recipe is a mapping of keys to values")
    section = parse_attacks(chosen.section(tree.value.get("attack")))
    if recipe is not None:
        loaded = parse_recipe(_without_gate(tree))
        return AttackRequest(section, loaded.evaluate, loaded.data.format, recipe=loaded)
    rest = {key: item for key, item in tree.value.items() if key != "attack"}
    given = build(_Given, Located(rest, tree.where))
    if given.data.forget is None:
        raise RequestError("there are no rows to ask for: give --data FILE for the forget set")
    format_given = any(assignment.startswith("data.format") for assignment in overrides)
    return AttackRequest(section, given.evaluate, given.data.format, data=given.data, format_given=format_given)


def spaced(text_format: TextFormat, rows: Sequence[Example]) -> TextFormat:
    """The format with a space before answers where neither questions nor answers bring one: else a model is asked for
    words that no text has."""
    return replace(text_format, separator=" ") if text_format == TextFormat() and lacks_space(rows) else text_format


@dataclass(frozen=True)
class _Given:
    data: OwnData
    evaluate: EvalSpec = field(default_factory=EvalSpec)


def _data_tree(files: Sequence[str]) -> Located:
    sets: dict[str, Located] = {}
    for text in files:
        name, equals, place = text.partition("=")
        if not equals or Path(text).exists():
            name, place = "forget", text
        if name not in SETS:
            raise RequestError(f"--data {text}: there is no set called {name!r}: {suggest(name, list(SETS))}")
        if name in sets:
            raise RequestError(f"--data {text}: the {name} set is given twice: remove one")
        # What looks like a file is taken as one even if it is missing: the reader then says so.
        kind = "path" if Path(place).suffix or Path(place).exists() else "dataset"
        sets[name] = Located({kind: Located(place, f"--data {text}")}, f"--data {text}")
    return Located(dict(sets), "--data")


def _without_gate(tree: Located) -> Located:
    kept: Mapping[str, Located] = {key: item for key, item in tree.value.items() if key not in _NOT_READ}
    gate = kept.get("gate")
    if gate is None or not isinstance(gate.value, dict):
        return Located(dict(kept), tree.where)
    metrics = {key: item for key, item in gate.value.items() if key == "metrics"}
    return Located({**kept, "gate": Located(metrics, gate.where)}, tree.where)
