"""What setup.cfg cannot say: the README for the package index, where a link to a file of the repository leads nowhere.

Where the repository is, is known to the workflow that publishes (`GITHUB_REPOSITORY`, as GitHub sets it). Without it,
links stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


def repository() -> str | None:
    """The repository's address; `None` where nothing says it."""
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}" if name else None


def with_whole_links(text: str, home: str, version: str) -> str:
    """Markdown with links to files of a repository as addresses.

    Args:
        text: The Markdown.
        home: The repository's address.
        version: Branch, tag or commit whose files are linked to.
    """

    def whole(found: re.Match[str]) -> str:
        target, words = found["target"], _LINK.sub(whole, found["text"])
        if not target.startswith(_ELSEWHERE):
            target = f"{home}/{'raw' if found['image'] else 'blob'}/{version}/{target}"
        return f"{found['image']}[{words}]({target})"

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
    readme, home = Path(__file__).with_name("README.md").read_text(encoding="utf-8"), repository()
    if home is None:
        setup(long_description=readme)
    else:
        readme = with_whole_links(readme, home, os.environ.get("GITHUB_REF_NAME", "HEAD"))
        setup(long_description=readme, project_urls=project_urls(home))
