"""The one registry idiom: a decorator that carries a name and what people need to know about the thing.

``hf-unlearn list``, the tables in the docs and the recipe checks are all made from these entries.
A new loss, format, attack or metric is one new file with one decorated object: the package that holds the
file imports all its modules when a registered object is first asked for. Names and words alone are read from
:mod:`hf_unlearn.registry_index`, so that a list or a misspelled name need not wait for torch.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from .errors import RequestError
from .registry_index import indexed_entries, module_names

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing.

    Attributes:
        name: What users write in a recipe.
        value: The registered class or function.
        summary: One line.
        paper: Where it comes from, for example ``"arXiv 2404.05868, eq. 3"``.
        defaults: Hyperparameters with their default values.
        needs: What it needs, from a closed list of words per registry (``"reference"``, ``"retain"``, ``"options"``,
            ``"generation"``, an extra's name ...).
        version: For scores only: raised whenever the same records would give other numbers, so numbers of two
            versions are not compared.
        tier: For attacks only: the smallest tier that includes it (``quick``, ``release`` or ``deep``); empty if it is
            run by name only.
    """

    name: str
    value: T
    summary: str
    paper: str = ""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    needs: tuple[str, ...] = ()
    version: int | None = None
    tier: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What ``hf-unlearn list --json`` prints."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "defaults": dict(self.defaults),
            "needs": list(self.needs),
            **({} if self.version is None else {"version": self.version}),
            **({"tier": self.tier} if self.tier else {}),
        }


