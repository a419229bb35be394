"""A recipe: one YAML file that says what to forget, what to keep, how, and what has to be true afterwards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data.encoding import TextFormat
from .data.planted import PlantedSpec
from .data.sources import Source
from .errors import RequestError
from .evaluation.run import EvalSpec
from .registry import suggest
from .strict_yaml import Located, build, first_named, override, read_yaml
from .trainer.scratch import ScratchSpec
from .verification.gate import Gate

RESERVED_NAMES = ("target", "never_knew", "identity")
LARGEST_SEED = 2**32 - 1
# Names become folders, and stand in tables and file names.
_NAME = re.compile(r"\w[\w .+@=-]*(?<![ .])")


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
        for key, needed in (("target_revision", "target"), ("never_knew_revision", "never_knew")):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise RequestError(f"model.{key} is given without model.{needed}: remove it or name the model")
        if not 0 <= self.min_known <= 1:
            raise RequestError(f"model.min_known is {self.min_known}: it must be a share between 0 and 1")


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
        if self.max_length < 2:
            raise RequestError(f"data.max_length is {self.max_length}: a row has at least 2 tokens")


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
        seed: For kind ``never_knew``: seed of its training, unlike that of every other model of the run.
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

    def __post_init__(self) -> None:
        if self.kind != "method" and self.method is not None:
            raise RequestError(f"method is only for controls of kind method, not of kind {self.kind}: remove it")
        if self.kind != "never_knew" and self.seed is not None:
            raise RequestError(f"seed is only for controls of kind never_knew, not of kind {self.kind}: remove it")
        if self.kind in ("never_knew", "method") and self.settings:
            raise RequestError(
                f"settings are only for controls that are trained, not of kind {self.kind}: remove them"
            )
        if self.expected == "passed" and self.caught_by:
            raise RequestError("caught_by is only for controls that are expected to fail: remove it")
        for key in ("max_forget_score", "min_retain_score"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise RequestError(f"{key} is {value}: it must be a share between 0 and 1")


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
    known = [item.name for item in dataclasses.fields(Recipe)]
    for key, item in tree.value.items():
        if key not in known:
            raise RequestError(f"{item.where}: unknown key {key!r}: {suggest(key, known)}")
    sections = dict(tree.value)
    if "methods" not in sections:
        raise RequestError(f"{tree.where}: the key 'methods' is missing")
    methods = _parse_methods(sections.pop("methods"))
    attacks = _parse_attacks(sections.pop("attack", Located({}, tree.where)))
    rest = build(_RecipeWithoutMethods, Located(sections, tree.where))
    recipe = Recipe(
        methods=methods, attack=attacks, **{f.name: getattr(rest, f.name) for f in dataclasses.fields(rest)}
    )
    _check_names(recipe, tree)
    recipe = _fill_gate(recipe, tree)
    _check_gate(recipe, tree)
    _check_publish(recipe, tree)
    _check_controls(recipe, tree)
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
        name = item.value["name"].plain()
        with _located(item.at("name")):
            _check_name(name, f"methods.{index}.name")
            if name in RESERVED_NAMES or name in {method.name for method in methods}:
                raise RequestError(f"the method name {name!r} is taken: choose another")
        settings = {key: value for key, value in item.value.items() if key != "name"}
        _check_settings(Located(settings, item.where), f"methods.{index}")
        methods.append(MethodSpec(name, {key: value.plain() for key, value in settings.items()}))
    return tuple(methods)


def _check_name(name: Any, key: str) -> None:
    if not isinstance(name, str):
        raise RequestError(f"{key} must be text (in quotes), not {name!r}")
    if not _NAME.fullmatch(name) or name.endswith(".partial"):
        raise RequestError(f"{key} is {name!r}, which cannot name a folder: use letters, digits and . _ + @ = -")


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Put the place in front of what is refused inside."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _check_settings(tree: Located, key: str, control: str | None = None) -> None:
    """Make a training configuration of settings once, for its checks.

    Args:
        tree: Mapping of fields of ``UnlearnConfig``.
        key: Where the mapping stands in the recipe.
        control: Name of the positive control that they train.
    """
    from .trainer.train import GIVEN_BY_THE_RUN, make_config, method_settings, suggest_setting

    known = method_settings()
    for name, item in tree.value.items():
        if name in GIVEN_BY_THE_RUN:
            raise RequestError(f"{item.where}: a method cannot set '{key}.{name}': {GIVEN_BY_THE_RUN[name]}")
        if name not in known:
            raise RequestError(f"{item.where}: unknown key '{key}.{name}': {suggest_setting(name)}")
        if control and name == "control":
            raise RequestError(f"{item.where}: '{key}.control' is given by the control's kind: remove it")

    def problem(settings: dict[str, Any]) -> str | None:
        try:
            make_config({**settings, **({"control": control} if control else {})}, Path("unused"), 0)
        except RequestError as error:
            return str(error)
        return None

    settings = tree.plain()
    message = problem(settings)
    if message is None:
        return
    # The setting to blame is the first one without which this is not what is wrong.
    without = ({name: value for name, value in settings.items() if name != left_out} for left_out in settings)
    changed = (name for name, rest in zip(settings, without, strict=True) if problem(rest) != message)
    culprit = next(changed, None)
    named = culprit is None or first_named([culprit], message) is not None
    raise RequestError(f"{tree.at(culprit or '')}: {key if named else f'{key}.{culprit}'}: {message}")


def _parse_attacks(tree: Located) -> dict[str, Any]:
    from .attacks import ATTACKS

    if tree.value is None:
        return {}
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: attack must be a mapping from an attack's name to its settings")
    attacks = {}
    for name, item in tree.value.items():
        with _located(f"{item.where}: attack.{name}"):
            entry = ATTACKS.get(name)
        attacks[name] = build(entry.value, item, f"attack.{name}")
    return attacks


def _check_names(recipe: Recipe, tree: Located) -> None:
    """Names that stand in the recipe's lists, and the recipe's own."""
    from .evaluation.metrics import METRICS
    from .quantization import FORMATS

    with _located(tree.at("name")):
        _check_name(recipe.name, "name")
    if not 0 <= recipe.seed <= LARGEST_SEED:
        raise RequestError(f"{tree.at('seed')}: seed is {recipe.seed}: it must be between 0 and {LARGEST_SEED}")
    for name in recipe.data.extra:
        with _located(tree.at("data", "extra", name)):
            _check_name(name, "the name of a set in data.extra")
    for (section, key), names, registry in (
        (("export", "formats"), recipe.export.formats, FORMATS),
        (("evaluate", "metrics"), recipe.evaluate.metrics, METRICS),
    ):
        for index, name in enumerate(names):
            with _located(f"{tree.at(section, key, index)}: {section}.{key}"):
                registry.get(name)
        _check_distinct(names, f"{section}.{key}", tree)


def _check_distinct(names: Sequence[str], key: str, tree: Located) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RequestError(f"{tree.at(*key.split('.'), index)}: {key} names {name!r} twice: once is enough")


def _fill_gate(recipe: Recipe, tree: Located) -> Recipe:
    """Where the recipe does not say, the gate judges every format that is exported and every attack that is run."""
    gate_tree = tree.value.get("gate")
    given = gate_tree.value if gate_tree is not None and gate_tree.value else {}
    gate = recipe.gate
    if "formats" not in given:
        gate = dataclasses.replace(gate, formats=recipe.export.formats)
    if "attacks" not in given:
        gate = dataclasses.replace(gate, attacks=tuple(recipe.attack))
    if "metrics" not in given:
        metrics = tuple(metric for metric in gate.metrics if metric in recipe.evaluate.metrics)
        if not metrics:
            raise RequestError(
                f"{tree.at('evaluate', 'metrics')}: evaluate.metrics has none of those that are judged by default "
                f"({', '.join(gate.metrics)}): add one, or name in gate.metrics what is judged"
            )
        gate = dataclasses.replace(gate, metrics=metrics)
    return dataclasses.replace(recipe, gate=gate)


def _check_gate(recipe: Recipe, tree: Located) -> None:
    """The gate can only judge what the run makes."""
    for key, wanted, there in (
        ("formats", recipe.gate.formats, recipe.export.formats),
        ("attacks", recipe.gate.attacks, tuple(recipe.attack)),
        ("metrics", recipe.gate.metrics, recipe.evaluate.metrics),
    ):
        _check_made(wanted, there, f"gate.{key}", tree)


def _check_publish(recipe: Recipe, tree: Located) -> None:
    """What a card would be refused for is found before the run, not after it."""
    from .hub.metadata import plain_key_problems

    publish = recipe.publish
    if publish.formats is not None:
        _check_made(publish.formats, recipe.export.formats, "publish.formats", tree)
    words = {"license": publish.license, "language": list(publish.language), "base_model": publish.base_model}
    for problem in plain_key_problems({key: value for key, value in words.items() if value}):
        key = problem.partition(":")[0]
        raise RequestError(f"{tree.at('publish', key)}: publish.{problem}")


def _check_made(wanted: Sequence[str], there: Sequence[str], key: str, tree: Located) -> None:
    for index, name in enumerate(wanted):
        if name not in there:
            nearest = suggest(name, list(there)) if there else "it makes none"
            raise RequestError(
                f"{tree.at(*key.split('.'), index)}: {key} names {name!r}, which the run does not make: {nearest}"
            )
    _check_distinct(wanted, key, tree)


def _check_controls(recipe: Recipe, tree: Located) -> None:
    names: list[str] = []
    for index, control in enumerate(recipe.controls):
        item = Located(None, "") if "controls" not in tree.value else tree.value["controls"].value[index]
        try:
            _check_control(recipe, control, names)
        except RequestError as error:
            message = str(error)
            raise RequestError(f"{item.blamed(message)}: controls.{index} ({control.name}): {message}") from None
        if control.kind not in ("never_knew", "method"):
            settings = item.value.get("settings")
            if settings is None or settings.value is None:
                settings = Located({}, item.where)
            _check_settings(settings, f"controls.{index}.settings", control.kind)
        names.append(control.name)


def _check_control(recipe: Recipe, control: ControlSpec, before: Sequence[str]) -> None:
    from .controls import CONTROLS

    kinds = ["never_knew", "method", *CONTROLS.names()]
    methods = [method.name for method in recipe.methods]
    if control.kind not in kinds:
        raise RequestError(f"kind cannot be {control.kind!r}: {suggest(control.kind, kinds)}")
    taken = [*before, *(() if control.kind == "method" else (*RESERVED_NAMES, *methods))]
    if control.name in taken:
        raise RequestError(f"name {control.name!r} is taken: choose another")
    _check_name(control.name, "name")
    if control.kind == "method" and control.method is None:
        raise RequestError(f"kind method needs the key 'method' with one of {', '.join(methods)}")
    if control.method is not None and control.method not in methods:
        raise RequestError(f"method {control.method!r} is not one of the methods: {suggest(control.method, methods)}")
    if control.kind == "never_knew" and recipe.model.scratch is None:
        raise RequestError("kind never_knew needs model.scratch, which can train a second never-knew model: remove it")
    if control.seed is not None and not 0 <= control.seed <= LARGEST_SEED:
        raise RequestError(f"seed is {control.seed}: it must be between 0 and {LARGEST_SEED}")
    judged = ["identity", *recipe.gate.formats, *recipe.gate.attacks]
    for transform in control.caught_by:
        if transform not in judged:
            raise RequestError(
                f"caught_by names {transform!r}, which the gate does not judge: {suggest(transform, judged)}"
            )
