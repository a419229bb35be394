"""YAML into dataclasses, strictly: unknown keys, wrong types and missing values name file, line and key.

A recipe is read by people and by machines that publish models, so a misspelled key must never be a silent default.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import Refusals, RequestError
from ..registry import did_you_mean, suggest
from .secrets import redact, takes_secret

T = TypeVar("T")
# No recipe comes near these; a short file with aliases, brackets or digits can be far above them.
LARGEST_FILE = 1 << 20
MOST_NODES = 20_000
DEEPEST = 50
LONGEST_NUMBER = 400
INT_TAG = "tag:yaml.org,2002:int"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Located:
    """A YAML value with the line where it stands.

    Attributes:
        value: ``dict[str, Located]``, ``list[Located]`` or a plain scalar.
        where: ``file:line`` or the command-line override it came from.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """The value without locations."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def at(self, *path: str | int) -> str:
        """Where the value under a path of keys and positions stands, or the last part of the path that is there."""
        found: Located = self
        for step in path:
            items = found.value if isinstance(found.value, dict) else {}
            if isinstance(found.value, list):
                items = dict(enumerate(found.value))
            if step not in items:
                break
            found = items[step]
        return found.where

    def blamed(self, message: str) -> str:
        """Where the key is that a message about this mapping names first; the mapping's own place if it names none."""
        keys = self.value if isinstance(self.value, dict) else {}
        key = first_named(keys, message)
        return self.where if key is None else keys[key].where


