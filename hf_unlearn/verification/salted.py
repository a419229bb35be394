"""Naming a forget set without publishing it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable


def new_salt() -> bytes:
    """32 random bytes. They stay with the owner of the data: who has them can test guesses against the hash."""
    return secrets.token_bytes(32)


def salted_hash(rows: Iterable[tuple[str, str]], salt: bytes) -> str:
    """A commitment to a set of rows.

    Each row is hashed with HMAC-SHA256 under the salt, the hashes are sorted, and the HMAC of their sequence is taken.
    The order of the rows does not matter, their number does. Without the salt a guess cannot be tested, so
    the hash may be published; with it the owner can prove later which rows were meant.

    Args:
        rows: Prompt and answer of each row.
        salt: At least 16 secret bytes.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: The salt is too short to keep anything secret.
    """
    if len(salt) < 16:
        raise ValueError("a salt needs at least 16 bytes")
    hashes = sorted(
        hmac.new(salt, json.dumps(list(row), ensure_ascii=False).encode(), hashlib.sha256).digest() for row in rows
    )
    return hmac.new(salt, b"".join(hashes), hashlib.sha256).hexdigest()
