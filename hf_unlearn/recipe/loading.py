"""From a YAML file to a checked recipe. No model is loaded."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Refusals, RequestError
from ..evaluation.run import EvalSpec
from ..quantization import full_name
from ..registry import did_you_mean, suggest
from ..runtime.secret_values import check_secrets
from ..runtime.strict_yaml import Located, build, override, read_yaml
from ..verification.gate import Gate
from .attacks import check_attack_formats, parse_attacks, with_formats
from .checks import (
    check_calibration,
    check_control_names,
    check_controls,
    check_gate,
    check_listed_names,
    check_methods,
    check_name,
    check_names,
    check_publish,
    check_seed,
    check_setting_names,
    fill_gate,
    located,
)
from .setting_names import suggest_setting
from .spec import (
    RESERVED_NAMES,
    BenchmarkSpec,
    ControlSpec,
    DataSpec,
    ExportSpec,
    MethodSpec,
    ModelSpec,
    PublishSpec,
    Recipe,
)

_BUILT_IN = Path(__file__).parent.parent / "recipes"


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe. No model is loaded.

    Args:
        path: The YAML file, or the name of a recipe that comes with the package.
        overrides: ``section.key=value`` assignments.

    Raises:
        RequestError: Anything wrong, with file, line and key; what is wrong in different places is told at once.
    """
    tree, refusals = read_yaml(find_recipe(path)), Refusals()
    for assignment in overrides:
        with refusals.collected():
            tree = override(tree, assignment)
    refusals.raise_any()
    return parse_recipe(tree)


def find_recipe(path: Path | str) -> Path:
    """The recipe file itself, or the one that comes with the package under that name."""
    path = Path(path)
    built_in = builtin_recipes()
    if not path.exists() and str(path) in built_in:
        return built_in[str(path)]
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        if len(path.parts) > 1:  # a path, and no name that could be misspelled
            raise RequestError(f"{path}: there is no such file, and no such folder")
        raise RequestError(
            f"there is no recipe file or built-in recipe {str(path)!r}: {suggest(str(path), list(built_in))}"
        )
    return path


def builtin_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(_BUILT_IN.glob("*.yaml"))}


def parse_recipe(tree: Located) -> Recipe:
    """Turn a located YAML tree into a checked :class:`Recipe`.

    Unknown and missing keys, names of nothing and wrong types in all sections are told at once, without torch. What
    does not go together, and what only a method's own code can judge, is told of a recipe without them, at once too.
    """
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: a recipe is a mapping of keys to values")
    check_secrets(tree)
    tree = with_full_names(tree)
    recipe = settle_without_target(_read_sections(tree))
    check_names(recipe, tree)
    recipe = with_formats(recipe)
    refusals = Refusals()
    for check in (check_methods, check_attack_formats, check_calibration, check_publish):
        with refusals.collected():
            check(recipe, tree)
    with refusals.collected():
        recipe = fill_gate(recipe, tree)
        with refusals.collected():
            check_gate(recipe, tree)
        check_controls(recipe, tree)
    refusals.raise_any()
    return recipe


def _read_sections(tree: Located) -> Recipe:
    """Every section alone."""
    refusals = Refusals()
    with refusals.collected():
        rest = _build_plain_sections(tree)
    with refusals.collected():
        methods = _parse_methods(tree)
    for check in (check_control_names, check_listed_names, check_seed):
        with refusals.collected():
            check(tree)
    with refusals.collected():
        section = parse_attacks(tree.value.get("attack", Located({}, tree.where)))
    refusals.raise_any()
    return Recipe(
        methods=methods,
        attack=section.attacks,
        attack_tier=section.tier,
        attack_left_out=section.left_out,
        **{f.name: getattr(rest, f.name) for f in dataclasses.fields(rest)},
    )


def settle_without_target(recipe: Recipe) -> Recipe:
    """A model that is built from the data has float32 weights and is asked in plain text: ``auto`` is settled."""
    model, data = recipe.model, recipe.data
    if model.scratch is None:
        return recipe
    if model.dtype == "auto":
        model = dataclasses.replace(model, dtype="float32")
    if data.format.kind == "auto":
        data = dataclasses.replace(data, format=dataclasses.replace(data.format, kind="plain"))
    return dataclasses.replace(recipe, model=model, data=data)


def _build_plain_sections(tree: Located) -> _RecipeWithoutMethods:
    """The sections without methods and attacks, and keys that name no section."""
    sections = {key: item for key, item in tree.value.items() if key not in _WITH_OWN_READERS}
    return build(_RecipeWithoutMethods, Located(sections, tree.where), mend=_suggest_key)


_WITH_OWN_READERS = ("methods", "attack")


def _sections() -> list[str]:
    return [item.name for item in dataclasses.fields(Recipe) if not item.name.startswith("attack_")]


_OPTIONS = {"output_dir": "--output-dir DIR", "workers": "--workers N"}


