"""Pages of figures, made of sections between markers: one can be written anew while the others stay."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path


def made_by(command: str, *packages: str, timed: bool = True) -> str:
    """The line under a title: command, day, machine, load and versions.

    Args:
        command: What was run.
        packages: Distributions whose versions matter, torch and transformers aside.
        timed: Whether threads and load are told: only where times were measured just now do they matter.

    Returns:
        One paragraph. The load is that of the last minute when this is called: call it before measuring.
    """
    import torch

    names = ("torch", "transformers", *packages)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    machine = f"{os.cpu_count()} CPU cores"
    if timed:
        machine += f", threads: {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f} at the start"
    return f"`{command}`, {time.strftime('%Y-%m-%d')}: {machine}; Python {platform.python_version()}, {versions}."


def run_simulation(description: str | None, page: Path, make: Callable[[int], str], runs: int) -> None:
    """The command line of a simulation: print its page, or write it.

    Args:
        description: What ``--help`` says.
        page: Where ``--write`` writes to.
        make: Makes the page from the number of simulated runs of each case.
        runs: That number, unless ``--runs`` says otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="simulated runs of each case")
    parser.add_argument("--write", action="store_true", help=f"write {page.name}")
    arguments = parser.parse_args()
    text = make(arguments.runs)
    if arguments.write:
        page.write_text(text, encoding="utf-8")
    print(text)


def command_line(script: str) -> str:
    """The command as it was given; where somebody keeps files is nobody's business."""
    words = [re.sub(r"[^\s=]*/", "", word) for word in sys.argv[1:]]
    return " ".join([f"python benchmarks/{Path(script).name}", *words])


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_sections(text: str, title: str, sections: Mapping[str, str]) -> str:
    """A page with some of its sections made anew.

    Args:
        text: The page as it is; empty for a new one.
        title: First line of a new page.
        sections: Text by the section's name. A section that the page lacks is put at its end.

    Returns:
        The page. Whatever else stands in it, stays.
    """
    text = text or f"# {title}\n"
    for name, content in sections.items():
        begin, end = f"<!-- section:{name} -->", "<!-- /section -->"
        block = f"{begin}\n{content.strip()}\n{end}"
        found = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if found.search(text):
            text = found.sub(lambda _, block=block: block, text)
        else:
            text = f"{text.rstrip()}\n\n{block}\n"
    return text


def write_sections(page: Path, title: str, sections: Mapping[str, str]) -> None:
    """Write sections of a page, which is made if it is not there."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(with_sections(text, title, sections), encoding="utf-8")
