"""The documentation as a site: its links, and that no page is left out. Building it needs MkDocs, so no test does."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from test_pages import load_script


@pytest.fixture(scope="module")
def site(root: Path) -> ModuleType:
    """The functions that MkDocs calls."""
    return load_script(root / "docs" / "site.py")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("docs/auto.md", "[x](../benchmarks/frontier/trials.md#a)", "[x](benchmarks/frontier/trials.md#a)"),
        ("docs/auto.md", "[x](cycles.md) and [y](../CONTRIBUTING.md)", "[x](cycles.md) and [y](contributing.md)"),
        ("README.md", "![p](docs/images/report.png)[l](LICENSE)", "![p](images/report.png)[l](license.txt)"),
        ("benchmarks/frontier/README.md", "[x](../../docs/auto.md)", "[x](../../auto.md)"),
        (
            "benchmarks/results.md",
            "[x](frontier/frontier.png) [y](../README.md)",
            "[x](frontier/frontier.png) [y](../start.md)",
        ),
        ("docs/a.md", "[x](https://example.org/a.md) [y](#here)", "[x](https://example.org/a.md) [y](#here)"),
        ("benchmarks/a.md", "[the trainer](../hf_unlearn/trainer/unlearn_trainer.py)", "the trainer"),
        ("docs/a.md", "```text\n[x](../README.md)\n```", "```text\n[x](../README.md)\n```"),
    ],
)
def test_links_become_those_of_the_site(site, name: str, text: str, expected: str) -> None:
    assert site.relinked(text, name) == expected


def test_every_link_leads_to_a_file_of_the_site(site, root: Path) -> None:
    """As ``mkdocs build --strict`` would find; that needs an extra."""
    added = site.added_files()
    files = {path.relative_to(root / "docs").as_posix() for path in (root / "docs").rglob("*")} | set(added.values())
    pages = {name for name in added if name.endswith(".md")} | {
        f"docs/{name}" for name in files if name.endswith(".md")
    }
    broken = []
    for page in sorted(name for name in pages if (root / name).exists()):
        here = Path(site.site_path(page)).parent
        text = re.sub(r"```.*?```|`[^`]*`", "", site.relinked((root / page).read_text("utf-8"), page), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if "://" not in target and not target.startswith("mailto:"):
                place = os.path.normpath(here / target)
                broken += [] if place in files else [f"{page}: {target}"]
    assert broken == []


def test_every_page_is_in_the_navigation_once(site, root: Path) -> None:
    nav = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [
        item if isinstance(item, str) else next(iter(item.values()))
        for group in nav
        for item in next(iter(group.values()))
    ]
    pages = {path.name for path in (root / "docs").glob("*.md")}
    pages |= {place for place in site.added_files().values() if place.endswith(".md")}
    assert sorted(entries) == sorted(pages)


def test_groups_of_the_site_are_those_of_the_index(root: Path) -> None:
    nav = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    headings = re.findall(r"^## (.*)$", (root / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [next(iter(group)) for group in nav][: len(headings)] == headings


def test_the_readme_is_short_and_its_picture_is_small(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert (root / "docs" / "images" / "report.png").stat().st_size < 200_000


def test_every_published_format_has_its_word() -> None:
    from hf_unlearn.quantization import FORMATS
    from hf_unlearn.reporting.glossary import FORMAT_FAMILIES

    starts = tuple(start for start, _ in FORMAT_FAMILIES)
    assert [name for name in FORMATS.names() if not name.startswith(starts)] == []
