"""Pages of figures: sections that are written apart, and what scripts say of their own figures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == SCRIPTS:
            del sys.modules[name]


def test_a_section_is_written_and_the_rest_stays(tmp_path: Path) -> None:
    pages = importlib.import_module("pages")
    page = tmp_path / "page.md"
    pages.write_sections(page, "Cost", {"one": "1\n", "two": r"a \1 b"})
    text = page.read_text(encoding="utf-8").replace("# Cost\n", "# Cost\n\nBy hand.\n")
    page.write_text(text, encoding="utf-8")
    pages.write_sections(page, "Another title", {"two": "2", "three": "3"})
    sections = [
        f"<!-- section:{name} -->\n{number}\n<!-- /section -->"
        for name, number in zip(("one", "two", "three"), "123", strict=True)
    ]
    assert page.read_text(encoding="utf-8") == "\n\n".join(["# Cost\n\nBy hand.", *sections]) + "\n"


def test_a_command_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = importlib.import_module("pages")
    words = ["x", "--data", "/home/me/rows.jsonl", "target=../runs/target", "--steps", "3", "grid=a"]
    monkeypatch.setattr(sys, "argv", words)
    line = pages.command_line("/home/me/benchmarks/cost.py")
    assert line == "python benchmarks/cost.py --data rows.jsonl target=target --steps 3 grid=a"


def test_targets_are_reached_and_missed_by_what_is_shown() -> None:
    step_targets = importlib.import_module("step_targets")
    text = step_targets.targets_table({"rmu": (0.354, 0.51), "sam": (9.0, 9.0)}, 19.6)
    (rmu,) = [line for line in text.splitlines() if line.startswith("| rmu")]
    assert "0.35: reached (0.35)" in rmu
    assert "0.50: missed (0.51)" in rmu
    assert "sam" not in text
    assert "20 times faster: reached (20)" in text
    assert "20 times faster: missed (19)" in step_targets.targets_table({}, 19.4)


def test_why_is_said_only_of_what_was_missed() -> None:
    step_targets = importlib.import_module("step_targets")
    time, memory = "time: the other side makes two passes", "memory: weights, gradients and Adam"
    missed = step_targets.targets_table({"simnpo": (0.61, 0.2)}, 1.0)
    assert time in missed
    assert memory not in missed
    assert time not in step_targets.targets_table({"simnpo": (0.6, 0.7)}, 1.0)


def test_the_share_and_speed_of_matrix_products_by_hand() -> None:
    trainer_cost = importlib.import_module("trainer_cost")
    found = {"seconds": 4.0, "matrix_seconds": 3.0, "matrix_tflop": 0.15}  # 50 GFLOP/s
    line = trainer_cost.profile_line("npo-nll", found, 0.1)
    assert "75% of a step's 4.00 s" in line
    assert "at 50 GFLOP/s" in line
    assert "takes 2.00 s" in line


def test_ratios_of_sweeps_are_medians_within_repeats_that_both_ran() -> None:
    attack_cost = importlib.import_module("attack_cost")

    def side(title: str, wall: list[float], ours: bool = False) -> object:
        return attack_cost.Side(title, dict, None, ours=ours, wall=wall, work=wall)

    plain, own = side("plain", [8.0, 30.0, 9.0]), side("own", [2.0, 3.0, 3.0], ours=True)
    once = side("once", [10.0])
    assert own.times_faster(plain) == 4.0  # 4, 10, 3
    assert own.times_faster(once) == 5.0
    line = attack_cost.target_line([plain, own, once])
    assert "reached against plain (4.0), reached against once (5.0)" in line
    assert "missed against plain (3.0)" in attack_cost.target_line([side("plain", [6.0]), side("own", [2.0], True)])


@pytest.mark.parametrize("name", ["procedures", "rtt_variants", "tuning_strength"])
def test_pages_have_the_sections_that_their_scripts_write(name: str) -> None:
    page = (SCRIPTS / f"{name}.md").read_text(encoding="utf-8")
    script = importlib.import_module(name)
    sections = {"procedures": ("methods", "scales"), "rtt_variants": ("variants",), "tuning_strength": ("strength",)}[
        name
    ]
    assert page.startswith(f"# {script.TITLE}\n")
    assert all(page.count(f"<!-- section:{section} -->") == 1 for section in sections)


def test_methods_of_the_comparison_are_settings_that_the_trainer_takes(tmp_path: Path) -> None:
    from hf_unlearn.recipe.method_settings import make_config

    procedures = importlib.import_module("procedures")
    titles = [method.title for method in procedures.METHODS]
    assert len(set(titles)) == len(titles)
    for method in procedures.METHODS:
        config = make_config({**method.settings, "use_cpu": True}, tmp_path, 0)
        assert config.max_steps == method.settings["max_steps"]
        assert len(config.robust) == len(method.parts)
        assert make_config({**method.shortened().settings, "use_cpu": True}, tmp_path, 0).max_steps <= 8
