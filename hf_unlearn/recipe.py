"""A recipe: one YAML file that says what to forget, what to keep, how, and what has to be true afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data.encoding import TextFormat
from .data.planted import PlantedSpec
from .data.sources import Source
from .errors import RequestError
from .evaluation.run import EvalSpec
from .registry import suggest
from .strict_yaml import Located, build, override, read_yaml
from .trainer.scratch import ScratchSpec
from .verification.gate import Gate

RESERVED_NAMES = ("target", "never_knew", "identity")


@dataclass(frozen=True)
class ModelSpec:
    """The models of a run.

    Attributes:
        target: Model that knows (Hub id or folder). Left out when ``scratch`` builds it.
        target_revision: Its revision on the Hub.
        never_knew: Control that was trained without the forget set (Hub id or folder); optional.
        never_knew_revision: Its revision on the Hub.
        dtype: Precision in which models are scored and the unlearned model is saved.
        scratch: Build a small target and never-knew model from the recipe's own data instead.
        min_known: Least share of forget and of retain facts that a model built from scratch must answer.
    """

    target: str | None = None
    target_revision: str | None = None
    never_knew: str | None = None
    never_knew_revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    scratch: ScratchSpec | None = None
    min_known: float = 0.95

    def __post_init__(self) -> None:
        if (self.target is None) == (self.scratch is None):
            raise RequestError("model needs either target (a Hub id or folder) or scratch (build one from the data)")
        if self.scratch is not None and self.never_knew is not None:
            raise RequestError("model.never_knew cannot be given beside model.scratch, which builds its own")


@dataclass(frozen=True)
class DataSpec:
    """The sets of a run.

    Attributes:
        planted: Generate all sets (then no other set may be named).
        forget, retain, holdout, generic: Where each set comes from.
        extra: Further sets that are only scored, by name.
        extra_is_known: Whether a model built from scratch learns the further sets too.
        format: How rows become text.
        max_length: Longest row in tokens.
        truncation: ``refuse`` longer rows, or ``cut`` them.
        description: In the publisher's words, what is removed (for the model card; never the rows themselves).
    """

    planted: PlantedSpec | None = None
    forget: Source | None = None
    retain: Source | None = None
    holdout: Source | None = None
    generic: Source | None = None
    extra: dict[str, Source] = field(default_factory=dict)
    extra_is_known: bool = True
    format: TextFormat = field(default_factory=TextFormat)
    max_length: int = 1024
    truncation: Literal["refuse", "cut"] = "refuse"
    description: str = ""

    def __post_init__(self) -> None:
        named = [name for name in ("forget", "retain", "holdout", "generic") if getattr(self, name) is not None]
        if self.planted is not None and (named or self.extra):
            raise RequestError(f"data.planted makes all sets: remove it or data.{[*named, 'extra'][0]}")
        if self.planted is None and not {"forget", "retain"} <= set(named):
            raise RequestError("data needs forget and retain (or planted)")
        taken = {"forget", "retain", "holdout", "generic", "practice"} & self.extra.keys()
        if taken:
            raise RequestError(f"data.extra.{sorted(taken)[0]} has the name of one of the main sets: rename it")


@dataclass(frozen=True)
class MethodSpec:
    """One unlearning method: a name and fields of ``UnlearnConfig``."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ControlSpec:
    """A model with a known truth, put through the same gate to test the verifier.

    Attributes:
        name: Name of the control.
        kind: ``never_knew`` (another never-knew model, other seed), ``method`` (one of the recipe's methods, expected
            to fail), or the name of a positive control such as ``bin_hidden``.
        expected: The verdict it must get.
        caught_by: Transforms that must be among those that fail it.
        method: For kind ``method``: which one.
        seed: Seed of the control's training.
        settings: For positive controls: fields of ``UnlearnConfig`` for its training.
        max_forget_score: For hidden controls: at full precision no more than this share of forget facts may be
            answered greedily, or the control hides nothing and proves nothing.
        min_retain_score: The same for retained facts, at least.
    """

    name: str
    kind: str
    expected: Literal["passed", "failed"]
    caught_by: tuple[str, ...] = ()
    method: str | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    max_forget_score: float | None = None
    min_retain_score: float | None = None


@dataclass(frozen=True)
class ExportSpec:
    """Which quantized variants are made."""

    formats: tuple[str, ...] = ("bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32")


