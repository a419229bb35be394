"""The tests that use a GPU where there is one, counted."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from benchmarks.gpu.units import ROOT


def main() -> None:
    """Run them; fail as they do."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/trainer/test_devices.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode:
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        sys.exit(f"AssertionError: {last[0]}: {'; '.join(failed)}{done.stderr[-300:]}")
    print(json.dumps(counts(last[0])))


def counts(line: str) -> dict[str, int]:
    """``passed``, ``skipped`` and so on from pytest's last line."""
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", line.split(" in ")[0])}


if __name__ == "__main__":
    main()
