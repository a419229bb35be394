"""What setup.cfg cannot say: the README for the package index, where a link to a file of the repository leads nowhere.

Where the repository is, is set in `hf_unlearn/version.py`; if it is not, the workflow that publishes knows it
(`GITHUB_REPOSITORY`, as GitHub sets it). Without both, links to files of the repository become plain words.
"""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


def repository() -> str | None:
    """The repository's address; `None` where nothing says it."""
    if address := runpy.run_path(str(ROOT / "hf_unlearn" / "version.py"))["REPOSITORY"]:
        return str(address).rstrip("/")
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}" if name else None


def for_the_index(text: str, home: str | None, version: str) -> str:
    """Markdown without a link that leads nowhere on the package index.

    Args:
        text: The Markdown.
        home: The repository's address; `None` leaves words in place of links to its files, and no pictures from it.
        version: Branch, tag or commit whose files are linked to.
    """

    def whole(found: re.Match[str]) -> str:
        target, words = found["target"], _LINK.sub(whole, found["text"])
        if target.startswith(_ELSEWHERE):
            return f"{found['image']}[{words}]({target})"
        if home is None:
            return "" if found["image"] else words
        return f"{found['image']}[{words}]({home}/{'raw' if found['image'] else 'blob'}/{version}/{target})"

    return _LINK.sub(whole, text)


def project_urls(home: str) -> dict[str, str]:
    """The links beside a release on the package index."""
    return {
        "Repository": home,
        "Documentation": f"{home}/blob/HEAD/docs/index.md",
        "Changes": f"{home}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }


if __name__ == "__main__":
    home = repository()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = for_the_index(readme, home, os.environ.get("GITHUB_REF_NAME", "HEAD"))
    setup(long_description=readme, project_urls={} if home is None else project_urls(home))
