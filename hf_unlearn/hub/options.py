"""Where a finished run is published to, how, and how repositories and branches are named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import RequestError
from .metadata import is_hub_id

Gate = Literal["auto", "manual"]
MAIN = "main"
# Git allows more in a tag; these characters read well in a URL.
_TAG = re.compile(r"[A-Za-z0-9][\w.+-]{0,98}(?<!\.)(?<!\.lock)")
# The usual suffix after the model's name for a format with its usual settings: people search for formats by it.
_SUFFIXES = {
    "bf16": "BF16",
    "fp16": "FP16",
    "bnb-int8": "bnb-int8",
    "bnb-nf4": "bnb-nf4",
    "bnb-fp4": "bnb-fp4",
    "gptq-int3-g128": "GPTQ-Int3",
    "gptq-int4-g128": "GPTQ-Int4",
    "gptq-int8-g128": "GPTQ-Int8",
    "awq-int4-g128": "AWQ",
    "ct-int8": "W8A8",
}
_FAMILIES = (
    (re.compile(r"gptq-int(\d+)-(g\d+)"), r"GPTQ-Int\1-\2"),
    (re.compile(r"awq-int(\d+)-(g\d+)"), r"AWQ-Int\1-\2"),
    (re.compile(r"rtn-int(\d+)-(.+)"), r"RTN-Int\1-\2"),
    (re.compile(r"(?:ct|torchao)-fp8(.*)"), r"FP8\1"),
    (re.compile(r"torchao-(.+)"), r"torchao-\1"),
)
_GGUF = re.compile(r"gguf-(.+)")
_LONGEST = 96


@dataclass(frozen=True)
class HubOptions:
    """Where a finished run is published to, and how.

    Attributes:
        repo_id: ``owner/name`` of the main repository; the variants' names are made of it.
        private: Make the repositories private. Nothing becomes public unless this is ``False``.
        gated: Readers must request access: ``auto`` grants it to everybody, ``manual`` asks the owner.
        branches: Put the variants on branches of the main repository instead of separate repositories.
        tag: Tag of the release; ``None`` makes none.
        collection: Put the repositories into a collection.
        allow_not_passed: Publish although the verdict is not *passed* or a control did not come out as it must.
        private_key: Sign every report with this key (PEM).
        sigstore: Sign every report as the CI job this runs in, or with a browser login.
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
            raise RequestError(f"the tag {self.tag!r} is not valid: use letters, digits and . _ + -, such as v1")
        if self.gated not in (None, "auto", "manual"):
            raise RequestError(f"gated is {self.gated!r}: it can be auto or manual")

    @property
    def owner(self) -> str:
        """The user or organization."""
        return self.repo_id.split("/")[0]


def check_repo_id(repo_id: str) -> None:
    """Check that this is an ``owner/name`` that the Hub accepts.

    Raises:
        RequestError: It is not.
    """
    fits = is_hub_id(repo_id) and repo_id.count("/") == 1 and len(repo_id) <= _LONGEST
    if not fits or repo_id.endswith((".git", ".ipynb", "-", ".")):
        raise RequestError(
            f"the repository id {repo_id!r} is not valid: it must be OWNER/NAME of letters, digits and single . _ - "
            f"(at most {_LONGEST} characters)"
        )


def suffix(format_name: str) -> str:
    """The suffix after the model's name for a format, without the dash.

    Args:
        format_name: A format, such as ``gptq-int4-g128``. A choice of calibration text stays visible.
    """
    name, _, calibration = format_name.partition("@")
    return "-".join(part for part in (_plain_suffix(name), calibration) if part)


def _plain_suffix(name: str) -> str:
    if name in _SUFFIXES:
        return _SUFFIXES[name]
    gguf = _GGUF.fullmatch(name)
    if gguf:
        # A single file of one quantization: its name comes first, as in the Hub's own converter.
        return f"{gguf[1].upper()}-GGUF"
    for pattern, template in _FAMILIES:
        if pattern.fullmatch(name):
            return pattern.sub(template, name)
    return name


def repo_ids(repo_id: str, formats: Iterable[str]) -> dict[str, str]:
    """Format to the repository of that variant.

    Args:
        repo_id: ``owner/name`` of the main repository.
        formats: The formats.

    Raises:
        RequestError: A name is too long for the Hub, or two formats would share one.
    """
    found = {name: f"{repo_id}-{suffix(name)}" for name in formats}
    for name, variant in found.items():
        if not is_hub_id(variant) or len(variant) > _LONGEST:
            raise RequestError(
                f"{variant} (for {name}) is not a name that the Hub accepts (at most {_LONGEST} characters): "
                "choose a shorter --repo-id"
            )
    _check_distinct(found)
    return found


def branches(formats: Iterable[str]) -> dict[str, str]:
    """Format to the branch of that variant.

    Args:
        formats: The formats.

    Raises:
        RequestError: Two formats would share a branch.
    """
    found = {name: suffix(name) for name in formats}
    _check_distinct(found)
    return found


def _check_distinct(names: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for name, given in names.items():
        other = taken.setdefault(given.lower(), name)
        if other != name:
            raise RequestError(
                f"{other} and {name} would both be published as {given}: leave one out of publish.formats"
            )
