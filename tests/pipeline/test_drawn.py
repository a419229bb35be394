"""A run that keeps what the target writes by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.data.self_generated import DrawSpec
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.self_generated import first_tokens, write_texts

DRAWN = "references/drawn/texts.json"


@pytest.fixture(scope="module")
def recipe(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "drawn.yaml"
    kept = "data:\n  retain_at_hand: 0.2\n  keep_drawn: {texts: 120, max_new_tokens: 24}"
    path.write_text(tiny_text.replace("data:", kept))
    return path


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "run"
    assert main(["train", str(recipe), "--output-dir", str(folder), "--workers", "0"]) == 0
    return folder


def test_the_texts_tell_of_retained_people_and_of_none_to_be_forgotten(recipe, trained):
    texts = json.loads((trained / DRAWN).read_text())
    bundle = load_bundle(load_recipe(recipe))
    told = {row.group for row in bundle.retain.train if any(row.group in text for text in texts)}
    assert len(told) > 0.2 * len({row.group for row in bundle.retain.train})  # more than are at hand
    assert not [row.group for row in bundle.forget.train if any(row.group in text for text in texts)]


def test_methods_are_trained_on_them(recipe, trained, tmp_path):
    without = tmp_path / "without.yaml"
    without.write_text("\n".join(line for line in recipe.read_text().splitlines() if "keep_drawn" not in line))
    assert main(["train", str(without), "--output-dir", str(tmp_path / "run"), "--workers", "0"]) == 0
    one, other = (json.loads((folder / "train/training.json").read_text()) for folder in (trained, tmp_path / "run"))
    assert one["kl/retain"] != other["kl/retain"]


def test_a_run_that_goes_on_draws_nothing_anew(recipe, trained, capsys):
    before = (trained / DRAWN).stat().st_mtime_ns
    assert main(["train", str(recipe), "--output-dir", str(trained), "--workers", "0"]) == 0
    assert (trained / DRAWN).stat().st_mtime_ns == before
    assert "the target wrote" not in capsys.readouterr().out


def test_a_later_stage_says_what_is_missing(recipe, tmp_path, capsys):
    assert main(["evaluate", str(recipe), "--output-dir", str(tmp_path / "run"), "--workers", "0"]) == 2
    assert "run `hf-unlearn train` first" in capsys.readouterr().err


def test_nothing_usable_is_an_error_with_the_mend(recipe, tmp_path, capsys):
    command = ["train", str(recipe), "data.keep_drawn.avoid=[the, in]", "data.keep_drawn.texts=3"]
    assert main([*command, "--output-dir", str(tmp_path / "run"), "--workers", "0"]) == 2
    assert "data.keep_drawn: the target wrote 3 different texts in 3: 3 share words" in capsys.readouterr().err


def test_texts_begin_as_asked_and_the_seed_decides(finished, model_cache):
    folder = finished / "train"
    spec = DrawSpec(texts=4, starts=("The birth of", "Records"), max_new_tokens=12)
    texts = write_texts(folder, spec)
    assert [text.startswith(start) for text, start in zip(texts, 2 * spec.starts, strict=True)] == [True] * 4
    assert write_texts(folder, spec) == texts
    assert write_texts(folder, DrawSpec(texts=4, starts=spec.starts, max_new_tokens=12, seed=1)) != texts
    assert not any(text.startswith("<") for text in write_texts(folder, DrawSpec(texts=4, max_new_tokens=12)))


@pytest.mark.parametrize(
    ("special", "adds", "start", "expected"),
    [
        ({"unk_token": "<|endoftext|>", "bos_token": "<s>"}, False, "Water", ["<|endoftext|>", "Water"]),
        ({"unk_token": "<|endoftext|>", "bos_token": "<s>"}, False, "", ["<|endoftext|>"]),
        ({"unk_token": "<u>", "bos_token": "<s>"}, False, "Water", ["Water"]),
        ({"unk_token": "<u>", "bos_token": "<s>"}, False, "", ["<s>"]),
        ({"unk_token": "<u>", "eos_token": "</s>"}, False, "", ["</s>"]),
        ({"unk_token": "<|endoftext|>", "bos_token": "<s>"}, True, "Water", ["<s>", "Water"]),
    ],
)
def test_texts_begin_as_in_pretraining(special, adds, start, expected):
    """After what the tokenizer puts in front, or else after what separates texts: not after the mark of a turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["Water", *special.values()]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, special["unk_token"]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds:
        mark = special["bos_token"]
        inner.post_processor = processors.TemplateProcessing(single=f"{mark} $A", special_tokens=[(mark, 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    assert tokenizer.convert_ids_to_tokens(list(first_tokens(start, tokenizer))) == expected


def test_a_tokenizer_without_a_first_token_is_refused(finished, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(finished / "train", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token"):
        settings[name] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RequestError, match="no token to begin with"):
        write_texts(folder, DrawSpec(texts=1))
