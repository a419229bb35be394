"""Imports of the package run down only, and in no circle, also where only a type is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import hf_unlearn

PACKAGE = Path(hf_unlearn.__file__).parent
# From top to bottom: each imports from itself and from what is below. Those of one line do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("pipeline",),
    ("stages",),
    ("planning",),
    ("recipe",),
    ("trainer",),
    ("hub",),
    ("controls",),
    ("reporting",),
    ("attacks",),
    ("robust",),
    ("evaluation", "quantization"),
    ("models",),
    ("losses",),
    ("data",),
    ("runtime",),
    ("verification",),
    ("registry",),
    ("registry_index",),
    ("_compat",),
    ("errors",),
    ("version",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    """The dotted name below the package; a package stands for its ``__init__.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import from the package itself, wherever it stands in the file."""
    path = modules()[module]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name.split(".") for alias in node.names]
            for parts in wanted:
                if parts[0] == PACKAGE.name:
                    yield node.lineno, ".".join(parts[1:])
        elif isinstance(node, ast.ImportFrom):
            base = base_of(node, path)
            if base is not None:
                for alias in node.names:
                    deeper = ".".join([*base, alias.name])
                    yield node.lineno, deeper if deeper in modules() else ".".join(base)


def base_of(node: ast.ImportFrom, path: Path) -> list[str] | None:
    """What ``from`` names, as parts below the package; ``None`` for other libraries."""
    named = node.module.split(".") if node.module else []
    if node.level:
        folder = list(path.relative_to(PACKAGE).parent.parts)
        return folder[: len(folder) - node.level + 1] + named
    return named[1:] if named[:1] == [PACKAGE.name] else None


@cache
def graph() -> dict[str, tuple[tuple[int, str], ...]]:
    return {module: tuple(imports_of(module)) for module in modules()}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected modules, more than one each (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(edges[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            members = [stack.pop()]
            while members[-1] != module:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return found


def test_every_file_has_its_place():
    tops = {module.partition(".")[0] for module in modules()} - {""}
    assert tops == set(LEVEL), "a new package or file at the top gets a line in LAYERS"


def test_imports_run_down():
    upward = []
    for module, imports in graph().items():
        top = module.partition(".")[0]
        for line, other in imports:
            below = other.partition(".")[0]
            # The package's own `__init__` brings the public names of every layer: nothing inside reads them there.
            if top and (not below or (below != top and LEVEL[below] <= LEVEL[top])):
                upward.append(f"{modules()[module].relative_to(PACKAGE)}:{line} imports {other or PACKAGE.name}")
    assert not upward, "\n".join(upward)


def test_there_are_no_circles():
    edges = {module: {other for _, other in imports if other != module} for module, imports in graph().items()}
    assert not circles(edges), "\n".join(" - ".join(members) for members in circles(edges))


def test_verification_needs_no_torch():
    """Whoever checks a report needs no model."""
    for module, path in modules().items():
        if module.partition(".")[0] in ("verification", "registry", "errors"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not any(name.partition(".")[0] in ("torch", "transformers") for name in names), module


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}, [["a", "b", "c"]]),
    ],
)
def test_circles_are_found(edges, expected):
    assert circles(edges) == expected
