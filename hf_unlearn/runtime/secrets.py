"""What must never be written or printed: tokens, passwords and other credentials."""

from __future__ import annotations

import re
from typing import Any

_MASK = "***"
_TAKES_ONE = re.compile(
    r"(.*_)?(token|password|passwd|passphrase|secret|api_?key|(access|secret|private|account)_key|credentials?)"
    r"|use_auth_token",
    re.IGNORECASE,
)
# Keys of this form whose values are pieces of text, no secrets.
_TEXT_TOKENS = re.compile(r"(pad|bos|eos|sep|cls|mask|unk|first|last|next|boundary|image|audio|video)_token")

# Signed addresses of cloud storage are a right to write as much as a token is.
_KNOWN = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16})"),
    re.compile(r"(?<=\bBearer )[^\s\"')]+", re.IGNORECASE),
    re.compile(r"(?<=\bBasic )[^\s\"')]+", re.IGNORECASE),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=signature=)[^&\s\"']+|(?<=credential=)[^&\s\"']+|(?<=security-token=)[^&\s\"']+"),
)


def redact(text: str, token: str | None = None) -> str:
    """A text without tokens and other credentials.

    Args:
        text: What somebody else said.
        token: The token in use: it is found whatever it looks like.
    """
    if token:
        text = text.replace(token, _MASK)
    for pattern in _KNOWN:
        text = pattern.sub(_MASK, text)
    return text


def takes_secret(key: str) -> bool:
    """Whether what stands under a key is a secret, such as ``token`` or ``api_key``."""
    plain = key.strip().lower().replace("-", "_")
    return _TAKES_ONE.fullmatch(plain) is not None and _TEXT_TOKENS.fullmatch(plain) is None


def looks_secret(value: Any) -> bool:
    """Whether a text holds what tokens and addresses with credentials look like."""
    return isinstance(value, str) and redact(value) != value