@dataclass(frozen=True)
class PublishSpec:
    """What the published folders say.

    Attributes:
        model_name: Title of the card; the recipe's name if empty.
        formats: Variants to publish; all exported ones if left out.
        license: Licence id of the unlearned model, as the Hub knows it.
        language: Language codes.
        base_model: Hub id of the target for the card; taken from ``model.target`` if that is a Hub id.
    """

    model_name: str = ""
    formats: tuple[str, ...] | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    base_model: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs to know. See ``docs/recipes.md`` for every key."""

    name: str
    model: ModelSpec
    data: DataSpec
    methods: tuple[MethodSpec, ...]
    summary: str = ""
    seed: int = 0
    controls: tuple[ControlSpec, ...] = ()
    export: ExportSpec = field(default_factory=ExportSpec)
    evaluate: EvalSpec = field(default_factory=EvalSpec)
    attack: Mapping[str, Any] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    publish: PublishSpec = field(default_factory=PublishSpec)

    def to_dict(self) -> dict[str, Any]:
        """All values, defaults included, as plain data."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    def method(self, name: str) -> MethodSpec:
        """The method called ``name``."""
        return next(method for method in self.methods if method.name == name)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.init}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe. No model is loaded.

    Args:
        path: The YAML file, or the name of a recipe that comes with the package.
        overrides: ``section.key=value`` assignments.

    Raises:
        RequestError: Anything wrong, with file, line and key.
    """
    tree = read_yaml(find_recipe(path))
    for assignment in overrides:
        tree = override(tree, assignment)
    return parse_recipe(tree)


def find_recipe(path: Path | str) -> Path:
    """The recipe file itself, or the one that comes with the package under that name."""
    path = Path(path)
    built_in = builtin_recipes()
    if not path.exists() and str(path) in built_in:
        return built_in[str(path)]
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise RequestError(
            f"there is no recipe file or built-in recipe {str(path)!r}: {suggest(str(path), list(built_in))}"
        )
    return path


def builtin_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_recipe(tree: Located) -> Recipe:
    """Turn a located YAML tree into a checked :class:`Recipe`."""
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: a recipe is a mapping of keys to values")
    sections = dict(tree.value)
    if "methods" not in sections:
        raise RequestError(f"{tree.where}: the key 'methods' is missing")
    methods = _parse_methods(sections.pop("methods"))
    attacks = _parse_attacks(sections.pop("attack", Located({}, tree.where)))
    known = [item.name for item in dataclasses.fields(Recipe)]
    for key, item in sections.items():
        if key not in known:
            raise RequestError(f"{item.where}: unknown key {key!r}: {suggest(key, known)}")
    rest = build(_RecipeWithoutMethods, Located(sections, tree.where))
    recipe = Recipe(
        methods=methods, attack=attacks, **{f.name: getattr(rest, f.name) for f in dataclasses.fields(rest)}
    )
    recipe = _fill_gate(recipe, sections.get("gate"))
    _check(recipe, tree)
    return recipe


@dataclass(frozen=True)
class _RecipeWithoutMethods:
    name: str
    model: ModelSpec
    data: DataSpec
    summary: str = ""
    seed: int = 0
    controls: tuple[ControlSpec, ...] = ()
    export: ExportSpec = field(default_factory=ExportSpec)
    evaluate: EvalSpec = field(default_factory=EvalSpec)
    gate: Gate = field(default_factory=Gate)
    publish: PublishSpec = field(default_factory=PublishSpec)


def _parse_methods(tree: Located) -> tuple[MethodSpec, ...]:
    if not isinstance(tree.value, list) or not tree.value:
        raise RequestError(f"{tree.where}: methods must be a list with at least one method")
    methods: list[MethodSpec] = []
    for index, item in enumerate(tree.value):
        if not isinstance(item.value, dict) or "name" not in item.value:
            raise RequestError(f"{item.where}: methods.{index} needs a name")
        name = str(item.value["name"].value)
        if name in RESERVED_NAMES or name in {method.name for method in methods}:
            raise RequestError(f"{item.where}: the method name {name!r} is taken: choose another")
        settings = {key: value for key, value in item.value.items() if key != "name"}
        _check_settings(settings, f"methods.{index}")
        methods.append(MethodSpec(name, {key: value.plain() for key, value in settings.items()}))
    return tuple(methods)


def _check_settings(settings: Mapping[str, Located], key: str) -> None:
    from .trainer.config import UnlearnConfig

    names = sorted(item.name for item in dataclasses.fields(UnlearnConfig) if item.init)
    for name, item in settings.items():
        if name not in names:
            raise RequestError(f"{item.where}: unknown key '{key}.{name}': {suggest(name, names)}")
    try:
        _try_settings({name: item.plain() for name, item in settings.items()})
    except RequestError as error:
        named = (item.where for name, item in settings.items() if name in str(error))
        where = next(named, next((item.where for item in settings.values()), "recipe"))
        raise RequestError(f"{where}: {key}: {error}") from None


def _try_settings(settings: Mapping[str, Any]) -> None:
    """Make the training configuration once, for its checks."""
    from .trainer.train import make_config

    make_config(settings, Path("unused"), seed=0, dtype="float32")


def _parse_attacks(tree: Located) -> dict[str, Any]:
    from .attacks import ATTACKS

    if tree.value is None:
        return {}
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: attack must be a mapping from an attack's name to its settings")
    attacks = {}
    for name, item in tree.value.items():
        try:
            entry = ATTACKS.get(name)
        except RequestError as error:
            raise RequestError(f"{item.where}: attack.{name}: {error}") from None
        attacks[name] = build(entry.value, item, f"attack.{name}")
    return attacks


def _fill_gate(recipe: Recipe, gate_tree: Located | None) -> Recipe:
    """Where the recipe does not say, the gate judges every format that is exported and every attack that is run."""
    given = gate_tree.value if gate_tree is not None and gate_tree.value else {}
    gate = recipe.gate
    if "formats" not in given:
        gate = dataclasses.replace(gate, formats=recipe.export.formats)
    if "attacks" not in given:
        gate = dataclasses.replace(gate, attacks=tuple(recipe.attack))
    if "metrics" not in given:
        gate = dataclasses.replace(gate, metrics=tuple(m for m in gate.metrics if m in recipe.evaluate.metrics))
    return dataclasses.replace(recipe, gate=gate)


def _check(recipe: Recipe, tree: Located) -> None:
    from .evaluation.metrics import METRICS
    from .quantization import FORMATS

    def refuse(section: str, message: str) -> None:
        where = tree.value[section].where if section in tree.value else tree.where
        raise RequestError(f"{where}: {message}")

    for section, names, registry in (
        ("export", recipe.export.formats, FORMATS),
        ("evaluate", recipe.evaluate.metrics, METRICS),
    ):
        for name in names:
            try:
                registry.get(name)
            except RequestError as error:
                refuse(section, str(error))
    for kind, wanted, there in (
        ("formats", recipe.gate.formats, recipe.export.formats),
        ("attacks", recipe.gate.attacks, tuple(recipe.attack)),
        ("metrics", recipe.gate.metrics, recipe.evaluate.metrics),
    ):
        for name in wanted:
            if name not in there:
                refuse(
                    "gate", f"gate.{kind} names {name!r}, which the run does not make: {suggest(name, list(there))}"
                )
    if not recipe.name.strip() or "/" in recipe.name:
        refuse("name", "name must not be empty or hold a slash")
    _check_controls(recipe, refuse)


def _check_controls(recipe: Recipe, refuse: Any) -> None:
    from .controls import CONTROLS

    transforms = ("identity", *recipe.export.formats, *recipe.attack)
    kinds = ["never_knew", "method", *CONTROLS.names()]
    taken = {*RESERVED_NAMES, *(method.name for method in recipe.methods)}
    for control in recipe.controls:
        if control.kind not in kinds:
            refuse(
                "controls", f"control {control.name!r}: unknown kind {control.kind!r}: {suggest(control.kind, kinds)}"
            )
        if control.kind == "method":
            if control.method not in {method.name for method in recipe.methods}:
                refuse("controls", f"control {control.name!r}: method {control.method!r} is not one of the methods")
        elif control.name in taken:
            refuse("controls", f"the control name {control.name!r} is taken: choose another")
        taken.add(control.name)
        if control.kind == "never_knew" and recipe.model.scratch is None:
            refuse("controls", f"control {control.name!r}: only model.scratch can train a second never-knew model")
        if control.kind not in ("never_knew", "method"):
            try:
                _try_settings({**control.settings, "control": control.kind})
            except RequestError as error:
                refuse("controls", f"control {control.name!r}: {error}")
        for transform in control.caught_by:
            if transform not in transforms:
                message = f"control {control.name!r}: caught_by names {transform!r}, which the run does not make"
                refuse("controls", f"{message}: {suggest(transform, list(transforms))}")
