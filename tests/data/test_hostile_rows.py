"""Rows that people and machines broke: one sentence with file and line, and nothing of what stands in them."""

from __future__ import annotations

import json
import random

import pytest

from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError

SECRET = "Zanzibar"
ROWS = [
    {"question": f"Where is {SECRET} {n}?", "answer": f"{SECRET} is there", "choices": ["here", f"{SECRET} is there"]}
    for n in range(4)
]
STRANGE = (
    *("[", "]", "{", "}", ",", ":", '"', "\\", "\\ud800", "\\u0000", "null", "true", "NaN", "Infinity", "-", "1e999"),
    *("9" * 5000, "[" * 3000, "\u2028", "\x00", "\r", "\n\n", '"answer": 1,', '"label": 2,', "[[]]", '""'),
)


def mutated(text: str, dice: random.Random) -> str:
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(text))
        if dice.random() < 0.5:
            text = text[:at] + dice.choice(STRANGE) + text[at:]
        else:
            text = text[:at] + text[at + dice.randint(1, 12) :]
    return text


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_no_row_ends_in_a_traceback(suffix, tmp_path):
    """Seeded: what fails here fails again."""
    dice = random.Random(f"rows{suffix}")
    path, refused = tmp_path / f"rows{suffix}", 0
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = "question,answer\n" + "".join(f'"{row["question"]}",{row["answer"]}\n' for row in ROWS)
    text = {".jsonl": lines, ".json": json.dumps(ROWS, indent=1), ".csv": table}[suffix]
    for number in range(400):
        broken = mutated(text, dice)
        path.write_text(broken, encoding="utf-8", newline="")
        try:
            load_source(Source(path=str(path)), "forget")
        except RequestError as error:
            refused += 1
            told = str(error)
            assert told.startswith(f"{path}:") or "no rows" in told, (number, told)
            assert SECRET not in told and "\n" not in told and len(told) < len(str(path)) + 400, (number, told)
        except Exception as error:
            raise AssertionError(f"case {number} ended in {error!r}:\n{broken[:2000]}") from error
    assert 40 < refused < 400


@pytest.mark.parametrize("path", ["~nosuchuser/rows.jsonl", "a\0b.jsonl", "x" * 5000 + ".jsonl"])
def test_paths_that_cannot_be(path):
    with pytest.raises(RequestError) as caught:
        load_source(Source(path=path), "forget")
    assert len(str(caught.value)) < 400
