"""Every case in the tables of docs/security*.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("security*.md"))


@pytest.mark.parametrize("cases", PAGES, ids=lambda cases: cases.name)
def test_tests_that_the_cases_name_exist(cases: Path):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cases.read_text(encoding="utf-8"))
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"


def test_there_are_cases():
    assert sum(page.read_text(encoding="utf-8").count("::") for page in PAGES) > 30
