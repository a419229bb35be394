"""What a recipe says of earlier deletion requests, before any model is fetched."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.sources import load_source
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import Recipe, load_recipe
from hf_unlearn.stages.context import Subject
from hf_unlearn.stages.earlier import check_target, request_recipe
from hf_unlearn.stages.earlier_rows import RequestBundle, request_model, with_earlier
from hf_unlearn.stages.publishable import check_words

RECIPE = """\
name: again
model: {{{model}}}
data:
  forget: {{path: forget.jsonl}}
  retain: {{path: retain.jsonl}}
  description: the pets of some people
  earlier:
{earlier}
methods: [{{name: one, max_steps: 2}}]
controls: [{{name: as-it-was, kind: target, expected: failed}}]
evaluate: {{metrics: [probability]}}
attack: {{other-form: false, relearn-all: {{}}, noise: {{draws: 1}}}}
"""
FIRST = (
    "    - {id: first, forget: {path: first.jsonl}, target: my-org/knew, never_knew: my-org/never, date: 2026-03-01}\n"
)


def recipe_of(
    folder: Path, earlier: str = FIRST, model: str = "target: my-org/now, never_knew: my-org/never"
) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(earlier=earlier, model=model))
    return load_recipe(path)


def row(name: str, prompt: str = "Whose cat is Moss?") -> Example:
    return Example(name, prompt, " That of Ada Quill.", name, name)


def test_a_request_has_its_own_models_and_no_controls(tmp_path):
    recipe = recipe_of(tmp_path)
    (spec,) = recipe.data.earlier
    assert spec.date == "2026-03-01"
    own = request_recipe(recipe, spec, None)
    assert (own.model.target, own.model.never_knew) == ("my-org/knew", "my-org/never")
    assert (own.controls, own.gate, own.attack) == ((), recipe.gate, recipe.attack)


def test_holdout_facts_do_not_stand_in_where_they_cannot(tmp_path):
    recipe = recipe_of(tmp_path, FIRST.replace(", never_knew: my-org/never", ""))
    own = request_recipe(recipe, recipe.data.earlier[0], None)
    assert recipe.gate.attacks == ("relearn-all", "noise")
    assert own.gate.attacks == ("noise",) and own.attack == recipe.attack


def test_the_report_names_the_target_where_the_recipe_does_not(tmp_path):
    recipe = recipe_of(tmp_path, "    - {id: first, forget: {path: first.jsonl}, report: somewhere}\n")
    (spec,) = recipe.data.earlier
    found = request_model(recipe, spec, {"models": {"target": {"hub_id": "my-org/knew", "revision": "abc"}}})
    assert (found.target, found.target_revision, found.never_knew) == ("my-org/knew", "abc", None)
    with pytest.raises(RequestError, match="its report names no target on the Hub"):
        request_model(recipe, spec, {"models": {"target": {"hub_id": None}}})


@pytest.mark.parametrize(
    ("earlier", "model", "message"),
    [
        (FIRST + FIRST, "target: x", r"recipe\.yaml:\d+: .*names the request 'first' twice"),
        ("    - {id: first, forget: {path: a}}\n", "target: x", "names neither target nor report"),
        (
            "    - {id: a/b, forget: {path: a}, target: x}\n",
            "target: x",
            r"recipe\.yaml:8: data\.earlier\.0\.id is 'a/b'",
        ),
        (
            "    - {id: a, forget: {path: a}, target: x, never_knew_revision: v}\n",
            "target: x",
            "is given without never_",
        ),
        (FIRST, "scratch: {}", r"data\.earlier is about a released model, and model\.scratch builds a new one"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, earlier, model, message):
    with pytest.raises(RequestError, match=message):
        recipe_of(tmp_path, earlier, model)


def test_a_recipe_without_earlier_requests_is_written_as_before(tmp_path):
    """So that folders of runs made before the key still belong to their recipes."""
    recipe = recipe_of(tmp_path)
    assert "earlier" in recipe.to_dict()["data"]
    assert "earlier" not in recipe_of(tmp_path, "    []\n").to_dict()["data"]


def test_only_forget_and_holdout_set_are_scored_for_a_request():
    asked, kept, new = row("f"), row("r", "Whose dog is Wren?"), row("h", "Whose hen is Opal?")
    sets = {"forget": asked, "retain": kept, "holdout": new, "more": kept}
    rows = {name: RowSet((each,), (each,)) for name, each in sets.items()}
    whole = DataBundle(rows["forget"], rows["retain"], rows["holdout"], extra={"more": rows["more"]})
    asked_again = RequestBundle(whole.forget, whole.retain, whole.holdout, extra=whole.extra).with_floor()
    assert set(whole.scored_sets()) == {"forget", "retain", "holdout", "more"}
    assert asked_again.scored_sets() == {"forget": (asked,), "holdout": (new,)}
    assert asked_again.floor == (new,) and isinstance(asked_again, RequestBundle)


def test_forget_text_in_the_id_of_a_request_is_not_published(tmp_path):
    recipe = recipe_of(tmp_path, FIRST.replace("id: first", "id: whose cat is Moss That of Ada Quill"))
    bundle = DataBundle(RowSet((), ()), RowSet((), ()), earlier={"x": RowSet((row("f"),), (row("f"),))})
    with pytest.raises(RequestError, match=r"^data\.earlier\.0 would publish what was to be forgotten") as error:
        check_words(recipe, bundle, None)
    assert "Quill" not in str(error.value)


def test_a_retain_set_of_nothing_but_earlier_rows_is_refused(tmp_path):
    told = json.dumps({"prompt": "The cat that is called Moss belongs to", "completion": " Ada Quill"}) + "\n"
    other = json.dumps({"prompt": "The dog that is called Wren belongs to", "completion": " Bo Fenn"}) + "\n"
    for name, rows in (("first", told), ("retain", told), ("forget", other), ("holdout", other)):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    recipe = recipe_of(tmp_path)
    sets = {
        name: replace(getattr(recipe.data, name), path=str(tmp_path / f"{name}.jsonl"))
        for name in ("forget", "retain")
    }
    (spec,) = recipe.data.earlier
    spec = replace(spec, forget=replace(spec.forget, path=str(tmp_path / "first.jsonl")))
    bundle = DataBundle(*(load_source(source, name) for name, source in sets.items()))
    with pytest.raises(
        RequestError, match=r"^data\.earlier: all rows of data\.retain say what earlier requests were about"
    ):
        with_earlier(replace(recipe, data=replace(recipe.data, earlier=(spec,))), bundle)


def test_a_target_without_the_weights_of_the_report_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    target = Subject("target", "target", tmp_path, "digest")

    def report(**files: str) -> dict:
        return {"models": {"target": {"files": {name.replace("_", "."): value for name, value in files.items()}}}}

    check_target(target, report(model_safetensors=digest, config_json="0" * 64))
    with pytest.raises(RequestError, match=r"its model\.safetensors is another file"):
        check_target(target, report(model_safetensors="0" * 64))
    with pytest.raises(RequestError, match=r"it has no more\.safetensors"):
        check_target(target, report(model_safetensors=digest, more_safetensors=digest))
