"""Strict YAML: every mistake names file, line and key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.runtime.strict_yaml import build, override, read_yaml


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5
    kind: Literal["plain", "chat"] = "plain"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    items: tuple[float, ...] = ()
    table: dict[str, Inner] = field(default_factory=dict)
    maybe: int | None = None
    starts: Literal["general"] | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise RequestError("name is bad")


def parse(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    tree = read_yaml(path)
    for assignment in overrides:
        tree = override(tree, assignment)
    return build(Outer, tree)


def test_values_arrive_with_their_types(tmp_path):
    outer = parse(
        tmp_path,
        "name: x\ninner:\n  size: 3\n  rate: 1\nitems: [1, 2.5e-4, 1e-3]\ntable:\n  a: {kind: chat}\nmaybe: null\n",
    )
    assert outer == Outer("x", Inner(3, 1.0), (1.0, 2.5e-4, 1e-3), {"a": Inner(kind="chat")}, None)
    assert isinstance(outer.inner.rate, float)


def test_a_name_or_a_list(tmp_path):
    assert parse(tmp_path, "name: x\nstarts: general\n").starts == "general"
    assert parse(tmp_path, "name: x\nstarts: [general]\n").starts == ("general",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ninner:\n  sise: 3\n", r"r\.yaml:3: unknown key 'inner\.sise': did you mean 'size'\?"),
        ("inner: {}\n", r"r\.yaml:1: the key 'name' is missing"),
        ("name: x\ninner:\n  size: much\n", r"r\.yaml:3: inner\.size must be a whole number, not 'much'"),
        ("name: x\ninner:\n  size: true\n", r"r\.yaml:3: inner\.size must be a whole number, not True"),
        ("name: x\nstarts: genral\n", r"r\.yaml:2: starts cannot be 'genral': did you mean 'general'\?"),
        ("name: x\nstarts: {a: b}\n", r"r\.yaml:2: starts cannot be \{'a': 'b'\}"),
        ("name: x\ninner: [1]\n", r"r\.yaml:2: inner must be a mapping"),
        ("name: x\nitems: 3\n", r"r\.yaml:2: items must be a list"),
        ("name: x\n\ninner:\n  kind: chatt\n", r"r\.yaml:4: inner\.kind cannot be 'chatt': did you mean 'chat'\?"),
        ("name: x\nname: y\n", r"r\.yaml:2: the key 'name' is given twice here"),
        ("name: [x\n", r"r\.yaml:\d+: not valid YAML"),
        ("name: bad\n", r"r\.yaml:1: name is bad"),
        ("", r"r\.yaml: is empty"),
    ],
)
def test_mistakes_name_line_and_key(tmp_path, text, message):
    with pytest.raises(RequestError, match=message):
        parse(tmp_path, text)


def test_missing_file(tmp_path):
    with pytest.raises(RequestError, match=r"absent\.yaml: there is no such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_overrides_reach_into_mappings_and_lists(tmp_path):
    text = "name: x\nitems: [1, 2]\n"
    outer = parse(tmp_path, text, "inner.size=7", "items.1=1e-5", "table.new.rate=2", "maybe=4")
    assert outer == Outer("x", Inner(7), (1.0, 1e-5), {"new": Inner(rate=2.0)}, 4)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.size", "does not have the form"),
        ("inner.sise=3", r"command line 'inner\.sise=3': unknown key 'inner\.sise'"),
        ("items.9=3", r"'9' is not a position in the list at .*r\.yaml:2, which has 1 item"),
        ("name.part=3", "cannot be set inside the plain value"),
    ],
)
def test_wrong_overrides_say_so(tmp_path, assignment, message):
    with pytest.raises(RequestError, match=message):
        parse(tmp_path, "name: x\nitems: [1]\n", assignment)
