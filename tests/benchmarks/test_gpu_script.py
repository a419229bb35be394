"""The script for a GPU, on units that take no time: what is run, gone on with, cut, skipped, and told."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as script
from benchmarks.gpu.install import required
from benchmarks.gpu.large import layers_that_fit
from benchmarks.gpu.models import SIZES
from benchmarks.gpu.outcomes import Outcome, Outcomes
from benchmarks.gpu.page import page
from benchmarks.gpu.tests import counts
from benchmarks.gpu.units import ROOT, Unit, units

GIB = 2**30


def unit(name: str, code: str, seconds: int = 1) -> Unit:
    return Unit(name, name, [sys.executable, "-c", code], seconds)


def printing(figures: dict) -> str:
    return f"print('noise'); print({json.dumps(figures)!r})"


def options(**changed: object) -> argparse.Namespace:
    return argparse.Namespace(**{"seconds": 60.0, "device": "cpu", "tiny": True, "again": False, **changed})


def call(chosen: list[Unit], kept: Outcomes, **changed: object) -> list[Outcome | None]:
    script.call(chosen, kept, options(**changed), lambda: None)
    return [kept.get(each.name) for each in chosen]


def test_what_comes_of_a_unit_is_kept_and_not_run_again(tmp_path):
    mark = tmp_path / "ran"
    counted = (
        f"import pathlib; p = pathlib.Path({str(mark)!r}); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    )
    chosen = [unit("counted", f"{counted}; {printing({'seconds': 2})}")]
    for _ in range(2):
        (found,) = call(chosen, Outcomes(tmp_path / "units"))
        assert found.status == "done" and found.figures == {"seconds": 2}
    assert mark.read_text() == "x"
    assert script.exit_code(chosen, Outcomes(tmp_path / "units")) == 0


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        ("raise ValueError('a wrong size')", "failed", "ValueError: a wrong size"),
        ("import sys; sys.exit('ImportError: not installed: peft')", "failed", "ImportError: not installed: peft"),
        ("import sys; sys.exit(3)", "failed", "ended with 3 and no word"),
        ("print('no figures')", "failed", "printed no figures"),
        (printing({"skipped": "deepspeed is not installed"}), "skipped", "deepspeed is not installed"),
        (printing({"bf16": {"export": 1}, "failed": "bnb-nf4: no kernel"}), "failed", "bnb-nf4: no kernel"),
    ],
)
def test_what_goes_wrong_is_one_line_and_run_again_only_if_asked(tmp_path, code, status, why):
    kept = Outcomes(tmp_path)
    (found,) = call([unit("one", code)], kept)
    assert (found.status, found.why) == (status, why)
    assert call([unit("one", printing({"seconds": 1}))], kept) == [found]
    (again,) = call([unit("one", printing({"seconds": 1}))], kept, again=True)
    assert again.status == "done"


def test_a_call_ends_in_time_and_the_next_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "_LEAST", 0.1)
    kept = Outcomes(tmp_path)
    slow = unit("slow", "import time; time.sleep(60)")
    first = unit("first", f"import time; time.sleep(0.6); {printing({'seconds': 1})}")
    found = call([first, slow], kept, seconds=3.0)
    assert [each.status for each in found] == ["done", "cut"]
    assert script.exit_code([first, slow], kept) == script.LEFT
    found = call([first, slow], kept, seconds=1.0)  # it had the whole call to itself
    assert found[1].status == "failed" and found[1].why.startswith("takes longer than the 1 s of a call")
    assert script.exit_code([first, slow], kept) == 1


def test_nothing_is_begun_that_needs_more_than_is_left(tmp_path):
    kept = Outcomes(tmp_path)
    quick, long = unit("quick", f"import time; time.sleep(4); {printing({'seconds': 1})}"), unit("long", "1/0", 90)
    quick = Unit("quick", "quick", quick.command, 1)
    call([quick, long], kept, seconds=30.0, tiny=False)
    assert kept.get("quick").status == "done" and kept.get("long") is None


def test_the_page_says_what_was_measured_and_what_was_not_run():
    known = units("cuda", False, Path("out"))
    peak = {"measured": 8e14, "sheet": 1e15}
    found: dict[str, Outcome | None] = {
        "install": Outcome(
            "done", figures={"device": "a card", "memory": 80 * GIB, "main_memory": 128 * GIB, "versions": {}, **peak}
        ),
        "step-npo-kl": Outcome(
            "done",
            figures={
                "peer": {"seconds": 2.0, "bytes": 40 * GIB},
                "ours": {"seconds": 1.0, "bytes": 30 * GIB},
                "floor": {"tflop": 450.0, "bytes": 20 * GIB},
            },
        ),
        "formats": Outcome("failed", "bnb-nf4: no kernel", figures={"bnb-nf4": {"failed": "no kernel"}}),
        "large-zero3": Outcome("skipped", "deepspeed is not installed"),
    }
    text = page(known, found, "cuda", False)
    assert (
        "| a step of npo-kl | 1 s, other side 2 s: **0.50**; 30.00 GiB, other side 40.00 GiB: 0.75; **45%** of" in text
    )
    assert "| 0.55 of its time, 40% of the peak |" in text
    assert "| bnb-nf4 | failed: no kernel |" in text
    assert "| 8B under ZeRO-3, offloaded | skipped: deepspeed is not installed |" in text
    last = text.splitlines()[-1]
    assert last.startswith(
        "Not run yet (call the script again): tests, step-npo-nll, step-rmu, step-auto, formats-cal"
    )
    assert last.endswith("Failed: formats. Skipped: large-zero3.")


def test_layers_by_the_memory_that_training_keeps():
    """18 bytes for each weight: 218 million in a layer of this size, 1.05 billion in its ends."""
    assert layers_that_fit(128 * GIB, SIZES["8b"]) == 21
    assert layers_that_fit(1, SIZES["8b"]) == 1


def test_words_of_other_programs():
    assert counts("4 passed, 1 skipped, 14 warnings in 66.00s (0:01:06)") == {
        "passed": 4,
        "skipped": 1,
        "warnings": 14,
    }
    assert {"torch", "transformers", "accelerate"} <= set(required())
    torn = "Traceback\n  File\nRequestError: the config is wrong\nsubprocess.CalledProcessError: launch failed"
    assert script.last_words(torn) == "RequestError: the config is wrong"


def test_the_shell_script_names_what_there_is(tmp_path):
    command = [str(ROOT / "benchmarks" / "gpu" / "run.sh"), "--only", "nothing", "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    )
    assert (
        done.returncode == 1 and "--only nothing: there is none; there are install, tests, step-npo-nll" in done.stderr
    )
