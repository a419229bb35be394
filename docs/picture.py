"""The README's picture: the top of a report's page, as a browser shows it.

``python docs/picture.py`` draws ``docs/images/report.png`` from the committed report of the quickstart. It needs
Chromium, which nothing else here does, so that no test runs it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from hf_unlearn.reporting.html import write_html

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1200, 1190
COLOURS = 64


def draw(report: Path, picture: Path) -> None:
    """Draw the top of a report's page.

    Args:
        report: An ``unlearning_report.json``.
        picture: The PNG to write.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"docs/picture.py needs a browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        page = write_html(json.loads(report.read_text(encoding="utf-8")), Path(folder) / "report.html")
        shot = Path(folder) / "shot.png"
        size = f"--window-size={WIDTH},{HEIGHT}"
        options = ("--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={shot}", page.as_uri())
        subprocess.run([browser, *options], check=True, capture_output=True)
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.open(shot).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks/results/quickstart/unlearning_report.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/report.png")
    given = parser.parse_args()
    draw(given.report, given.output)
