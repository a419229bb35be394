"""Models, and overrides that put local files in the place of Hub data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from suite_data import (
    TEMPLATE,
    build_tokenizer,
    knowmem_rows,
    mcq_rows,
    passage_rows,
    save_model,
    text_rows,
    tofu_rows,
    write_lines,
)

from hf_unlearn.cli.main import main


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "one")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "two", seed=1)


@pytest.fixture(scope="session")
def plain_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer():
    return build_tokenizer(TEMPLATE)


@pytest.fixture(scope="session")
def local_data(tmp_path_factory) -> dict[str, list[str]]:
    """For each suite the overrides that name local files."""
    folder = tmp_path_factory.mktemp("data")

    def paths(**files) -> list[str]:
        return [f"set.{name}.path={write_lines(folder / f'{name}-{id(rows)}.jsonl', rows)}" for name, rows in
                files.items()]  # fmt: skip

    muse = paths(
        forget_verbmem=passage_rows("story"),
        forget_knowmem=knowmem_rows("book"),
        retain_knowmem=knowmem_rows("song"),
        forget=text_rows("tale"),
        holdout=text_rows("poem"),
    )
    shots = write_lines(folder / "shots.jsonl", knowmem_rows("map"))
    muse += [f"set.{name}.shots.path={shots}" for name in ("forget_knowmem", "retain_knowmem")]
    muse += [f"set.{name}.shots.count=2" for name in ("forget_knowmem", "retain_knowmem")]
    muse += ["set.forget_verbmem.max_new_tokens=6", "set.forget_knowmem.max_new_tokens=6"]
    tofu = paths(
        forget=tofu_rows("home"),
        retain=tofu_rows("job"),
        real_authors=tofu_rows("novel", paraphrased=False),
        world_facts=tofu_rows("river", paraphrased=False),
        holdout=tofu_rows("garden"),
    )
    return {
        "muse": muse,
        "muse-books": muse,
        "tofu": [*tofu, "defaults.max_new_tokens=4", "defaults.rows_per_group=1"],
        "mcq": paths(forget=mcq_rows("birth"), retain=mcq_rows("coronation")),
        "planted": [
            "planted.forget=12",
            "planted.retain=12",
            "planted.practice=1",
            "planted.holdout=12",
            "planted.generic=40",
            "planted.option_draws=1",
            "fluency_tokens=4",
        ],
    }


@pytest.fixture(scope="session")
def evaluated(model, local_data, tmp_path_factory) -> Path:
    """The TOFU suite on local files, from the command line."""
    out = tmp_path_factory.mktemp("evaluated") / "tofu"
    assert main(["evaluate", str(model), "--suite", "tofu", "--output-dir", str(out), *local_data["tofu"]]) == 0
    return out


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused in one line; returns the line."""

    def run(*arguments: object, code: int = 2) -> str:
        assert main([str(argument) for argument in arguments]) == code
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-unlearn:")]
        assert len(said) == 1
        return said[0]

    return run
