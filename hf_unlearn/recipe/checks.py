"""What a recipe is refused for before anything is loaded, with file, line and key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..attacks.base import check_judgeable
from ..attacks.composed import judged_attacks
from ..controls import CONTROLS
from ..data.alternates import ALTERNATES
from ..errors import Refusals, RequestError
from ..evaluation.metrics import METRICS
from ..hub.metadata import plain_key_problems, verdict_problem
from ..losses import FORGET_LOSSES, RETAIN_LOSSES
from ..quantization import FORMATS, calibration_kinds
from ..registry import Registry, build_part, suggest
from ..robust import ROBUST
from ..runtime.strict_yaml import Located, first_named
from .setting_names import GIVEN_BY_THE_RUN, declared_settings, misfits, suggest_setting
from .spec import RESERVED_NAMES, ControlSpec, Recipe

LONGEST_NAME = 200  # of the 255 that file systems allow, some go to endings such as .partial
LARGEST_SEED = 2**32 - 1
UNTRAINED_CONTROLS = ("never_knew", "method", "target")
# Names become folders, and appear in tables and file names.
_NAME = re.compile(r"\w[\w .+@=-]*(?<![ .])")


def check_name(name: Any, key: str) -> None:
    """Names of recipes, methods and controls become folders."""
    if not isinstance(name, str):
        raise RequestError(f"{key} must be text (in quotes), not {name!r}")
    if not _NAME.fullmatch(name) or name.endswith(".partial"):
        raise RequestError(f"{key} is {name[:80]!r}, which cannot name a folder: use letters, digits and . _ + @ = -")
    if len(name.encode("utf-8")) > LONGEST_NAME:
        raise RequestError(f"{key} has more than {LONGEST_NAME} bytes, which is too long for a folder: shorten it")


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put the place in front of a refusal raised inside."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def check_setting_names(tree: Located, key: str, control: str | None = None, further: Sequence[str] = ()) -> None:
    """Names and plain types of settings, and names in them, before anything slow is imported.

    Args:
        tree: Mapping of fields of ``UnlearnConfig``.
        key: Where the mapping is in the recipe.
        control: Name of the positive control that they train.
        further: Keys that may stand beside them.

    Raises:
        RequestError: All that is wrong at once.
    """
    known = declared_settings()
    refusals = Refusals()
    wrong = misfits(tree.plain())
    for name, item in tree.value.items():
        if name in GIVEN_BY_THE_RUN:
            refusals.add(f"{item.where}: a method cannot set '{key}.{name}': {GIVEN_BY_THE_RUN[name]}")
        elif name not in known:
            refusals.add(f"{item.where}: unknown key '{key}.{name}': {suggest_setting(name, further)}")
        elif control and name == "control":
            refusals.add(f"{item.where}: '{key}.control' is given by the control's kind: remove it")
        elif name in wrong:
            refusals.add(f"{item.where}: {key}: {wrong[name]}")
        elif name in _PARTS:
            with refusals.collected(), located(f"{item.where}: {key}.{name}"):
                _check_parts(_PARTS[name], item.plain())
    refusals.raise_any()


_PARTS: dict[str, Registry[Any]] = {
    "loss_type": FORGET_LOSSES,
    "retain_loss_type": RETAIN_LOSSES,
    "alternates": ALTERNATES,
    "robust": ROBUST,
    "control": CONTROLS,
}
"""Settings that name what is registered, alone or in a list."""


def _check_parts(registry: Registry[Any], given: Any) -> None:
    """Names, and the parameters given with them; what is neither a name nor a mapping with one is left to the part."""
    for spec in given if isinstance(given, list) else [given]:
        if isinstance(spec, str) and not spec.lstrip().startswith("{"):
            registry.require(spec)
        elif isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
            registry.require_parameters(spec["name"], [key for key in spec if key != "name"])


def check_settings(tree: Located, key: str, control: str | None = None) -> None:
    """Build a training configuration from settings once, for its checks. Imports transformers.

    Args:
        tree: As for :func:`check_setting_names`, which it has passed.
        key: Where the mapping is in the recipe.
        control: Name of the positive control that they train.

    Raises:
        RequestError: All wrong types at once; without them the first value that cannot be used.
    """
    from .method_settings import make_config, unfit

    refusals = Refusals()
    for name, what in unfit(tree.plain()).items():
        refusals.add(f"{tree.value[name].where}: {key}: {what}")
    refusals.raise_any()

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
    # The setting to blame is the first one without which this error goes away.
    without = ({name: value for name, value in settings.items() if name != left_out} for left_out in settings)
    changed = (name for name, rest in zip(settings, without, strict=True) if problem(rest) != message)
    culprit = next(changed, None)
    named = culprit is None or first_named([culprit], message) is not None
    raise RequestError(f"{tree.at(culprit or '')}: {key if named else f'{key}.{culprit}'}: {message}")


def check_seed(tree: Located) -> None:
    """The seed is in the range that every generator takes."""
    seed = tree.value["seed"].value if "seed" in tree.value else 0
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:  # another type is told where the sections are read
        raise RequestError(f"{tree.at('seed')}: seed is {seed}: it must be between 0 and {LARGEST_SEED}")


def check_listed_names(tree: Located) -> None:
    """Names in lists of formats and metrics."""
    refusals = Refusals()
    for section, key, registry in (("export", "formats", FORMATS), ("evaluate", "metrics", METRICS)):
        part = tree.value[section].value if section in tree.value else None
        listed = part[key].value if isinstance(part, dict) and key in part else ()
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item.value, str):  # another type is told where the section is read
                with refusals.collected(), located(f"{item.where}: {section}.{key}"):
                    registry.require(item.value)
    refusals.raise_any()


def check_names(recipe: Recipe, tree: Located) -> None:
    """Names that the recipe gives, and that none stands twice."""
    refusals = Refusals()
    with refusals.collected(), located(tree.at("name")):
        check_name(recipe.name, "name")
    for name in recipe.data.extra:
        with refusals.collected(), located(tree.at("data", "extra", name)):
            check_name(name, "the name of a set in data.extra")
    for index, request in enumerate(recipe.data.earlier):
        with refusals.collected(), located(tree.at("data", "earlier", index, "id")):
            check_name(request.id, f"data.earlier.{index}.id")
    if recipe.data.earlier and recipe.model.scratch is not None:
        refusals.add(
            f"{tree.at('data', 'earlier')}: data.earlier is about a released model, and model.scratch builds a new "
            "one: name model.target"
        )
    for key, names in (("export.formats", recipe.export.formats), ("evaluate.metrics", recipe.evaluate.metrics)):
        with refusals.collected():
            _check_distinct(names, key, tree)
    refusals.raise_any()


def check_calibration(recipe: Recipe, tree: Located) -> None:
    """A calibrated format needs ordinary text to look at."""
    kinds = calibration_kinds(recipe.export.formats, recipe.export.calibration.kind)
    if not kinds or recipe.data.has_generic or recipe.export.calibration.source is not None:
        return
    name = next(iter(kinds))
    raise RequestError(
        f"{tree.at('export', 'formats', recipe.export.formats.index(name))}: export.formats: {name} is calibrated on "
        "ordinary text, and the recipe names none: add data.generic, or name a text in export.calibration.source"
    )


def _check_distinct(names: Sequence[str], key: str, tree: Located) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RequestError(f"{tree.at(*key.split('.'), index)}: {key} names {name!r} twice: remove one")


def fill_gate(recipe: Recipe, tree: Located) -> Recipe:
    """Unless the recipe says otherwise, the gate judges every format, attack and further set of the run."""
    gate_tree = tree.value.get("gate")
    given = gate_tree.value if gate_tree is not None and gate_tree.value else {}
    gate = recipe.gate
    if "formats" not in given:
        gate = dataclasses.replace(gate, formats=_downloadable(recipe.export.formats))
    if "attacks" not in given:
        gate = dataclasses.replace(gate, attacks=judged_attacks(recipe.attack, never_knew=recipe.model.has_never_knew))
    if "utility_sets" not in given:
        gate = dataclasses.replace(gate, utility_sets=recipe.data.further_sets)
    if "metrics" not in given:
        metrics = tuple(metric for metric in gate.metrics if metric in recipe.evaluate.metrics)
        if not metrics:
            raise RequestError(
                f"{tree.at('evaluate', 'metrics')}: evaluate.metrics has none of those that are judged by default "
                f"({', '.join(gate.metrics)}): add one, or name in gate.metrics what is judged"
            )
        gate = dataclasses.replace(gate, metrics=metrics)
    return dataclasses.replace(recipe, gate=gate)


def _downloadable(names: Sequence[str]) -> tuple[str, ...]:
    """The exported formats that people download: the others are made to explain, and judged only if asked for."""
    return tuple(name for name in names if FORMATS.get(name).value.published)


def check_gate(recipe: Recipe, tree: Located) -> None:
    """The gate can only judge what the run makes and measures."""
    from ..models.llama_cpp import runtime_transforms

    refusals = Refusals()
    for key, wanted, there in (
        ("formats", recipe.gate.formats, (*recipe.export.formats, *runtime_transforms(recipe.export.formats))),
        ("attacks", recipe.gate.attacks, tuple(recipe.attack)),
        ("metrics", recipe.gate.metrics, recipe.evaluate.metrics),
        ("utility_sets", recipe.gate.utility_sets, recipe.data.further_sets),
    ):
        with refusals.collected():
            _check_made(wanted, there, f"gate.{key}", tree)
    refusals.raise_any()
    for index, name in enumerate(recipe.gate.attacks):
        with located(f"{tree.at('gate', 'attacks', index)}: gate.attacks"):
            check_judgeable(name, recipe.attack[name], recipe.gate.metrics)


def check_publish(recipe: Recipe, tree: Located) -> None:
    """Anything a card would be refused for is found before the run, not after it."""
    publish = recipe.publish
    if publish.formats is not None:
        _check_made(publish.formats, recipe.export.formats, "publish.formats", tree)
    words = {"license": publish.license, "language": list(publish.language), "base_model": publish.base_model}
    for key in ("repo_id", "tag"):
        # Each is checked without the other, to name the one that is wrong.
        with located(f"{tree.at('publish', key)}: publish.{key}"):
            other = {"tag": None} if key == "repo_id" else {"repo_id": "owner/name"}
            dataclasses.replace(publish, **other).hub_options()
    if publish.formats is not None:
        for index, name in enumerate(publish.formats):
            if not getattr(FORMATS.get(name).value, "published", True):
                raise RequestError(
                    f"{tree.at('publish', 'formats', index)}: publish.formats names {name!r}, which is made to be "
                    "scored, not to be published: remove it"
                )
    for section, key, text in (
        ("data", "description", recipe.data.description),
        ("publish", "model_name", publish.model_name),
    ):
        if problem := verdict_problem(text):
            raise RequestError(f"{tree.at(section, key)}: {section}.{key}: {problem}: say it in other words")
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


def check_methods(recipe: Recipe, tree: Located) -> None:
    """The settings of each method make a configuration. Imports transformers."""
    refusals = Refusals()
    for index, method in enumerate(recipe.methods):
        if method.checkpoint is None:
            with refusals.collected():
                check_settings(method_tree(tree, index), f"methods.{index}")
    refusals.raise_any()


def method_tree(tree: Located, index: int) -> Located:
    """The settings of one method."""
    item = tree.value["methods"].value[index]
    return Located({name: value for name, value in item.value.items() if name != "name"}, item.where)


def check_control_names(tree: Located) -> None:
    """The settings of controls, as far as :func:`check_setting_names` goes."""
    refusals = Refusals()
    section = tree.value.get("controls")
    for index, item in enumerate(section.value or () if section is not None else ()):
        for name in ("settings", "learn"):
            if isinstance(item.value, dict) and isinstance(_section(item, name).value, dict):
                with refusals.collected():
                    kind = item.value["kind"].plain() if "kind" in item.value else ""
                    check_setting_names(_section(item, name), f"controls.{index}.{name}", kind)
    refusals.raise_any()


def check_controls(recipe: Recipe, tree: Located) -> None:
    """Controls have a kind, a name of their own, and what their kind needs."""
    names: list[str] = []
    for index, control in enumerate(recipe.controls):
        item = Located(None, "") if "controls" not in tree.value else tree.value["controls"].value[index]
        try:
            _check_control(recipe, control, names)
        except RequestError as error:
            message = str(error)
            raise RequestError(f"{item.blamed(message)}: controls.{index} ({control.name}): {message}") from None
        if control.kind not in UNTRAINED_CONTROLS:
            with located(f"{item.at('parameters')}: controls.{index}.parameters"):
                if "phase" in control.parameters:
                    raise RequestError("phase is given by the run, which goes through both: remove it")
                part = build_part(CONTROLS, {"name": control.kind, **control.parameters})
            check_settings(_section(item, "settings"), f"controls.{index}.settings", control.kind)
            with located(f"{item.at('learn')}: controls.{index}.learn"):
                _check_learning(recipe, control, part.learns_first)
            check_settings(_section(item, "learn"), f"controls.{index}.learn", control.kind)
        names.append(control.name)


def _section(item: Located, key: str) -> Located:
    section = item.value.get(key)
    return Located({}, item.where) if section is None or section.value is None else section


def _check_learning(recipe: Recipe, control: ControlSpec, learns_first: bool) -> None:
    if control.learn and not learns_first:
        raise RequestError(f"a control of kind {control.kind} learns nothing: remove it")
    if learns_first and not recipe.model.has_never_knew:
        raise RequestError(
            f"kind {control.kind} learns the facts from a never-knew model: give model.never_knew, or remove the "
            "control"
        )


def _check_control(recipe: Recipe, control: ControlSpec, before: Sequence[str]) -> None:
    kinds = [*UNTRAINED_CONTROLS, *CONTROLS.names()]
    methods = [method.name for method in recipe.methods]
    if control.kind not in kinds:
        raise RequestError(f"kind cannot be {control.kind!r}: {suggest(control.kind, kinds)}")
    taken = [*before, *(() if control.kind == "method" else (*RESERVED_NAMES, *methods))]
    if control.name in taken:
        raise RequestError(f"name {control.name!r} is taken: choose another")
    check_name(control.name, "name")
    if control.kind == "method" and control.method is None:
        raise RequestError(f"kind method needs the key 'method' with one of {', '.join(methods)}")
    if control.method is not None and control.method not in methods:
        raise RequestError(f"method {control.method!r} is not one of the methods: {suggest(control.method, methods)}")
    if control.kind == "never_knew" and recipe.model.scratch is None:
        raise RequestError("kind never_knew needs model.scratch, which can train a second never-knew model: remove it")
    if control.seed is not None and not 0 <= control.seed <= LARGEST_SEED:
        raise RequestError(f"seed is {control.seed}: it must be between 0 and {LARGEST_SEED}")
    hides = control.max_forget_score is not None or control.min_retain_score is not None
    if hides and "exact_match" not in recipe.evaluate.metrics:
        raise RequestError("max_forget_score and min_retain_score need exact_match in evaluate.metrics: add it")
    judged = ["identity", *recipe.gate.formats, *recipe.gate.attacks]
    for transform in control.caught_by:
        if transform not in judged:
            raise RequestError(
                f"caught_by names {transform!r}, which the gate does not judge: {suggest(transform, judged)}"
            )
