"""Killed at every change while a checkpoint is written and older ones go: the last whole one is never lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from kills import every_kill
from tiny_run import tiny_trainer

from hf_unlearn.runtime.files import sweep
from hf_unlearn.trainer.checkpoints import FILE_LIST, last_whole_checkpoint
from hf_unlearn.trainer.unlearn_trainer import UnlearnTrainer
from hf_unlearn.verification.digests import folder_digests


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> UnlearnTrainer:
    """A trainer after four steps, with the checkpoints of the second and the fourth; it keeps two."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = tiny_trainer(folder, save_strategy="steps", save_steps=2, save_total_limit=2)
    trainer.train()
    trainer.state.global_step = 6
    return trainer


def test_a_kill_at_any_change(trained: UnlearnTrainer, tmp_path: Path) -> None:
    source, folder = Path(trained.args.output_dir), tmp_path / "run"
    older = {name: folder_digests(source / name) for name in ("checkpoint-2", "checkpoint-4")}
    assert all(FILE_LIST in files for files in older.values())
    trained.args.output_dir = str(folder)
    last = []

    def save() -> None:
        trained._save_checkpoint(trained.model, None)

    def renew() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder, copy_function=os.link)

    def look() -> None:
        for name in {"checkpoint-2", "checkpoint-4"} & {path.name for path in folder.iterdir()}:
            assert folder_digests(folder / name) == older[name], "whole, or gone by name"
        found = last_whole_checkpoint(folder)
        last.append(found.name)
        if len(last) % 6 == 0:  # the same step comes again when training goes on
            save()
            sweep(folder)
            assert {path.name for path in folder.iterdir()} == {"checkpoint-4", "checkpoint-6"}
            assert last_whole_checkpoint(folder).name == "checkpoint-6"
        renew()

    renew()
    kinds = every_kill(save, look, step=2)
    assert set(last) == {"checkpoint-4", "checkpoint-6"} and len(kinds) > 20
