"""Time of each stage and peak memory of a run, all its processes together.

    python benchmarks/run_cost.py quickstart
    python benchmarks/run_cost.py quickstart --fresh-models --runs 3

Prints one line per run and the medians. Nothing is asserted: figures are for people.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLING_SECONDS = 0.25


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        seconds: From start to end of the command.
        peak_bytes: Largest proportional set size of the command and its children at one moment (shared pages once).
        stages: Seconds by stage.
        exit_code: Of the command.
    """

    seconds: float
    peak_bytes: int
    stages: dict[str, float]
    exit_code: int


def measure(recipe: str, overrides: list[str], fresh_models: bool) -> Cost:
    """Run a recipe in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        output_dir = Path(folder) / "run"
        environment = dict(os.environ)
        if fresh_models:
            environment["HF_UNLEARN_CACHE"] = str(Path(folder) / "cache")
        arguments = ["quickstart"] if recipe == "quickstart" and not overrides else ["run", recipe, *overrides]
        command = [sys.executable, "-m", "hf_unlearn", *arguments, "--output-dir", str(output_dir)]
        start = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(proportional_bytes, family(process.pid))))
            time.sleep(SAMPLING_SECONDS)
        seconds = time.monotonic() - start
        timings = output_dir / "timings.json"
        stages = json.loads(timings.read_text(encoding="utf-8")) if timings.exists() else {}
        return Cost(seconds, peak, stages, process.returncode)


def family(pid: int) -> list[int]:
    """A process and all its descendants (Linux)."""
    found = [pid]
    for parent in found:
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in tasks.read_text(encoding="utf-8").split()]
            except OSError:
                continue
    return found


def proportional_bytes(pid: int) -> int:
    """Memory of a process, pages it shares counted in part; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--fresh-models", action="store_true", help="build models from scratch again in every run")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    costs = []
    for number in range(arguments.runs):
        cost = measure(arguments.recipe, arguments.overrides, arguments.fresh_models)
        stages = "  ".join(f"{name} {seconds:.0f}s" for name, seconds in cost.stages.items())
        memory = f"{cost.peak_bytes / 2**30:.2f} GiB"
        print(f"run {number + 1}: {cost.seconds:.0f} s, {memory}, exit {cost.exit_code}; {stages}")
        costs.append(cost)
    seconds = statistics.median(cost.seconds for cost in costs)
    peak = statistics.median(cost.peak_bytes for cost in costs)
    print(f"median: {seconds:.0f} s, {peak / 2**30:.2f} GiB over {len(costs)} runs on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
