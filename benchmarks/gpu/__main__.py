"""Runs what has not been run yet, until the time of this call is used up, and writes one table.

    python -m benchmarks.gpu                        # on the GPU, ten minutes; again until nothing is left
    python -m benchmarks.gpu --device cpu --tiny    # on a CPU, to see that it works

Ends with 0 if all was run, 1 if something failed, and 75 if something is left: call it again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.outcomes import Outcome, Outcomes
from benchmarks.gpu.page import page
from benchmarks.gpu.units import ROOT, Unit, units

LEFT = 75
_LEAST = 20
"""Seconds at the end of a call in which nothing is begun."""


def main() -> int:
    """One call."""
    arguments = parsed()
    out = arguments.out / f"{arguments.device}{'-tiny' if arguments.tiny else ''}"
    known = units(arguments.device, arguments.tiny, out)
    chosen = picked(known, arguments.only)
    outcomes = Outcomes(out / "units")
    call(chosen, outcomes, arguments, lambda: write(out, known, outcomes, arguments))
    print((out / "results.md").read_text(encoding="utf-8"))
    return exit_code(chosen, outcomes)


def call(chosen: Sequence[Unit], outcomes: Outcomes, arguments: argparse.Namespace, then: Callable[[], None]) -> None:
    """Runs units while there is time.

    Args:
        chosen: In order.
        outcomes: Of this and earlier calls.
        arguments: The options.
        then: Called after each unit, and once before: the table is whole whenever the call is ended from outside.
    """
    ends = time.monotonic() + arguments.seconds
    then()
    for unit in chosen:
        before = outcomes.get(unit.name)
        if before is not None and (before.status == "done" or (decided(before) and not arguments.again)):
            continue
        left = ends - time.monotonic()
        # The first one of a call is begun even if it may take longer than all of it: it would never be run.
        if left < _LEAST or (left < unit.seconds and left < 0.9 * arguments.seconds and not arguments.tiny):
            continue
        print(f"{unit.name} ...", flush=True)
        outcome = run(unit, left, arguments.device)
        if outcome.status == "cut" and left >= 0.9 * arguments.seconds:
            outcome = Outcome("failed", f"takes longer than the {left:.0f} s of a call: raise --seconds", left)
        outcomes.keep(unit.name, outcome)
        print(f"{unit.name}: {outcome.status} {outcome.why}".rstrip(), flush=True)
        then()


def decided(outcome: Outcome | None) -> bool:
    """Whether a unit need not be run again."""
    return outcome is not None and outcome.status != "cut"


def run(unit: Unit, seconds: float, device: str) -> Outcome:
    """Starts a unit's process and reads its last line.

    Args:
        unit: The unit.
        seconds: After which it is ended, with all that it started.
        device: With ``cpu`` it sees no GPU.
    """
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
        variables["ACCELERATE_USE_CPU"] = "true"
    began = time.monotonic()
    process = subprocess.Popen(
        unit.command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complained = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome("cut", "the time of the call was over", time.monotonic() - began)
    return read(process.returncode, printed, complained, time.monotonic() - began)


def read(code: int, printed: str, complained: str, seconds: float) -> Outcome:
    """What a unit's process said."""
    lines = printed.strip().splitlines()
    if code:
        return Outcome("failed", last_words(complained) or f"ended with {code} and no word", seconds)
    try:
        figures = json.loads(lines[-1])
    except (IndexError, ValueError):
        return Outcome("failed", "printed no figures", seconds)
    if "skipped" in figures:
        return Outcome("skipped", figures["skipped"], seconds)
    if "failed" in figures:
        return Outcome("failed", figures.pop("failed"), seconds, figures)
    return Outcome("done", "", seconds, figures)


def last_words(complained: str) -> str:
    """The line of a traceback that says what was wrong; the launcher's own come after it."""
    lines = [line.strip() for line in complained.splitlines() if line.strip()]
    for line in reversed(lines):
        name = line.split(":")[0].split(".")[-1]
        if name.endswith(("Error", "Failure", "Exit", "Exception")) and name != "CalledProcessError":
            return line[:300]
    return lines[-1][:300] if lines else ""


def picked(known: Sequence[Unit], only: Sequence[str] | None) -> list[Unit]:
    """Units whose name begins with one of these words; all without any."""
    if not only:
        return list(known)
    for word in only:
        if not any(unit.name.startswith(word) for unit in known):
            raise SystemExit(f"--only {word}: there is none; there are {', '.join(unit.name for unit in known)}")
    return [unit for unit in known if unit.name.startswith(tuple(only))]


def write(out: Path, known: Sequence[Unit], outcomes: Outcomes, arguments: argparse.Namespace) -> None:
    """The table, of everything there is."""
    found = {unit.name: outcomes.get(unit.name) for unit in known}
    (out / "results.md").write_text(page(known, found, arguments.device, arguments.tiny), encoding="utf-8")


def exit_code(chosen: Sequence[Unit], outcomes: Outcomes) -> int:
    """See the description of the module."""
    found = [outcomes.get(unit.name) for unit in chosen]
    if any(not decided(outcome) for outcome in found):
        return LEFT
    return int(any(outcome is not None and outcome.status == "failed" for outcome in found))


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="sizes with which everything takes seconds")
    parser.add_argument("--seconds", type=float, default=570, help="of this call")
    parser.add_argument("--only", nargs="+", help="units whose names begin like this")
    parser.add_argument("--again", action="store_true", help="run what failed or was skipped once more")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of figures and table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
