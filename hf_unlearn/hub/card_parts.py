"""Parts of a model card that are neither a table nor the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..reporting.words import show
from ..verification.references import IDENTITY

_LONGEST_HASH = 16


@dataclass(frozen=True)
class FormatNote:
    """How the weights of a format are stored and what its scales were fitted on."""

    name: str
    text: str


@dataclass(frozen=True)
class VariantLink:
    """Where a variant is published."""

    name: str
    repo_id: str
    revision: str | None


def format_notes(report: Mapping[str, Any], transform: str) -> list[FormatNote]:
    """What the report's ``formats`` section says: of all formats on the main card, of its own on a variant's.

    Args:
        report: The report; without that section there are no notes.
        transform: ``identity`` or a format.
    """
    section = report.get("formats") or {}
    infos = section.values() if isinstance(section, Mapping) else section
    notes = []
    for info in infos:
        name = info.get("format")
        if name and transform in (IDENTITY, name):
            notes.append(FormatNote(name, _format_words(info)))
    return sorted(notes, key=lambda note: note.name)


def _format_words(info: Mapping[str, Any]) -> str:
    parts = []
    if info.get("bits"):
        group = f", a scale for each {info['group_size']} of them" if info.get("group_size") else ""
        parts.append(f"{info['bits']} bits per quantized weight{group}")
    if info.get("quantized_share") is not None:
        parts.append(f"{show(100 * info['quantized_share'], 1)} % of the parameters are quantized")
    if info.get("library"):
        parts.append(f"written by {info['library']} {info.get('version', '')}".strip())
    if info.get("bytes"):
        parts.append(f"{show(info['bytes'] / 1e6, 1)} MB of weights")
    calibration = info.get("calibration")
    if calibration:
        known = ", ".join(f"{key} {_short(value)}" for key, value in calibration.items() if value not in (None, ""))
        parts.append(f"calibrated on text of this kind: {known}")
    return "; ".join(parts) or "nothing more is recorded"


def _short(value: Any) -> str:
    """A hash is recognized by its first digits; everything else is written out."""
    text = str(value)
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return f"`{text[:_LONGEST_HASH]}…`" if is_hash else text


def variant_links(repo_id: str | None, repo_ids: Mapping[str, str], revisions: Mapping[str, str]) -> list[VariantLink]:
    """Where the variants are, by format.

    Args:
        repo_id: The main repository.
        repo_ids: Format to repository, where it has its own.
        revisions: Format to branch of the main repository, where it has one of those.
    """
    links = [VariantLink(name, repo, None) for name, repo in repo_ids.items()]
    if repo_id:
        links += [VariantLink(name, repo_id, branch) for name, branch in revisions.items()]
    return sorted(links, key=lambda link: link.name)


def gguf_file(report: Mapping[str, Any], transform: str) -> str | None:
    """The file that a GGUF variant consists of; ``None`` for any other."""
    names: Sequence[str] = report["models"]["unlearned"]["files"].get(transform, ())
    return next((name for name in names if name.endswith(".gguf")), None)


def emissions(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the run emitted, where it was measured: at least ``grams`` of CO2 equivalents, maybe more."""
    found = report["environment"].get("emissions")
    measured = isinstance(found, Mapping) and isinstance(found.get("grams"), (int, float))
    return found if measured and not isinstance(found["grams"], bool) else None
