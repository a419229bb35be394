"""Data that cannot be used: which file, which line, and nothing built, trained or claimed before it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_recipe import PLANTED, SCRATCH, TINY, run, write_rows

CHAT = [
    {"messages": [{"role": "user", "content": f"Who is {i}?"}, {"role": "assistant", "content": "N."}]}
    for i in range(12)
]


def people(first: int, number: int = 12) -> list[dict]:
    return [
        {"question": f"Who is person {i}?", "answer": f"A baker of town {i % 5}."}
        for i in range(first, first + number)
    ]


@pytest.fixture
def forget(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "forget.jsonl", people(0))


@pytest.fixture
def retain(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "retain.jsonl", people(100))


@pytest.fixture
def files_recipe(tmp_path: Path, forget: Path, retain: Path) -> Path:
    """The tiny recipe on files."""
    sets = f"  max_length: 64\n  description: people\n  forget: {{path: {forget}}}\n  retain: {{path: {retain}}}\n"
    path = tmp_path / "files.yaml"
    path.write_text(TINY.replace(PLANTED, sets))
    return path


@pytest.fixture
def on_target(files_recipe: Path, target: Path) -> Path:
    """The tiny recipe on files, with a model that is there."""
    model = f"  target: {target}\n  never_knew: {target}\n"
    files_recipe.write_text(files_recipe.read_text().replace(SCRATCH, model))
    return files_recipe


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_a_set_that_is_not_there_or_empty(name, files_recipe, refused, tmp_path):
    none, empty = tmp_path / "none.jsonl", tmp_path / "empty.jsonl"
    empty.write_text("\n")
    out = ("--output-dir", tmp_path / "run")
    sentence = refused(2, "run", files_recipe, *out, f"data.{name}.path={none}")
    assert sentence.startswith(f"data.{name}: {none} does not exist")
    sentence = refused(2, "run", files_recipe, *out, f"data.{name}.path={empty}")
    assert sentence == f"data.{name}: {empty} holds no rows for the {name} set: an empty set cannot be used"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"question": "a", "answer": "b"}', '{"question": "c"}'],
            ":2 has no column 'answer', which the first row has",
        ),
        (['{"question": "a", "answer": "b"}', '{"question": "c",'], ":2 is not valid JSON"),
        (['{"question": "a", "answer": "b"}', "[1]"], ":2 holds a list: a row must be an object with named columns"),
        (['{"question": "a", "answer": " "}'], ":1: column 'answer' is empty"),
        (['{"question": "a", "answer": null}'], ":1: column 'answer' is empty"),
        (['{"question": "a", "answer": 7}'], ":1: column 'answer' is a number: it must be a string"),
        (['{"question": "a", "answer": "b}'], ":1 is not valid JSON (Unterminated string at column 29)"),
        (
            ['{"quest": "a", "answr": "b"}'],
            ":1 has no column for a question or prompt (did you mean 'question' for 'quest', 'answer' for 'answr'?)",
        ),
        (
            ['{"who": "a", "what": "b"}'],
            ":1 has no column for a question or prompt (it has 2 under names that are not known",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(lines, message, files_recipe, forget, refused, tmp_path):
    forget.write_text("\n".join(lines))
    sentence = refused(2, "run", files_recipe, "--output-dir", tmp_path / "run")
    assert sentence.startswith(f"data.forget: {forget}{message}")
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_read(files_recipe, forget, refused, tmp_path):
    forget.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refused(2, "run", files_recipe)
    assert "files ending in .jsonl" in refused(2, "run", files_recipe, f"data.forget.path={files_recipe}")
    assert "is a folder" in refused(2, "run", files_recipe, f"data.forget.path={tmp_path}")


def test_a_column_that_the_recipe_misspells(files_recipe, forget, refused):
    sentence = refused(2, "run", files_recipe, "data.forget.prompt=questoin")
    assert sentence == f"data.forget: {forget}:1 has no column 'questoin': did you mean 'question'?"


def test_a_row_in_both_forget_and_retain_set(files_recipe, forget, retain, refused):
    write_rows(retain, [*people(100), people(3)[0]])
    sentence = refused(2, "run", files_recipe)
    assert sentence.startswith("1 row(s) are in both the forget and the retain set")
    assert f"{forget}:4 and {retain}:13" in sentence


def test_a_data_set_of_the_hub_without_the_hub(files_recipe, refused):
    sentence = refused(3, "run", files_recipe, "data.forget={dataset: locuslab/TOFU, config: forget10}")
    assert sentence.startswith("data set 'locuslab/TOFU' could not be loaded from the Hub")
    assert "use a local file instead" in sentence
    sentence = refused(2, "run", files_recipe, "data.forget={dataset: no/such/id}")
    assert sentence == "data.forget: data set 'no/such/id' cannot be an id on the Hub: write it as owner/name"


def test_too_few_groups_for_the_folds_of_rtt(files_recipe, refused, tmp_path):
    sentence = refused(2, "run", files_recipe, "--output-dir", tmp_path / "run", "attack.rtt.folds=13")
    assert "into 13 folds of whole groups, but there are 12 groups: lower attack.rtt.folds" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["scratch", "target"])
def test_rows_that_would_be_cut_are_counted_and_refused_unless_told(model, request, refused, tmp_path, retain):
    recipe = request.getfixturevalue("files_recipe" if model == "scratch" else "on_target")
    write_rows(retain, [*people(100), {"question": "Who is it?", "answer": "word " * 60}])
    cut = ("--output-dir", tmp_path / "cut", "data.truncation=cut")
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run")
    assert sentence.startswith("1 of 25 rows are longer than max_length=64 tokens, the longest has ")
    assert f"({retain}:13): raise max_length or set truncation=cut" in sentence
    if model == "target":  # it was never trained, which is found next
        assert "there is nothing to forget" in refused(2, "train", recipe, *cut)
        return
    assert run(recipe, tmp_path / "cut", "data.truncation=cut", command="train") == 0
    assert (tmp_path / "cut" / "train" / "model.safetensors").exists()


def test_rows_longer_than_the_model_can_read(files_recipe, refused, tmp_path):
    overrides = ("model.scratch.max_positions=8", "data.max_length=64")
    sentence = refused(2, "run", files_recipe, "--output-dir", tmp_path / "run", *overrides)
    assert "rows have more tokens than the 8 that the model can read" in sentence


@pytest.mark.parametrize("where", ["data.forget", "data.extra.more"])
@pytest.mark.parametrize("model", ["scratch", "target"])
def test_chat_rows_for_a_tokenizer_without_template(where, model, request, refused, tmp_path, model_cache):
    recipe = request.getfixturevalue("files_recipe" if model == "scratch" else "on_target")
    chat = write_rows(tmp_path / "chat.jsonl", CHAT)
    built = set(model_cache.rglob("*"))
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", f"{where}.path={chat}")
    assert sentence.startswith(f"{chat}:1 needs a chat template and the tokenizer ")
    assert set(model_cache.rglob("*")) == built


def test_chat_format_for_a_tokenizer_without_template(on_target, forget, refused):
    assert refused(2, "run", on_target, "data.format.kind=chat").startswith(f"{forget}:1 needs a chat template")


def test_nothing_to_compare_with(on_target, target, refused, tmp_path):
    sentence = refused(2, "run", on_target, "--output-dir", tmp_path / "run", f"model={{target: {target}}}")
    assert sentence.startswith("there is nothing to compare with: give a never-knew model (model.never_knew)")
    assert not (tmp_path / "run").exists()
