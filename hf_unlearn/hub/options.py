"""Where a finished run is published to, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import RequestError
from .repo_names import check_repo_id

Gate = Literal["auto", "manual"]
MAIN = "main"
# What git allows in a tag is more; what reads well in an address is this.
_TAG = re.compile(r"[A-Za-z0-9][\w.+-]{0,98}(?<!\.)(?<!\.lock)")


@dataclass(frozen=True)
class HubOptions:
    """Where a finished run is published to, and how.

    Attributes:
        repo_id: ``owner/name`` of the main repository; the variants' names are made of it.
        private: Make the repositories private. Nothing becomes public unless this is ``False``.
        gated: Readers must ask: ``auto`` lets everybody in who does, ``manual`` asks the owner.
        branches: Put the variants on branches of the main repository instead of repositories of their own.
        tag: Tag of the release; ``None`` makes none.
        collection: Put the repositories into a collection.
        allow_not_passed: Publish although the verdict is not *passed* or a control did not come out as it must.
        private_key: Sign every report with this key (PEM).
        sigstore: Sign every report as the CI job this runs in, or as whoever logs in with a browser.
    """

    repo_id: str
    private: bool = True
    gated: Gate | None = None
    branches: bool = False
    tag: str | None = "v1"
    collection: bool = True
    allow_not_passed: bool = False
    private_key: Path | None = None
    sigstore: bool = False

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
        if self.tag is not None and (not _TAG.fullmatch(self.tag) or ".." in self.tag or self.tag == MAIN):
            raise RequestError(f"the tag {self.tag!r} will not do: use letters, digits and . _ + -, such as v1")
        if self.gated not in (None, "auto", "manual"):
            raise RequestError(f"gated is {self.gated!r}: it can be auto or manual")

    @property
    def owner(self) -> str:
        """The user or organization."""
        return self.repo_id.split("/")[0]
