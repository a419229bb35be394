"""What would be refused at the end, after hours, is refused at the beginning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.publishable import check_places, check_published_text, check_words

OVERRIDES = ("data.planted.forget=12", "data.planted.retain=12", "export.formats=[bnb-nf4]")


@pytest.fixture(scope="module")
def bundle():
    """Rows of a small recipe."""
    return load_bundle(load_recipe("quickstart", OVERRIDES))


def told(bundle) -> str:
    """A forget row, as somebody would write it into a description."""
    row = bundle.forget.train[0]
    return f"that {row.prompt} {row.answer}".replace(":", "").replace("\n", " ")


@pytest.mark.parametrize("key", ["data.description", "publish.model_name"])
def test_forget_text_in_the_words_of_the_recipe(key: str, bundle) -> None:
    recipe = load_recipe("quickstart", (*OVERRIDES, f"{key}={told(bundle)}"))
    for command in (None, "publish"):
        with pytest.raises(
            RequestError, match=f"^{key} would publish what was to be forgotten .forget row 1"
        ) as error:
            check_words(recipe, bundle, command)
        assert bundle.forget.train[0].answer.strip() not in str(error.value)
    check_words(recipe, bundle, "train")
    check_words(load_recipe("quickstart", OVERRIDES), bundle, None)


@pytest.mark.parametrize("name", ["publish", "publish-bnb-nf4"])
def test_a_place_that_holds_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=f"{name} holds something other than a published model"):
        check_places(load_recipe("quickstart", OVERRIDES), tmp_path, None)
    check_places(load_recipe("quickstart", OVERRIDES), tmp_path, "train")


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/x.jinja", "tokenizer_config.json"])
def test_forget_text_in_the_targets_tokenizer(name: str, bundle, tmp_path: Path) -> None:
    run = SimpleNamespace(
        recipe=SimpleNamespace(is_audit=False),
        target=SimpleNamespace(folder=tmp_path),
        context=SimpleNamespace(bundle=bundle),
    )
    (tmp_path / "notes.md").write_text(told(bundle))  # is not published
    check_published_text(run)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(told(bundle))
    with pytest.raises(RequestError, match=rf"{name} holds what is to be forgotten \(forget row 1\)"):
        check_published_text(run)
