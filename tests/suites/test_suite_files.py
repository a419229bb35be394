"""Suite files: those of the package load, and what is wrong in one is named with file, line and key."""

from __future__ import annotations

import pytest

from hf_unlearn.cli.listing import entries_of
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.suites import builtin_suites, load_suite
from hf_unlearn.evaluation.suites.result import suite_digest

GOOD = """\
name: mine
set:
  forget:
    path: rows.jsonl
    metrics: [probability]
  retain:
    like: forget
    path: other.jsonl
"""


def load(tmp_path, text, *overrides):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_suite(file, overrides)


@pytest.mark.parametrize("name", builtin_suites())
def test_every_packaged_suite_loads(name):
    suite = load_suite(name)
    assert suite.name == name
    assert suite.summary
    for label in suite.aggregates:
        assert suite.aggregate(label)[0]


def test_the_list_names_every_packaged_suite():
    assert [entry["name"] for entry in entries_of("suites")] == sorted(builtin_suites())


def test_defaults_and_like_are_filled_in(tmp_path):
    suite = load(tmp_path, "defaults: {separator: x, shots: {count: 3, path: s.jsonl}}\n" + GOOD,
                 "set.forget.metrics=[loss]", "set.retain.shots.count=1")  # fmt: skip
    assert suite.set["retain"].metrics == ("loss",)
    assert suite.set["retain"].path == "other.jsonl"
    assert suite.set["retain"].separator == suite.set["forget"].separator == "x"
    assert [suite.set[name].shots.count for name in ("forget", "retain")] == [3, 1]
    assert suite.set["retain"].shots.path == "s.jsonl"


def test_a_file_is_not_handed_on_to_a_set_that_names_another_place_on_the_hub():
    suite = load_suite("muse", ["set.forget_knowmem.path=mine.jsonl", "set.forget_knowmem.shots.path=mine.jsonl"])
    assert suite.set["forget_knowmem"].path == "mine.jsonl"
    assert suite.set["retain_knowmem"].path is None
    assert suite.set["retain_knowmem"].shots.path is None
    assert suite.set["retain_knowmem"].shots.count == 10


def test_sets_and_aggregates_can_be_off():
    suite = load_suite("tofu", ["set.holdout=off", "aggregates.model_utility=off"])
    assert "holdout" not in suite.set
    assert "model_utility" not in suite.aggregates
    assert "forget_quality" in suite.aggregates


def test_a_suite_without_a_name_is_called_as_its_file(tmp_path):
    assert load(tmp_path, GOOD.replace("name: mine\n", "")).name == "mine"


def test_the_digest_is_of_what_is_measured_not_of_where_the_rows_lie(tmp_path):
    plain = suite_digest(load(tmp_path, GOOD))
    assert suite_digest(load(tmp_path, GOOD, "set.forget.path=elsewhere.jsonl", "batch_tokens=64")) == plain
    for change in ("set.forget.max_new_tokens=5", "set.forget.template='Q {prompt}'", "aggregates.mia_loss={}"):
        assert suite_digest(load(tmp_path, GOOD, change)) != plain


BAD = [
    (GOOD.replace("[probability]", "[probabilty]"), ["mine.yaml:5", "set.forget.metrics", "'probability'"]),
    (GOOD.replace("metrics", "metrisc"), ["mine.yaml:5", "set.forget.metrisc", "'metrics'"]),
    (GOOD.replace("[probability]", "probability"), ["mine.yaml:5", "set.forget.metrics", "list"]),
    (GOOD + "    max_new_tokens: many\n", ["mine.yaml:9", "max_new_tokens", "whole number"]),
    (GOOD + "    max_new_tokens: 0\n", ["mine.yaml:9", "at least 1"]),
    (GOOD + "    format: html\n", ["mine.yaml:9", "format", "'html'"]),
    (GOOD + "    template: Question\n", ["mine.yaml:9", "{prompt}"]),
    (GOOD + "    options: letters\n    template: '{prompt}'\n", ["mine.yaml:10", "{options}"]),
    (GOOD + "    stop: ['']\n", ["mine.yaml:9", "empty"]),
    (GOOD + "    sampling: {count: 0, temperature: 1}\n", ["mine.yaml:9", "sampling.count"]),
    (GOOD + "    shots: {count: -1}\n", ["mine.yaml:9", "count"]),
    (GOOD.replace("like: forget", "like: forgot"), ["mine.yaml:7", "set.retain.like", "'forget'"]),
    (GOOD.replace("like: forget", "like: retain"), ["mine.yaml:7", "leads back"]),
    (GOOD + "agregates: {}\n", ["mine.yaml:9", "'aggregates'"]),
    (GOOD + "aggregates: {forget_qualty: {}}\n", ["mine.yaml:9", "'forget_quality'"]),
    (GOOD + "aggregates:\n  mia_min_k: {share: 1}\n", ["mine.yaml:10", "aggregates.mia_min_k.share"]),
    (GOOD + "defaults: {metrics: [loss], colour: red}\n", ["mine.yaml:9", "defaults.colour"]),
    (GOOD + "planted: {forget: 4}\n  x: 1\n", ["mine.yaml:", "not valid YAML"]),
    ("just words", ["mine.yaml:1", "mapping"]),
    ("", ["mine.yaml", "empty"]),
    ("name: mine\n", ["mine.yaml:1", "nothing to measure"]),
    ("set: [a]\n", ["mine.yaml:1", "set", "mapping"]),
    ("set: {forget: {metrics: []}}\n", ["mine.yaml:1", "neither path nor dataset"]),
    ("set: {forget: {planted: forget}}\n", ["mine.yaml:1", "planted"]),
    ("harness: {tasks: []}\n", ["mine.yaml:1", "at least one task"]),
    ("set: {generic: {path: a.txt, metrics: [loss]}}\n", ["mine.yaml:1", "set.generic"]),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_bad_suite_names_line_and_key(text, said, tmp_path):
    with pytest.raises(RequestError) as caught:
        load(tmp_path, text)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("set.forgot.path=a", "'forget'"),
        ("aggregates.nothing.k=1", "nothing"),
        ("set.forget.metriks=[loss]", "'metrics'"),
        ("sets.forget.path=a", "'set'"),
        ("set.forget.path", "section.key=value"),
    ],
)
def test_an_override_of_what_is_not_there(override, said, tmp_path):
    with pytest.raises(RequestError) as caught:
        load(tmp_path, GOOD, override)
    assert said in str(caught.value)


def test_unknown_suites_and_missing_files(refused, tmp_path):
    assert "did you mean 'tofu'" in refused("evaluate", tmp_path, "--suite", "tofo")
    assert "no such file" in refused("evaluate", tmp_path, "--suite", tmp_path / "none.yaml")
