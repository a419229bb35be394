"""Compare scores with the code that others publish them with, on the same numbers.

Nothing of that code is in this repository. Give checkouts of it; single functions are taken out of their files and run
as they stand, with stand-ins for the model and the data loader around them:

    python benchmarks/score_agreement.py --open-unlearning DIR --tofu DIR --muse DIR --first-paper DIR --write

(``locuslab/open-unlearning``, ``locuslab/tofu``, ``jaechan-repo/muse_bench``, ``zzwjames/FailureLLMUnlearning``.)
Prints the largest difference per score; ``--write`` keeps it as ``results/score_agreement.json``, of which
``docs/tables.py`` makes a table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from agreement.common import Comparison
from agreement.first_paper import compare_first_paper
from agreement.muse import compare_muse
from agreement.open_unlearning import compare_open_unlearning
from agreement.tofu import compare_tofu

RESULT = Path(__file__).parent / "results" / "score_agreement.json"


def revision(root: Path) -> str:
    """Commit of a checkout."""
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare with every checkout that is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = {
        "open_unlearning": compare_open_unlearning,
        "tofu": compare_tofu,
        "muse": compare_muse,
        "first_paper": compare_first_paper,
    }
    for name in sources:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="DIR", help="a checkout")
    parser.add_argument("--write", action="store_true", help=f"keep the result as {RESULT.name}")
    arguments = parser.parse_args(argv)
    given = {name: getattr(arguments, name) for name in sources if getattr(arguments, name)}
    if not given:
        parser.error("give at least one checkout")
    report = Comparison()
    for name, root in given.items():
        with contextlib.redirect_stderr(io.StringIO()):
            sources[name](root, report)
    if arguments.write:
        libraries = {name: version(name) for name in ("torch", "scipy", "scikit-learn", "rouge-score", "numpy")}
        result = {
            "sources": {name: revision(root) for name, root in given.items()},
            "versions": {"python": platform.python_version(), **libraries},
            "entries": report.entries,
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