class Registry(Generic[T]):
    """Named entries of one kind, filled by the modules of one or more packages.

    Args:
        kind: What one entry is called in messages.
        packages: Packages whose modules register something.
        facts: Attributes of the registered objects that are listed too.
    """

    def __init__(self, kind: str, *packages: str, facts: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.facts = facts
        self._packages = packages
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(
        self,
        name: str,
        *,
        summary: str,
        paper: str = "",
        defaults: Mapping[str, Any] | tuple[str, ...] | None = None,
        needs: tuple[str, ...] = (),
        version: int | None = None,
        tier: str = "",
    ) -> Callable[[T], T]:
        """Decorator that registers a class or function under ``name``.

        For a dataclass, ``defaults`` may be names of fields; their values are then taken from the dataclass.
        """

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            given = _field_defaults(value, defaults) if isinstance(defaults, tuple) else dict(defaults or {})
            frozen = MappingProxyType(given)
            self._entries[name] = Entry(name, value, summary, paper, frozen, needs, version, tier)
            return value

        return add

    @property
    def modules(self) -> list[str]:
        """Full names of the modules that may register something, sorted. None of them is imported."""
        return [name for package in self._packages for name in module_names(package)]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in self.modules:
            importlib.import_module(module)

    def described(self) -> dict[str, dict[str, Any]]:
        """Every entry and its facts as plain data, by name. Imports nothing that the index can tell."""
        indexed = None if self._loaded else indexed_entries(self.kind, self.modules)
        if indexed is None:
            self._load()
        here = {name: self._plain(entry) for name, entry in self._entries.items()}
        return dict(sorted({**(indexed or {}), **here}.items()))

    def _plain(self, entry: Entry[T]) -> dict[str, Any]:
        return {**entry.to_dict(), **{fact: getattr(entry.value, fact) for fact in self.facts}}

    def names(self) -> list[str]:
        """All names, sorted. Imports nothing that the index can tell."""
        return list(self.described())

    def entries(self) -> list[Entry[T]]:
        """All entries, sorted by name."""
        self._load()
        return [self._entries[name] for name in sorted(self._entries)]

    def require(self, name: str) -> None:
        """Refuse a name of nothing. Imports nothing that the index can tell.

        Raises:
            RequestError: There is no such entry; it names the nearest one.
        """
        if name not in (known := self.names()):
            raise RequestError(f"there is no {self.kind} called {name!r}: {suggest(name, known)}")

    def require_parameters(self, name: str, keys: Iterable[str]) -> None:
        """Refuse parameters that an entry does not have. Imports nothing that the index can tell.

        Raises:
            RequestError: There is no such entry, or it has no such parameter; it names the nearest one.
        """
        self.require(name)
        defaults = self.described()[name]["defaults"]
        for key in keys:
            if key not in defaults:
                known = suggest(key, sorted(defaults)) if defaults else "it has none"
                raise RequestError(f"{self.kind} {name!r} has no parameter {key!r}: {known}")

    def get(self, name: str) -> Entry[T]:
        """The entry called ``name``.

        Raises:
            RequestError: There is none; it names the nearest one.
        """
        self.require(name)  # first without the modules, which take seconds
        self._load()
        self.require(name)
        return self._entries[name]


def _field_defaults(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Defaults of fields of a dataclass, tuples as the lists that YAML has."""
    found: dict[str, Any] = {item.name: item.default for item in fields(value)}
    return {name: list(found[name]) if isinstance(found[name], tuple) else found[name] for name in names}


def suggest(wrong: str, right: list[str]) -> str:
    """A clause that names the right words that begin so, the nearest one, those that hold it, or all of them."""
    whole = wrong.lower()
    starting = [word for word in right if len(wrong) > 2 and word.lower().startswith(whole)]
    starting = [word for word in starting if len(word) <= len(wrong) + 2] or starting
    near = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    holding = [word for word in right if len(wrong) > 2 and whole in word.lower()]
    found = starting or near or holding
    if not found or len(found) == len(right) > 1:
        return f"there are {', '.join(right)}"
    return did_you_mean(found[0]) if len(found) == 1 else f"did you mean one of {', '.join(found)}?"


def did_you_mean(right: str) -> str:
    """The clause that names one right word."""
    return f"did you mean {right!r}?"


PartSpec = str | Mapping[str, Any]
"""A name, or a mapping with ``name`` and parameters. On a command line the mapping is written as JSON."""


def coerce(key: str, value: Any, default: Any) -> Any:
    """Convert a setting to the type of its default, if that can be done without guessing.

    YAML reads ``1e-5`` as text; a number given as text is taken as the number.

    Args:
        key: What the setting is called, for the message.
        value: As written by the user.
        default: A value of the right type. Values are only checked against defaults that are numbers.

    Raises:
        RequestError: If a number or a boolean is expected and ``value`` is neither.
    """
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise RequestError(f"{key} is {value!r}, it must be true or false")
        return value
    if not isinstance(default, int | float) or value is None:
        return value
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise RequestError(f"{key} is {value!r}, it must be a number")
    if not math.isfinite(number):
        raise RequestError(f"{key} is {value!r}, it must be a finite number")
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise RequestError(f"{key} is {value!r}, it must be a whole number")
    return int(number)


def build(registry: Registry[Any], name: str, parameters: Mapping[str, Any]) -> Any:
    """Make a registered object from its name and parameters; parameters not given keep their defaults.

    Raises:
        RequestError: If the name or a parameter is unknown, or a value is refused.
    """
    registry.require_parameters(name, parameters)
    entry = registry.get(name)
    values = {key: coerce(f"{name}.{key}", value, entry.defaults[key]) for key, value in parameters.items()}
    return entry.value(**values)


def build_part(registry: Registry[Any], spec: PartSpec) -> Any:
    """Make a part from its form in a recipe.

    Raises:
        RequestError: If the specification has no name; otherwise as in :func:`build`.
    """
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except ValueError as error:
            raise RequestError(f"{registry.kind} {spec!r} is neither a name nor JSON: {error}") from error
    if isinstance(spec, str):
        return build(registry, spec, {})
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise RequestError(f"{registry.kind} {spec!r} must be a name, or a mapping with 'name' and parameters")
    return build(registry, spec["name"], {key: value for key, value in spec.items() if key != "name"})


def part_name(spec: PartSpec) -> str:
    """The name in a specification that :func:`build_part` took."""
    if isinstance(spec, str):
        return str(json.loads(spec)["name"]) if spec.lstrip().startswith("{") else spec
    return str(spec["name"])