def first_named(words: Iterable[str], message: str) -> str | None:
    """The first word of a message, as a word of its own."""
    found = {word: re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", message) for word in words}
    return min((match.start(), word) for word, match in found.items() if match)[1] if any(found.values()) else None


def read_yaml(path: Path) -> Located:
    """Read one YAML file.

    Raises:
        RequestError: The file is missing, is not YAML, or repeats a key.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: is larger than {LARGEST_FILE} bytes, which no recipe is")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise RequestError(f"{path}: is a folder: name the YAML file") from None
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        shown = str(path) if str(path).isprintable() else repr(str(path))
        raise RequestError(f"{shown}: cannot be read as text ({error})") from None
    node = _compose(text, str(path))
    if node is None:
        raise RequestError(f"{path}: is empty")
    return _located(node, str(path))


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        _refuse_deep(text, source)
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RequestError(f"{source}:{line}: not valid YAML: {error.reason}") from None


def _refuse_deep(text: str, source: str) -> None:
    """Levels are counted while the text is read piece by piece: building the nodes would overflow Python's stack."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise RequestError(f"{source}:{line}: nested more than {DEEPEST} levels deep")


def _located(node: yaml.Node, source: str) -> Located:
    _refuse_many(node, source)
    return _locate(node, source)


def _refuse_many(node: yaml.Node, source: str) -> None:
    """Count nodes and levels of a tree with its aliases written out, each alias from what it stands for."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(of: yaml.Node, inside: tuple[yaml.Node, ...]) -> tuple[int, int]:
        if id(of) in measured:
            return measured[id(of)]
        if not isinstance(of, yaml.CollectionNode):
            return 1, 0
        where = f"{source}:{of.start_mark.line + 1}"
        if of in inside:
            raise RequestError(f"{where}: this value contains itself: write it out instead of using an alias")
        parts = [part for item in of.value for part in (item if isinstance(item, tuple) else (item,))]
        sizes = [measure(part, (*inside, of)) for part in parts]
        size, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        if size > MOST_NODES:
            raise RequestError(f"{where}: holds more than {MOST_NODES} values with its aliases written out")
        if depth > DEEPEST:
            raise RequestError(f"{where}: nested more than {DEEPEST} levels deep with its aliases written out")
        measured[id(of)] = size, depth
        return size, depth

    measure(node, ())


def _locate(node: yaml.Node, source: str) -> Located:
    where = f"{source}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise RequestError(f"{where}: the tag {node.tag[:80]!r} cannot be read: write plain lists and mappings")
    if isinstance(node, yaml.MappingNode):
        items: dict[str, Located] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RequestError(
                    f"{source}:{key_node.start_mark.line + 1}: a key must be a word, not a list or mapping"
                )
            key = str(key_node.value)
            _refuse_unusable(key, f"{source}:{key_node.start_mark.line + 1}")
            if key in items:
                raise RequestError(f"{source}:{key_node.start_mark.line + 1}: the key {key!r} is given twice here")
            item = _locate(value_node, source)
            items[key] = Located(item.value, f"{source}:{key_node.start_mark.line + 1}")
        return Located(items, where)
    if isinstance(node, yaml.SequenceNode):
        return Located([_locate(item, source) for item in node.value], where)
    _refuse_unusable(node.value, where)
    if node.tag == INT_TAG and len(node.value) > LONGEST_NUMBER:
        raise RequestError(f"{where}: a number of more than {LONGEST_NUMBER} digits cannot be read")
    try:
        value = parse_scalar(node)
        if value is None or isinstance(value, str | int | float):
            return Located(value, where)
        raise ValueError("it is neither a text nor a number")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = getattr(error, "problem", None) or error
        raise RequestError(f"{where}: {node.value[:80]!r} cannot be read: {reason}") from None


def _refuse_unusable(text: str, where: str) -> None:
    """Neither a file name nor a file can hold these."""
    if "\0" in text:
        raise RequestError(f"{where}: a text holds the character NUL: remove it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError(f"{where}: a text holds half of a character, a lone surrogate: correct it")


def parse_scalar(node: yaml.Node) -> Any:
    """A scalar node's value. ``1e-4`` is a number here, which plain YAML 1.1 takes for text, and a date is text."""
    if node.tag == TIMESTAMP_TAG:
        return node.value
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if isinstance(value, str) and getattr(node, "style", None) is None:
        try:
            return (
                float(value)
                if value.isascii() and any(c in "0123456789" for c in value) and "e" in value.lower()
                else value
            )
        except ValueError:
            return value
    return value


def override(root: Located, assignment: str) -> Located:
    """Apply ``section.key=value`` (list items by index) and return the new tree.

    Raises:
        RequestError: The assignment has no ``=``, its value is not YAML, or it leads through something that is not a
            mapping or list.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise RequestError(f"{_shown(assignment)!r} does not have the form section.key=value")
    source = f"command line {_shown(assignment)!r}"
    node = _compose(text, source)
    value = _located(node, source) if node is not None else Located(None, source)
    return _set(root, path.split("."), value, assignment)


def _shown(assignment: str) -> str:
    """An assignment as messages quote it: without what stands where a secret goes, or looks like one."""
    path, equals, _ = assignment.partition("=")
    hidden = any(map(takes_secret, path.split(".")))
    return redact(f"{path}=***" if hidden and equals else assignment)


def _set(tree: Located, path: list[str], value: Located, assignment: str) -> Located:
    where = f"command line {_shown(assignment)!r}"
    if not path:
        return _relocate(value, where)
    key, rest = path[0], path[1:]
    if isinstance(tree.value, list):
        if not re.fullmatch("[0-9]{1,6}", key) or int(key) >= len(tree.value):
            raise RequestError(
                f"{where}: {key!r} is not a position in the list at {tree.where}, which has {len(tree.value)} item(s) "
                "counted from 0"
            )
        items = list(tree.value)
        items[int(key)] = _set(items[int(key)], rest, value, assignment)
        return Located(items, tree.where)
    if tree.value is not None and not isinstance(tree.value, dict):
        raise RequestError(f"{where}: {key!r} cannot be set inside the plain value at {tree.where}")
    mapping = dict(tree.value or {})
    mapping[key] = _set(mapping.get(key, Located(None, where)), rest, value, assignment)
    return Located(mapping, tree.where)


def _relocate(tree: Located, where: str) -> Located:
    if isinstance(tree.value, dict):
        return Located({key: _relocate(item, where) for key, item in tree.value.items()}, where)
    if isinstance(tree.value, list):
        return Located([_relocate(item, where) for item in tree.value], where)
    return Located(tree.value, where)


def build(cls: type[T], tree: Located, key: str = "", mend: Callable[[str, list[str]], str] = suggest) -> T:
    """Make a dataclass from a located mapping.

    Args:
        cls: The dataclass.
        tree: The mapping.
        key: Dotted path of this mapping, for messages.
        mend: From an unknown key and the known ones to a clause that says which was meant.

    Raises:
        RequestError: Unknown keys (with the nearest right ones), missing keys, wrong types, all of them at once; or a
            refused value.
    """
    if tree.value is None:
        tree = Located({}, tree.where)
    if not isinstance(tree.value, dict):
        raise RequestError(f"{tree.where}: {key or 'the recipe'} must be a mapping of keys to values")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    values, refusals = {}, Refusals()
    misspelled = set()
    for name, item in tree.value.items():
        if name not in fields:
            meant = mend(name, list(fields))
            misspelled.add(meant)
            refusals.add(f"{item.where}: unknown key {_join(key, name)!r}: {meant}")
            continue
        with refusals.collected():
            values[name] = _convert(hints[name], item, _join(key, name))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        # A key that is there under a misspelled name is told once.
        if required and name not in tree.value and did_you_mean(name) not in misspelled:
            refusals.add(f"{tree.where}: the key {_join(key, name)!r} is missing")
    refusals.raise_any()
    try:
        return cls(**values)
    except RequestError as error:
        raise RequestError(f"{tree.blamed(str(error))}: {error}") from None


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _convert(hint: Any, item: Located, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return item.plain()
    if origin in (typing.Union, types.UnionType):
        if item.value is None and type(None) in arguments:
            return None
        options = [argument for argument in arguments if argument is not type(None)]
        if len(options) == 1:
            return _convert(options[0], item, key)
        return _first_fit(options, item, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, item, key)
    if origin is typing.Literal:
        if item.value not in arguments:
            names = [str(argument) for argument in arguments]
            raise RequestError(f"{item.where}: {key} cannot be {item.value!r}: {suggest(str(item.value), names)}")
        return item.value
    if origin in (tuple, list):
        return _convert_items(hint, item, key)
    if origin in (dict, Mapping) or hint is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _convert_mapping(arguments, item, key)
    return _convert_scalar(hint, item, key)


def _first_fit(options: list[Any], item: Located, key: str) -> Any:
    for option in options:
        try:
            return _convert(option, item, key)
        except RequestError:
            continue
    for option in options:
        if isinstance(item.value, str) and typing.get_origin(option) is typing.Literal:
            _convert(option, item, key)  # its refusal says which names there are
    raise RequestError(f"{item.where}: {key} cannot be {item.plain()!r}")


def _convert_items(hint: Any, item: Located, key: str) -> Any:
    if not isinstance(item.value, list):
        raise RequestError(f"{item.where}: {key} must be a list, as in [a, b]")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)[0]
    values, refusals = [], Refusals()
    for index, each in enumerate(item.value):
        with refusals.collected():
            values.append(_convert(inner, each, f"{key}.{index}"))
    refusals.raise_any()
    return origin(values)


def _convert_mapping(arguments: tuple[Any, ...], item: Located, key: str) -> dict[str, Any]:
    if item.value is None:
        return {}
    if not isinstance(item.value, dict):
        raise RequestError(f"{item.where}: {key} must be a mapping of keys to values")
    inner = arguments[1] if arguments else Any
    values, refusals = {}, Refusals()
    for name, each in item.value.items():
        with refusals.collected():
            values[name] = _convert(inner, each, _join(key, name))
    refusals.raise_any()
    return values


def _convert_scalar(hint: Any, item: Located, key: str) -> Any:
    value = item.value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(item, key)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        kinds = {int: "a whole number", float: "a number", str: "text (in quotes)", bool: "true or false"}
        raise RequestError(f"{item.where}: {key} must be {kinds.get(hint, str(hint))}, not {item.plain()!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{item.where}: {key} is {value}: it must be a finite number")
    return value


def _as_float(item: Located, key: str) -> float:
    try:
        return float(item.value)
    except OverflowError:
        raise RequestError(f"{item.where}: {key} is too large a number") from None
