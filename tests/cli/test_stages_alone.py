"""Single stages: out of order they say which one is missing, in order they make what ``run`` makes."""

from __future__ import annotations

import shutil

import pytest
from tiny_recipe import comparable, run

EARLIER = {
    "export": ("train",),
    "evaluate": ("train", "export"),
    "attack": ("train",),
    "verify": ("train", "export", "evaluate", "attack"),
    "publish": ("train", "export", "evaluate", "attack"),
}


@pytest.mark.parametrize("stage", EARLIER)
def test_a_stage_before_its_time_names_the_one_that_is_missing(stage, recipe, finished, refused, tmp_path):
    out = tmp_path / "run"
    for earlier in EARLIER[stage]:
        sentence = refused(2, stage, recipe, "--output-dir", out, "--workers", 0)
        assert sentence.endswith(f" is not there yet: run `hf-unlearn {earlier}` first")
        assert not (out / stage).exists()
        assert not (out / f"{stage}.partial").exists()
        for made in (earlier, f"references/{earlier}"):
            if (finished / made).exists():
                shutil.copytree(finished / made, out / made)


def test_stages_one_by_one_make_what_a_run_makes(recipe, finished, tmp_path, capsys):
    out = tmp_path / "run"
    codes = [
        run(recipe, out, command=stage) for stage in ("train", "export", "evaluate", "attack", "verify", "publish")
    ]
    assert codes == [0, 0, 0, 0, 1, 1]
    assert comparable(out) == comparable(finished)
    # Leases are numbered, and six commands take more of them than one.
    made, expected = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts}
        for folder in (out, finished)
    )
    assert made == expected


def test_a_result_of_other_inputs_is_out_of_date(recipe, refused, tmp_path):
    out = tmp_path / "run"
    assert run(recipe, out, command="train") == 0
    manifest = out / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"inputs": "', '"inputs": "0'))
    sentence = refused(2, "export", recipe, "--output-dir", out, "--workers", 0)
    assert sentence == f"{out / 'train'} is out of date: run `hf-unlearn train` first"
