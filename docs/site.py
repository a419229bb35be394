"""What ``make docs`` adds to the pages of this folder: those that stand elsewhere in the repository.

MkDocs calls the functions at the end (``hooks`` in ``mkdocs.yml``). Pages keep the links that work in the repository;
here these become links of the site, so that ``mkdocs build --strict`` finds each one that leads nowhere.
"""

from __future__ import annotations

import posixpath
import re
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RENAMED = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "reporting-faults.md",
    "LICENSE": "license.txt",
}
"""Files at the root of the repository, and their names in the site."""
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_ADDED = ("benchmarks/**/*.md", "benchmarks/**/*.png")
_LINKED_CODE = re.compile(r"\[([^\]]+)\]\([^)\s]+\.(?:py|ipynb|yaml|sbatch|sh)\)")


def added_files() -> dict[str, str]:
    """Repository path to site path of every file from outside ``docs/``."""
    benchmarks = sorted(path.relative_to(ROOT).as_posix() for pattern in _ADDED for path in ROOT.glob(pattern))
    return RENAMED | {name: name for name in benchmarks}


def site_path(name: str) -> str:
    """Where a file of the repository is in the site."""
    return RENAMED.get(name, name.removeprefix("docs/"))


def relinked(text: str, page: str) -> str:
    """A page with links of the site in place of those of the repository.

    Args:
        text: The page.
        page: Its path in the repository.
    """
    parts = _FENCE.split(text)
    return "".join(part if number % 2 else _relinked(part, page) for number, part in enumerate(parts))


def _relinked(text: str, page: str) -> str:
    here = posixpath.dirname(site_path(page))

    def link(found: re.Match[str]) -> str:
        name, mark, anchor = found[2].partition("#")
        if not name or "://" in name or name.startswith("mailto:"):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        return f"{found[1]}{posixpath.relpath(site_path(target), here or '.')}{mark}{anchor}{found[3]}"

    return _LINK.sub(link, _LINKED_CODE.sub(r"\1", text))  # source files are not part of the site


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it, so that a link works in both places."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Anchors as in the repository, and a link to it where it has an address."""
    if address := runpy.run_path(str(ROOT / "hf_unlearn" / "version.py"))["REPOSITORY"]:
        config.repo_url, config.repo_name = address, "hf_unlearn"
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside this folder."""
    from mkdocs.structure.files import File

    for name, place in added_files().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of the site."""
    by_place = {place: name for name, place in added_files().items()}
    return relinked(markdown, by_place.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
