"""How many facts of public data tell of each other, as RTT finds them: counts, never texts.

    python benchmarks/leaking_facts.py --tofu FILE                     # TOFU's forget10 as JSON lines; seconds
    python benchmarks/leaking_facts.py --tofu FILE --layouts FOLDER    # and the second paper's four data sets
    python benchmarks/leaking_facts.py --tofu FILE --layouts FOLDER --write   # into benchmarks/leaking_facts.md

``FOLDER`` is your own copy of the paper's data (see docs/rtt.md), ``FILE`` of TOFU's. Only the questions are looked
at, not the sentences that come with them. Every question is a group of its own; TOFU is counted by author too, twenty
questions each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pages import command_line, table, write_sections

from hf_unlearn.data.example import RowSet
from hf_unlearn.data.independence import find_leaks
from hf_unlearn.data.layouts import LayoutName, read_layout
from hf_unlearn.data.sources import Source, load_source

PAGE = Path(__file__).with_suffix(".md")
# What is unlearned: the paper retains MMLU's other five categories. Of Random Birthdays one half.
SPLITS = {
    "mmlu": ("mmlu_STEM", "mmlu_business", "mmlu_chemistry", "mmlu_culture", "mmlu_geography"),
    "random-birthdays": tuple(f"split_{number}" for number in range(5)),
}
COUNTED = ("groups", "independent_groups", "largest", "sharing_a_text", "sharing_a_name", "sharing_words")
HEADER = ["data", "groups", "independent", "largest", "share a text", "a name", "words"]


def data_sets(layouts: Path | None, tofu: Path | None) -> Iterator[tuple[str, RowSet]]:
    """What is there, with its name."""
    for name in get_args(LayoutName) if layouts else ():
        splits = SPLITS.get(name, ())
        yield (
            " ".join([f"`{name}`", ", ".join(splits)]).strip(),
            read_layout(name, str(layouts), splits, "questions", name, None),
        )
    if tofu:
        yield "TOFU, by question", load_source(Source(path=str(tofu)), "forget")
        yield "TOFU, by author", load_source(Source(path=str(tofu), rows_per_group=20), "forget")


def main() -> None:
    """Count, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=Path, help="the folder that holds the folders of the four data sets")
    parser.add_argument("--tofu", type=Path, help="forget10 as JSON lines")
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    options = parser.parse_args()
    if not options.layouts and not options.tofu:
        parser.error("name --layouts or --tofu")
    rows = []
    for name, facts in data_sets(options.layouts, options.tofu):
        counts = find_leaks(facts).counts()
        rows.append([name, *(str(counts[key]) for key in COUNTED)])
    text = f"`{command_line(__file__)}`, {time.strftime('%Y-%m-%d')}.\n\n{table(HEADER, rows)}"
    print(text)
    if options.write:
        write_sections(PAGE, "Facts that tell of each other", {"counts": text})


if __name__ == "__main__":
    main()
