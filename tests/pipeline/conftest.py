"""A recipe small enough to run whole in seconds, and one finished run of it that several tests look at."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main

MadeOnce = Callable[[str, Callable[[Path], None]], Path]

TINY = """\
name: tiny
seed: 0
model:
  min_known: 0.9
  scratch: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 1, vocab_size: 600,
            epochs: 24, batch_size: 32, learning_rate: 4.0e-3}
data:
  max_length: 64
  planted: {forget: 40, retain: 40, holdout: 0, practice: 16, generic: 24, option_draws: 2, first_year: 1950}
methods:
  - name: npo-kl
    loss_type: npo
    retain_loss_type: kl
    retain_weight: 5.0
    per_device_train_batch_size: 8
    max_steps: 12
    learning_rate: 1.0e-3
    save_steps: 4
controls:
  - {name: other-never-knew, kind: never_knew, expected: passed}
export:
  formats: [bnb-nf4]
evaluate:
  max_new_tokens: 3
  fluency_tokens: 8
  generate_limit: 8
attack:
  rtt: {folds: 2, run_folds: 1, learning_rates: [1.0e-3], epochs: 2, batch_size: 16, warmup_steps: 2}
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The tiny recipe's YAML."""
    return TINY


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """The tiny recipe as a file of the test's own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


SECRETS = {
    "HF_TOKEN": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"[:34],
    "HF_UNLEARN_KEY_PASSWORD": "correct-horse-battery-staple",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}


@pytest.fixture(scope="session")
def run_secrets() -> dict[str, str]:
    """What stood in the environment of the finished run and must be nowhere."""
    return SECRETS


@pytest.fixture(scope="session")
def finished(made_once: MadeOnce, model_cache: Path) -> Path:
    """Output folder of a finished run; tests only read it. What it printed is in ``printed.txt`` beside it.

    Secrets stood in its environment.
    """

    def fill(folder: Path) -> None:
        recipe = folder / "tiny.yaml"
        recipe.write_text(TINY)
        with (
            pytest.MonkeyPatch.context() as patch,
            (folder / "printed.txt").open("w") as printed,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            for name, value in SECRETS.items():
                patch.setenv(name, value)
            patch.setenv("HF_UNLEARN_CACHE", str(folder / "cache"))
            code = main(["run", str(recipe), "--output-dir", str(folder / "run"), "--workers", "0"])
        assert code in (0, 1)

    folder = made_once("finished-pipeline", fill)
    shutil.copytree(folder / "cache", model_cache, dirs_exist_ok=True)
    return folder / "run"
