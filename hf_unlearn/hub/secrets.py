"""Tokens never reach a file, a log or a message, whatever a server or a library says."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MASK = "***"
# Signed addresses of cloud storage are a right to write as much as a token is.
_KNOWN = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
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


class _Redacting(logging.Filter):
    """Rewrites records before they are written anywhere."""

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self.token = token

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self.token), ()
        if record.exc_info:  # a traceback quotes what the server said
            record.exc_info, record.exc_text = None, None
        return True


@contextmanager
def nothing_leaks(token: str | None) -> Iterator[None]:
    """While this is open, what ``huggingface_hub`` logs is redacted and what it warns of is not shown.

    Args:
        token: The token in use.
    """
    filter_ = _Redacting(token)
    library = logging.getLogger("huggingface_hub")
    # Filters of a logger do not see what its children pass up; those of handlers see all that is written.
    handlers = [*library.handlers, *logging.getLogger().handlers]
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    for handler in handlers:
        handler.addFilter(filter_)
    try:
        with warnings.catch_warnings():
            # Warnings quote what the server thinks of a card, unchecked.
            warnings.filterwarnings("ignore", module=r"huggingface_hub\..*")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(filter_)
