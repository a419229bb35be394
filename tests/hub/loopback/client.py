"""A client process: it reads the Hub's address when it is imported, so it needs one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hub import Hub


def run_client(
    hub: Hub, home: Path, code: str, *, token: str | None = None, timeout: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose Hub is ours.

    Args:
        hub: The Hub.
        home: Folder for the client's cache.
        code: What to run.
        token: Token in its environment; none if left out.
        timeout: Most seconds that it may take.
        more: Further environment variables.
    """
    environment = {**hub.environment(home, token), **more}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
