"""Where the package keeps what it made once and can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$HF_UNLEARN_CACHE``, or ``~/.cache/hf_unlearn``."""
    return Path(os.environ.get("HF_UNLEARN_CACHE") or Path.home() / ".cache" / "hf_unlearn")
