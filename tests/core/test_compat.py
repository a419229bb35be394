"""The inside of other libraries is reached through one file, which knows in which versions it is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import hf_unlearn
from hf_unlearn import _compat
from hf_unlearn.errors import EnvironmentFailure

PACKAGE = Path(hf_unlearn.__file__).parent
LIBRARIES = {"transformers", "trl", "peft", "gptqmodel", "accelerate"}
# What these libraries document; all other modules of theirs are their inside.
DOCUMENTED = {*LIBRARIES, "accelerate.utils"}
DOCUMENTED_MODULES = {"transformers.utils.logging"}


def imported(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of everything that is imported from one of the libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        else:
            continue
        yield from ((node.lineno, module, name) for module, name in found if module.partition(".")[0] in LIBRARIES)


def is_private(module: str, name: str) -> bool:
    if f"{module}.{name}" in DOCUMENTED_MODULES:
        return False
    return module not in DOCUMENTED or name.startswith("_") or is_module(module, name)


def is_module(package: str, name: str) -> bool:
    """Found without an import: some of the libraries are optional."""
    top, *below = package.split(".")
    spec = util.find_spec(top)
    roots = [Path(root, *below, name) for root in (spec.submodule_search_locations if spec else None) or ()]
    return bool(name) and any(root.is_dir() or root.with_suffix(".py").is_file() for root in roots)


def test_private_imports_stand_in_one_file():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {module} {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "_compat.py"
        for line, module, name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if is_private(module, name)
    ]
    assert not found, "these belong into hf_unlearn/_compat.py"


@pytest.mark.parametrize("name", sorted(_compat.PRIVATE))
def test_each_is_there_in_the_installed_version(name):
    entry = _compat.PRIVATE[name]
    pytest.importorskip(entry.library)
    assert metadata.version(entry.library) in SpecifierSet(entry.versions), "look whether it still does what it did"
    assert getattr(_compat, name) is not None
    assert entry.why


def test_one_that_is_gone_is_told_with_the_versions_that_have_it(monkeypatch):
    gone = _compat.Private("transformers.utils", ">=5.15,<6", "a test")
    monkeypatch.setitem(_compat.PRIVATE, "NeverThere", gone)
    with pytest.raises(EnvironmentFailure, match=r"no NeverThere in the installed .*: pip install 'transformers>=5.1"):
        getattr(_compat, "NeverThere")  # noqa: B009
    with pytest.raises(AttributeError):
        getattr(_compat, "unknown")  # noqa: B009


def test_what_is_imported_from_it_is_there():
    """A type checker cannot see it, since the names are looked up when they are used."""
    wanted = {
        alias.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "_compat"
        for alias in node.names
    }
    assert wanted == _compat.PRIVATE.keys()
