"""The recipe's ``publish`` section: nothing goes to the Hub unless it says so; what is wrong is found first."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from loopback import Hub

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.recipe.spec import PublishSpec
from hf_unlearn.stages.publish import published_formats, upload

TINY = """\
name: tiny
model:
  min_known: 0
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 500,
            epochs: 20, batch_size: 16, learning_rate: 4.0e-3}
data:
  max_length: 64
  planted: {forget: 16, retain: 16, holdout: 4, practice: 8, generic: 16, option_draws: 2, first_year: 1980}
methods:
  - {name: npo-kl, loss_type: npo, retain_loss_type: kl, per_device_train_batch_size: 8, max_steps: 4,
     learning_rate: 1.0e-3}
export:
  formats: [bnb-nf4, noise-nf4-1]
evaluate: {max_new_tokens: 3, fluency_tokens: 8, generate_limit: 4}
gate: {draws: 200, max_recovered_share_formats: 0.25}
"""


@dataclass
class Context:
    """What the pipeline knows at its end."""

    recipe: SimpleNamespace
    output_dir: Path
    said: list[str]

    @property
    def progress(self) -> SimpleNamespace:
        """Where it says things."""
        return SimpleNamespace(say=self.said.append)


def context(run: Path, **publish: object) -> Context:
    """A finished run whose recipe has this ``publish`` section."""
    return Context(SimpleNamespace(publish=PublishSpec(**publish)), run, [])


def test_a_run_publishes_only_if_it_is_told_to(here: Hub, run_folder: Path, failed_run: Path, tmp_path: Path) -> None:
    upload(context(run_folder))
    assert not here.requests
    upload(context(run_folder, repo_id="org/tiny", private=False, gated="auto", tag="v3", collection=False))
    assert {name: (repo.private, repo.gated, list(repo.tags)) for name, repo in here.repos.items()} == {
        name: (False, "auto", ["v3"]) for name in ("org/tiny", "org/tiny-bnb-nf4")
    }
    assert not here.collections
    failed = context(Path(shutil.copytree(failed_run, tmp_path / "failed")), repo_id="owner/failed")
    upload(failed)
    assert failed.said[-1].startswith("nothing was published, because the verdict is failed")
    assert not any("failed" in name for name in here.repos)
    failed.recipe.publish = replace(failed.recipe.publish, allow_not_passed=True)
    upload(failed)
    assert {"owner/failed", "owner/failed-bnb-nf4"} <= set(here.repos)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("publish.repo_id=tiny", "publish.repo_id: the repository id 'tiny' is not valid"),
        ("publish.tag=a b", "publish.tag: the tag 'a b' is not valid"),
        ("publish.gated=yes", "publish.gated"),
        ("publish.formats=[noise-nf4-1]", "publish.formats names 'noise-nf4-1', which is made to be scored"),
    ],
)
def test_wrong_values(tmp_path: Path, value: str, said: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    with pytest.raises(RequestError) as error:
        load_recipe(path, [value])
    assert said in str(error.value)


def test_what_is_only_scored_is_not_published(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    assert published_formats(load_recipe(path)) == ("bnb-nf4",)


@pytest.mark.slow
def test_from_a_recipeupload(here: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_UNLEARN_CACHE", str(tmp_path / "cache"))
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(TINY + "publish: {repo_id: org/whole, allow_not_passed: true}\n")
    command = ["run", str(recipe), "--output-dir", str(run), "--workers", "0"]
    assert main(command) in (0, 1)
    assert set(here.repos) == {"org/whole", "org/whole-bnb-nf4"}
    recipe.unlink()
    assert main(["publish", str(run), "--repo-id", "org/second"]) == 0
    assert {"org/second", "org/second-bnb-nf4"} <= set(here.repos)
