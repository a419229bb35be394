"""From a YAML file to a checked suite. No data and no model are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ...errors import RequestError
from ...registry import Entry, Registry, suggest
from ...runtime.secret_values import check_secrets
from ...runtime.secrets import redact
from ...runtime.strict_yaml import Located, build, override, read_yaml
from ..aggregates import AGGREGATES
from ..metrics import METRICS
from .spec import GENERIC, Suite, SuiteSet

T = TypeVar("T")
DEFAULTS = "defaults"
LIKE = "like"


def builtin_suites() -> dict[str, Path]:
    """Suites that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"), key=lambda path: path.stem)}


def find_suite(name: Path | str) -> Path:
    """The file itself, or the one that comes with the package under that name.

    Raises:
        RequestError: There is neither.
    """
    path = Path(name)
    built_in = builtin_suites()
    if not path.exists() and str(name) in built_in:
        return built_in[str(name)]
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        hint = suggest(str(name), list(built_in))
        raise RequestError(f"there is no suite file or built-in suite {str(name)!r}: {hint}")
    return path


def load_suite(name: Path | str, overrides: Sequence[str] = ()) -> Suite:
    """Read, override and check a suite.

    Args:
        name: The YAML file, or the name of a suite that comes with the package.
        overrides: ``key=value`` assignments, for example ``set.forget.path=rows.jsonl``. A set or aggregate that
            the file does not have cannot be added or changed by one.

    Raises:
        RequestError: Anything wrong, with file, line and key.
    """
    path = find_suite(name)
    tree = read_yaml(path)
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: a suite is a mapping of keys to values")
    for assignment in overrides:
        _check_override(tree, assignment)
        tree = override(tree, assignment)
    check_secrets(tree)
    if "name" not in tree.value:
        tree = Located({"name": Located(path.stem, tree.where), **tree.value}, tree.where)
    return parse_suite(tree)


def parse_suite(tree: Located) -> Suite:
    """Turn a located YAML tree into a checked :class:`Suite`."""
    _check_keys(tree)
    items = dict(tree.value)
    defaults = items.pop(DEFAULTS, Located({}, tree.where))
    if defaults.value is None:
        defaults = Located({}, defaults.where)
    _check_defaults(defaults)
    if "set" in items:
        items["set"] = _filled_sets(items["set"], defaults)
    if "aggregates" in items:
        items["aggregates"] = _without_off(items["aggregates"], "aggregates")
    whole = Located(items, tree.where)
    suite = build(Suite, whole)
    _check_names(suite, whole)
    return suite


def _check_keys(tree: Located) -> None:
    known = [item.name for item in dataclasses.fields(Suite)] + [DEFAULTS]
    for key, item in tree.value.items():
        if key not in known:
            raise RequestError(f"{item.where}: unknown key {key!r}: {suggest(key, known)}")


def _check_override(tree: Located, assignment: str) -> None:
    """An override of a set that is not there would make a set of one key, whose error would say something else."""
    path = assignment.partition("=")[0].split(".")
    if path[0] not in ("set", "aggregates") or len(path) < 2:
        return
    section = tree.value.get(path[0])
    names = list(section.value) if section is not None and isinstance(section.value, dict) else []
    if path[0] == "aggregates" and path[1] in AGGREGATES.names():
        return
    if path[1] not in names:
        kind = "set" if path[0] == "set" else "aggregate"
        hint = suggest(path[1], names) if names else f"it has no {kind}"
        raise RequestError(f"command line {redact(assignment)!r}: the suite has no {kind} called {path[1]!r}: {hint}")


def _check_defaults(defaults: Located) -> None:
    if not isinstance(defaults.value, dict):
        raise RequestError(f"{defaults.where}: {DEFAULTS} must be a mapping of keys that every set starts from")
    known = [item.name for item in dataclasses.fields(SuiteSet)]
    for key, item in defaults.value.items():
        if key not in known:
            raise RequestError(f"{item.where}: unknown key '{DEFAULTS}.{key}': {suggest(key, known)}")


def _filled_sets(sets: Located, defaults: Located) -> Located:
    """Every set merged over the set it is ``like`` and over the defaults; sets that are ``off`` left out."""
    written = sets if isinstance(sets.value, dict) else _without_off(sets, "set")
    filled = {
        name: Located(_filled(name, written, defaults, ()), item.where)
        for name, item in written.value.items()
        if item.value is not False
    }
    return Located(filled, sets.where)


def _filled(name: str, sets: Located, defaults: Located, above: tuple[str, ...]) -> dict[str, Located]:
    item = sets.value[name]
    if item.value is None or item.value is False:
        return dict(defaults.value)
    if not isinstance(item.value, dict):
        raise RequestError(f"{item.where}: set.{name} must be a mapping of keys to values, or off")
    own = dict(item.value)
    like = own.pop(LIKE, None)
    if like is None:
        return _merged(defaults.value, own)
    if like.value not in sets.value:
        hint = suggest(str(like.value), list(sets.value))
        raise RequestError(f"{like.where}: set.{name}.{LIKE} names no set of the suite, {like.value!r}: {hint}")
    if like.value in (*above, name):
        raise RequestError(f"{like.where}: set.{name}.{LIKE} leads back to {name!r}: remove one of them")
    return _merged(_filled(like.value, sets, defaults, (*above, name)), own)


def _merged(below: Mapping[str, Located], above: Mapping[str, Located]) -> dict[str, Located]:
    """Keys of ``above`` take precedence; mappings are merged, so that one key of ``shots`` can be changed.

    Rows of another place on the Hub are not in the same file: a ``path`` is not inherited by a set with another place.
    """
    merged = dict(below)
    if any(key in above for key in ("dataset", "config", "split")):
        merged.pop("path", None)
    for key, item in above.items():
        under = merged.get(key)
        if under is not None and isinstance(under.value, dict) and isinstance(item.value, dict):
            item = Located(_merged(under.value, item.value), item.where)
        merged[key] = item
    return merged


def _without_off(section: Located, key: str) -> Located:
    if section.value is None:
        return Located({}, section.where)
    if not isinstance(section.value, dict):
        raise RequestError(f"{section.where}: {key} must be a mapping from names to settings")
    return Located({name: item for name, item in section.value.items() if item.value is not False}, section.where)


def _check_names(suite: Suite, tree: Located) -> None:
    """Metrics and aggregates exist, and aggregates have the settings that are given."""
    for name, spec in suite.set.items():
        if name == GENERIC and spec.metrics:
            raise RequestError(
                f"{tree.at('set', name, 'metrics')}: set.{GENERIC} is ordinary text, for which fluency and KL are "
                "measured: remove metrics, or give the set another name"
            )
        for index, metric in enumerate(spec.metrics):
            _named(METRICS, metric, f"{tree.at('set', name, 'metrics', index)}: set.{name}.metrics")
    for label in suite.aggregates:
        name, settings = suite.aggregate(label)
        entry = _named(AGGREGATES, name, f"{tree.at('aggregates', label, 'aggregate')}: aggregates")
        for key in settings:
            if key not in entry.defaults:
                hint = suggest(key, sorted(entry.defaults)) if entry.defaults else "it has no settings"
                where = tree.at("aggregates", label, key)
                raise RequestError(f"{where}: unknown key 'aggregates.{label}.{key}': {hint}")


def _named(registry: Registry[T], name: str, where: str) -> Entry[T]:
    try:
        return registry.get(name)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
