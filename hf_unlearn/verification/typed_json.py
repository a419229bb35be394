"""Dataclasses as JSON: how they are written, how they are read, and the JSON schema that follows from them.

What a type hint cannot say is next to it, in ``Annotated[int, Schema(minimum=0)]``.

Reading is lenient: whatever a document holds is read as far as it goes. A value that is missing or of another type is
``None`` where the hint allows that, otherwise empty (texts, lists, mappings). Nothing is guessed: the defaults of a
dataclass are for those who write. An entry that lacks a plain number is left out as a whole. Whether a document is
what the schema wants is asked apart (:mod:`~hf_unlearn.verification.report_file`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")


@dataclass(frozen=True)
class Schema:
    """What the schema says about a value besides its type.

    Attributes:
        description: For people.
        define: Its name in ``$defs``, if it is used more than once.
        minimum: Least number.
        maximum: Largest number.
        min_items: Least length of a list.
        pattern: Regular expression that a text must match.
        key: The key in JSON, where it cannot be the name of an attribute.
        since: Version of the document that it came with. Earlier ones have no such key.
        required: Whether every document has the key.
        stated: Whether ``None`` means that a document does not say it: such a key is not written, and may not be null.
        inline: Whether its keys are among those of the object it belongs to.
        is_open: Whether the mapping takes all keys of its object that are not declared.
    """

    description: str = ""
    define: str = ""
    minimum: float | None = None
    maximum: float | None = None
    min_items: int | None = None
    pattern: str = ""
    key: str = ""
    since: str = ""
    required: bool = True
    stated: bool = False
    inline: bool = False
    is_open: bool = False

    def keywords(self) -> dict[str, Any]:
        """The words of the schema language, without those that were not given."""
        said = {
            "description": self._with_version(),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "minItems": self.min_items,
            "pattern": self.pattern,
        }
        return {word: value for word, value in said.items() if value not in (None, "")}

    def _with_version(self) -> str:
        return f"{self.description} Since {self.since}." if self.description and self.since else self.description


Stated = Annotated[T | None, Schema(stated=True)]
"""Every document says it; ``None`` where one does not all the same."""

Maybe = Annotated[T | None, Schema(stated=True, required=False)]
"""Some documents say it; ``None`` where one does not."""


@dataclass(frozen=True)
class _Entry:
    """One attribute of a dataclass as a key of JSON."""

    name: str
    key: str
    hint: Any
    since: str
    required: bool
    stated: bool
    inline: bool
    is_open: bool


class _Missing:
    """What was not there, or was of another type."""


_MISSING = _Missing()


def to_json(value: Any, version: str = "") -> Any:
    """A value as JSON has it.

    Args:
        value: Dataclasses, mappings, sequences and plain values, within each other.
        version: Version of the document; what came later is not written. All is written if left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object_to_json(value, version)
    if isinstance(value, Mapping):
        return {key: to_json(item, version) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item, version) for item in value]
    return value


def from_json(cls: type[T], value: Mapping[str, Any]) -> T:
    """An object of a dataclass from what a document says, as far as it goes.

    Args:
        cls: The dataclass.
        value: The document.

    Raises:
        ValueError: A number is missing without which there is no such object.
    """
    found = _read_object(cls, value)
    if isinstance(found, _Missing):
        raise ValueError(f"this is no {cls.__name__}")
    return typing.cast(T, found)


def schema_of(cls: type[Any]) -> dict[str, Any]:
    """The JSON schema of a dataclass, with its ``$defs``."""
    definitions: dict[str, Any] = {}
    return {**_object_schema(cls, definitions), "$defs": definitions}


@cache
def _entries(cls: Any) -> tuple[_Entry, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_entry(item.name, hints[item.name]) for item in dataclasses.fields(cls))


def _entry(name: str, hint: Any) -> _Entry:
    own = _notes_of_the_use(hint)
    return _Entry(
        name=name,
        key=next((note.key for note in own if note.key), name),
        hint=hint,
        since=next((note.since for note in own if note.since), ""),
        required=all(note.required and not note.since for note in own),
        stated=any(note.stated for note in own),
        inline=any(note.inline for note in own),
        is_open=any(note.is_open for note in own),
    )