def _suggest_key(wrong: str, _: Sequence[str] = ()) -> str:
    """A clause that names the section a key belongs to, the nearest section, or all of them."""
    if wrong in _OPTIONS:
        return f"that is the option {_OPTIONS[wrong]} of the command line"
    sections = _sections()
    hints = typing.get_type_hints(_RecipeWithoutMethods)
    parts = [(name, hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    inside = [name for name, hint in parts if wrong in {item.name for item in dataclasses.fields(hint)}]
    if inside:
        return f"did you mean {' or '.join(repr(f'{name}.{wrong}') for name in inside)}?"
    near = suggest(wrong, sections)
    if near.startswith("did you mean"):
        return near
    setting = suggest_setting(wrong)
    return setting.replace("mean '", "mean 'methods.0.") if setting.startswith("did you mean") else near


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
    benchmarks: BenchmarkSpec | None = None


def with_full_names(tree: Located) -> Located:
    """Formats with their group size wherever a recipe names them, so that a run has one name for each."""

    def full(item: Located) -> Located:
        if isinstance(item.value, list):
            return Located([full(part) for part in item.value], item.where)
        return Located(full_name(item.value), item.where) if isinstance(item.value, str) else item

    def inside(item: Located, key: str) -> Located:
        if isinstance(item.value, list):
            return Located([inside(part, key) for part in item.value], item.where)
        if not isinstance(item.value, dict) or key not in item.value:
            return item
        return Located({**item.value, key: full(item.value[key])}, item.where)

    places = {"export": "formats", "gate": "formats", "publish": "formats", "controls": "caught_by"}
    value = {name: inside(item, places[name]) if name in places else item for name, item in tree.value.items()}
    return Located(value, tree.where)


def _parse_methods(recipe: Located) -> tuple[MethodSpec, ...]:
    if "methods" not in recipe.value:
        misspelled = any(
            _suggest_key(key) == did_you_mean("methods") for key in recipe.value if key not in _sections()
        )
        if misspelled:  # which is told as an unknown key
            return ()
        raise RequestError(f"{recipe.where}: the key 'methods' is missing")
    tree = recipe.value["methods"]
    if not isinstance(tree.value, list) or not tree.value:
        raise RequestError(f"{tree.where}: methods must be a list with at least one method")
    methods: list[MethodSpec] = []
    refusals = Refusals()
    for index, item in enumerate(tree.value):
        with refusals.collected():
            methods.append(_parse_method(item, f"methods.{index}", [*RESERVED_NAMES, *(one.name for one in methods)]))
    refusals.raise_any()
    trained = [method.name for method in methods if method.checkpoint is None]
    if trained and len(trained) < len(methods):
        raise RequestError(
            f"{tree.where}: methods has checkpoints to judge and methods to train ({trained[0]}): make two recipes"
        )
    return tuple(methods)


_METHOD_KEYS = ("name", "checkpoint", "revision")


def _parse_method(item: Located, key: str, taken: Sequence[str]) -> MethodSpec:
    if not isinstance(item.value, dict):
        raise RequestError(f"{item.where}: {key} needs a name")
    settings = {setting: value for setting, value in item.value.items() if setting != "name"}
    refusals, name = Refusals(), ""
    with refusals.collected():
        name = _method_name(item, key, taken)
    with refusals.collected():
        if "checkpoint" in settings:
            found = _parse_checkpoint(name, settings, key)
        else:
            check_setting_names(Located(settings, item.where), key, further=_METHOD_KEYS)
            found = MethodSpec(name, {setting: value.plain() for setting, value in settings.items()})
    refusals.raise_any()
    return found


def _method_name(item: Located, key: str, taken: Sequence[str]) -> str:
    if "name" not in item.value:
        raise RequestError(f"{item.where}: {key} needs a name")
    name: str = item.value["name"].plain()
    with located(item.at("name")):
        check_name(name, f"{key}.name")
        if name in taken:
            raise RequestError(f"the method name {name!r} is taken: choose another")
    return name


def _parse_checkpoint(name: str, given: Mapping[str, Located], key: str) -> MethodSpec:
    """A model that was unlearned elsewhere: nothing about its training can be set here."""
    values = {}
    for setting, item in given.items():
        if setting not in _METHOD_KEYS:
            near = suggest(setting, list(_METHOD_KEYS))
            if near.startswith("did you mean"):
                raise RequestError(f"{item.where}: unknown key '{key}.{setting}': {near}")
            raise RequestError(
                f"{item.where}: '{key}.{setting}' cannot be set with {key}.checkpoint, which is not trained here: "
                "remove one of them"
            )
        values[setting] = item.plain()
        if not isinstance(values[setting], str) or not values[setting]:
            raise RequestError(f"{item.where}: {key}.{setting} is {values[setting]!r}, it must be text (in quotes)")
    return MethodSpec(name, checkpoint=values["checkpoint"], revision=values.get("revision"))
