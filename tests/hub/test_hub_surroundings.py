"""Folders that cannot be written while something is published, staged or signed: one sentence, nothing lost."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import pytest
from refusals import refused_writes

from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.hub.check import check_folder, sign_folder
from hf_unlearn.hub.folders import read_release, stage
from hf_unlearn.hub.options import HubOptions
from hf_unlearn.verification.digests import folder_digests

REFUSALS = pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])


@REFUSALS
def test_publishing_where_nothing_can_be_written(number, exported, publishing, reporting, tmp_path: Path) -> None:
    first = publishing(exported, tmp_path, reporting(exported.files))
    before = folder_digests(first.main)
    places = [tmp_path / name for name in ("publish", ".publish.partial", ".publish.gone")]
    with (
        refused_writes(number, *places),
        pytest.raises(EnvironmentFailure, match=r"publish cannot be written .*make room or check its permissions"),
    ):
        publishing(exported, tmp_path, reporting(exported.files, hidden=True))
    assert folder_digests(first.main) == before and check_folder(first.variant).intact


@REFUSALS
def test_staging_where_nothing_can_be_written(number, passed_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(passed_run, tmp_path / "run"))
    with (
        refused_writes(number, run / "hub"),
        pytest.raises(EnvironmentFailure, match=r"tiny-bnb-nf4 cannot be written .*run the same command again"),
    ):
        stage(read_release(run), HubOptions("owner/tiny"))
    assert not (run / "hub").exists()


@REFUSALS
def test_signing_where_nothing_can_be_written(number, copied: Path, key: Path) -> None:
    with (
        refused_writes(number, copied.parent),
        pytest.raises(EnvironmentFailure, match=r"unlearning_report\.json\.sig cannot be written"),
    ):
        sign_folder(copied, key)
    assert check_folder(copied).intact and check_folder(copied).signature.status == "none"


def test_checking_a_signature_without_a_place_for_temporary_files(copied: Path, key: Path, monkeypatch) -> None:
    from cryptography.hazmat.primitives import serialization

    public = key.with_suffix(".pub")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    kind = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(private.public_key().public_bytes(*kind))
    sign_folder(copied, key)
    assert check_folder(copied, [public]).signature.status == "trusted"
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(EnvironmentFailure, match="no folder for temporary files can be made"):
        check_folder(copied, [public])