def _split(hint: Any) -> tuple[Any, tuple[Schema, ...]]:
    """A hint and what is said of it, from the inside to the outside."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    base, *notes = get_args(hint)
    return base, tuple(note for note in notes if isinstance(note, Schema))


def _notes_of_the_use(hint: Any) -> tuple[Schema, ...]:
    """What is said of the value here, and not of every value of a type that has a name."""
    _, notes = _split(hint)
    named = [index for index, note in enumerate(notes) if note.define]
    return notes[named[-1] + 1 :] if named else notes


def _arm(hint: Any) -> Any | None:
    """What a hint allows besides ``None``; ``None`` if it does not allow that."""
    if get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    arms = [arm for arm in get_args(hint) if arm is not types.NoneType]
    if len(arms) != 1:
        raise TypeError(f"{hint} is more than one type or None")
    return arms[0]


def _is_list(origin: Any) -> bool:
    return origin in (tuple, list, Sequence)


def _is_pair(hint: Any) -> bool:
    return get_origin(hint) is tuple and Ellipsis not in get_args(hint)


# Written.


def _object_to_json(value: Any, version: str) -> dict[str, Any]:
    cls: Any = type(value)
    found: dict[str, Any] = {}
    for entry in _entries(cls):
        item = getattr(value, entry.name)
        if (item is None and (entry.stated or entry.inline)) or _is_later(entry.since, version):
            continue
        written = to_json(item, version)
        if entry.inline or entry.is_open:
            found |= written
        else:
            found[entry.key] = written
    return found


def _is_later(since: str, version: str) -> bool:
    return bool(since and version) and _numbers(since) > _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


# Read.


def _read(hint: Any, value: Any) -> Any:
    base, _ = _split(hint)
    arm = _arm(base)
    if arm is not None:
        found = _read(arm, value)
        return None if isinstance(found, _Missing) else found
    if isinstance(value, _Missing) or value is None:
        return _MISSING
    if base is Any:
        return value
    origin = get_origin(base)
    if _is_pair(base):
        return _read_pair(base, value)
    if _is_list(origin):
        return _read_list(get_args(base)[0], value)
    if origin is Mapping:
        return _read_mapping(get_args(base)[1], value)
    if dataclasses.is_dataclass(base):
        return _read_object(base, value)
    return _read_plain(str if origin is Literal else base, value)


def _read_plain(kind: Any, value: Any) -> Any:
    if kind is str:
        return value if isinstance(value, str) else _MISSING
    if kind is bool:
        return value if isinstance(value, bool) else _MISSING
    numbers = int if kind is int else (int, float)
    is_number = isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else _MISSING


def _read_pair(hint: Any, value: Any) -> Any:
    kinds = get_args(hint)
    if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
        return _MISSING
    found = tuple(_read(kind, item) for kind, item in zip(kinds, value, strict=True))
    return _MISSING if any(isinstance(item, _Missing) for item in found) else found


def _read_list(kind: Any, value: Any) -> Any:
    if isinstance(value, Mapping):  # by name, as lists of named things once stood in reports
        value = list(value.values())
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return _MISSING
    found = (_read(kind, item) for item in value)
    return tuple(item for item in found if not isinstance(item, _Missing))


def _read_mapping(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return _MISSING
    if kind is Any:
        return value
    found = {str(key): _read(kind, item) for key, item in value.items()}
    return {key: item for key, item in found.items() if not isinstance(item, _Missing)}


def _read_object(cls: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return _MISSING
    known = {entry.key for entry in _entries(cls)}
    found = {}
    for entry in _entries(cls):
        if entry.is_open:
            raw: Any = {key: item for key, item in value.items() if key not in known}
        else:
            raw = value if entry.inline else value.get(entry.key, _MISSING)
        item = _read(entry.hint, raw)
        if isinstance(item, _Missing):
            item = _empty(entry.hint)
        if isinstance(item, _Missing):
            return _MISSING
        found[entry.name] = item
    return cls(**found)


def _empty(hint: Any) -> Any:
    """The value for a missing one."""
    base, _ = _split(hint)
    origin = get_origin(base)
    if base is str or origin is Literal:
        return ""
    if _is_list(origin) and not _is_pair(base):
        return ()
    if origin is Mapping:
        return {}
    return _read_object(base, {}) if dataclasses.is_dataclass(base) else _MISSING


# Described.


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    base, notes = _split(hint)
    own = _notes_of_the_use(hint)
    of_the_type = notes[: len(notes) - len(own)]
    found = _type_schema(base, definitions, stated=any(note.stated for note in notes))
    if of_the_type:
        name = of_the_type[-1].define
        definitions[name] = _with_keywords(found, of_the_type)
        found = {"$ref": f"#/$defs/{name}"}
    return _with_keywords(found, own)


def _with_keywords(schema: dict[str, Any], notes: Sequence[Schema]) -> dict[str, Any]:
    found = dict(schema)
    for note in notes:
        found |= note.keywords()
    return found


def _type_schema(hint: Any, definitions: dict[str, Any], *, stated: bool = False) -> dict[str, Any]:
    arm = _arm(hint)
    if arm is not None:
        inner = _schema(arm, definitions)
        return inner if stated else _or_null(inner)
    origin = get_origin(hint)
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if _is_pair(hint):
        items, *_ = get_args(hint)
        return {"type": "array", "items": _schema(items, definitions), "minItems": 2, "maxItems": 2}
    if _is_list(origin):
        return {"type": "array", "items": _schema(get_args(hint)[0], definitions)}
    if origin is Mapping:
        values = get_args(hint)[1]
        return {"type": "object", **({} if values is Any else {"additionalProperties": _schema(values, definitions)})}
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint, definitions)
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number"}[hint]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if set(schema) <= {"type", "description", "minimum", "maximum", "pattern"}:
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [{"type": "null"}, schema]}


def _object_schema(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    is_open = False
    for entry in _entries(cls):
        if entry.is_open:
            is_open = True
        elif entry.inline:
            base, _ = _split(entry.hint)
            properties |= _object_schema(_arm(base) or base, definitions)["properties"]
        else:
            properties[entry.key] = _schema(entry.hint, definitions)
            required += [entry.key] if entry.required else []
    closed = {} if is_open else {"additionalProperties": False}
    return {"type": "object", **closed, "required": sorted(required), "properties": properties}
