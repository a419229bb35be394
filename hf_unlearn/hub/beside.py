"""What the Hub's tools and git leave beside a model that was downloaded or cloned, none of which is ever loaded.

It is passed over at the root of a folder only, and only as far as it is what these tools write: whatever a library
could load or a program could run is told like any other file that was added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_ATTRIBUTES = ".gitattributes"
_DOWNLOADS = re.compile(
    r"\.cache/huggingface/(CACHEDIR\.TAG|\.gitignore(\.lock)?|download/.+\.(metadata|lock|incomplete)|"
    r"trees/[0-9a-f]{40}\.json(\.lock)?)"
)
_LISTING = re.compile(r"\.cache/huggingface/trees/[0-9a-f]{40}\.json")
_GIT = re.compile(r"\.git(/.+)?")
_LOADABLE = re.compile(
    r"(?i).*\.(py[cdow]?|so|dll|dylib|exe|com|sh|bash|bat|cmd|ps1|js|jar|whl|egg|pkl|pickle|joblib|pt|pth|bin|ckpt|"
    r"safetensors|gguf|ggml|onnx|h5|keras|msgpack|np[yz]|tflite|json|jinja2?|model|tiktoken|ya?ml)"
)
_PROGRAMS = (b"#!", b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_SAMPLE = re.compile(r"\.git/hooks/[a-z-]+\.sample")
_LARGE_FILE_HOOK = re.compile(r"\.git/hooks/(post-checkout|post-commit|post-merge|pre-push)")
_QUOTED = r'"(?:[^"`$\\]|\\n)*"'
_LARGE_FILE_LINE = re.compile(
    r"#!/bin/sh|command -v git-lfs >/dev/null 2>&1 \|\| \{ (?:echo|printf) >&2"
    rf'(?: {_QUOTED})+; exit [0-9]; \}}|git lfs [a-z-]+ "\$@"|'
)
_LARGE_FILE = re.compile(r"\.git/lfs/objects/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}")
_SETTINGS = re.compile(r"\.git/(modules/.+/)?config(\.worktree)?")
# Sections and keys of git's settings by which it runs nothing.
_SECTION = re.compile(r"\[(core|user|lfs|(remote|branch|submodule|lfs) \"[^\"]*\"|extensions)\]")
_SETTING = re.compile(
    r"(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol|"
    r"longpaths|name|email|url|pushurl|fetch|remote|merge|rebase|active|access|locksverify|promisor|"
    r"partialclonefilter|objectformat|partialclone)\s*=[^`]*",
    re.IGNORECASE,
)
_SOME = 4096
_LONGEST_SETTINGS = 1 << 16


def left_beside(folder: Path, names: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Files at the root of a folder that tools for downloading leave there.

    Args:
        folder: The folder.
        names: Paths of its files relative to it, with forward slashes.

    Returns:
        Those that may be there although no report lists them; and one sentence for each that could be loaded or run.
        Other files are in neither.
    """
    ignored, problems = set(), []
    for name in names:
        if name == _ATTRIBUTES or _DOWNLOADS.fullmatch(name) or _GIT.fullmatch(name):
            ignored.add(name)
            why = _could_run(folder / name, name)
            if why is not None:
                problems.append(f"{name}: {why}")
    return frozenset(ignored), problems


def _could_run(path: Path, name: str) -> str | None:
    if _SAMPLE.fullmatch(name) or _LARGE_FILE.fullmatch(name):
        return None  # by these names git runs nothing, and a file is addressed by its digest
    if _LOADABLE.fullmatch(name) and not _LISTING.fullmatch(name):
        return "was added, and is of a type that can be loaded or run"
    if _SETTINGS.fullmatch(name):
        return _runs_by_setting(_start(path, _LONGEST_SETTINGS + 1))
    start = _start(path, _SOME)
    if _LARGE_FILE_HOOK.fullmatch(name) and _calls_large_files_only(start):
        return None
    if name.startswith(".git/hooks/") or start.startswith(_PROGRAMS):
        return "was added, and is a program"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "was added, and is a pickle"
    return None


def _calls_large_files_only(hook: bytes) -> bool:
    lines = hook.decode("utf-8", "replace").splitlines()
    return len(hook) < _SOME and all(_LARGE_FILE_LINE.fullmatch(line) for line in lines)


def _runs_by_setting(data: bytes) -> str | None:
    """git runs programs that its settings name (``fsmonitor``, ``sshCommand``, ``hooksPath``, filters)."""
    if len(data) > _LONGEST_SETTINGS or data.startswith(_PROGRAMS):
        return "was added, and is no list of settings that git writes"
    if b"ext::" in data:  # an address that is a command
        return "has an address by which git could run a program"
    for line in data.decode("utf-8", "replace").splitlines():
        plain = line.strip()
        if plain and not plain.startswith(("#", ";")) and not (_SECTION.fullmatch(plain) or _SETTING.fullmatch(plain)):
            return "has a setting by which git could run a program"
    return None


def _start(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return _PROGRAMS[0]  # what cannot be read is not passed over
