"""Loading from a Hub that moves, breaks off, lies or is not there."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from loopback import Hub, run_client
from transformers import AutoModelForCausalLM

from hf_unlearn.cli.main import main
from hf_unlearn.errors import EnvironmentFailure, RequestError, VerificationError
from hf_unlearn.hub.check import sign_folder
from hf_unlearn.hub.digest_cache import DigestMemory
from hf_unlearn.hub.verified import VerifiedModel, check, load_report
from hf_unlearn.verification.report_file import canonical, seal

NAME = "owner/tiny"
REPORT = "unlearning_report.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def cache(here: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch):
    """From now on the Hub must not be asked."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def repo(here: Hub, cache: Path, passed):
    """The published model as a repository."""
    return here.create_from(NAME, passed.main)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_the_commit_is_resolved_and_named(here: Hub, repo, passed, capsys) -> None:
    result = check(NAME)
    assert result.intact and not result.offline
    assert result.commit == repo.branches["main"] == result.folder.name
    assert load_report(NAME) == load_report(passed.main)
    tokens = torch.tensor([[1, 4, 3]])
    expected = AutoModelForCausalLM.from_pretrained(passed.main)(tokens).logits
    assert torch.equal(VerifiedModel.from_pretrained(NAME)(tokens).logits, expected)
    assert main(["check", NAME]) == 0
    assert f"commit {result.commit}\n" in capsys.readouterr().out


def test_a_push_between_resolving_and_fetching_changes_nothing(here: Hub, repo) -> None:
    """Files of two commits must never be mixed."""
    before = repo.branches["main"]
    here.fault("GET /api/models/owner/tiny/tree/", before=lambda hub: repo.put({WEIGHTS: b"other"}))
    result = check(NAME)
    assert result.commit == before != repo.branches["main"] and result.intact
    here.fault("GET /api/models/owner/tiny$", skip=1, before=lambda hub: repo.put({WEIGHTS: b"another"}))
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(NAME)


def test_branches_tags_and_commits(here: Hub, repo) -> None:
    good = repo.branches["main"]
    repo.tags["v1"] = good
    repo.put({"notes.txt": b"x"})
    assert check(NAME, "v1").intact and check(NAME, good).intact
    assert {problem.split(":")[0] for problem in check(NAME).problems} == {"notes.txt"}
    with pytest.raises(RequestError, match="has no revision 'v9'"):
        check(NAME, "v9")
    with pytest.raises(RequestError, match="there is no model 'owner/none' on the Hub"):
        check("owner/none")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "modeling_mine.py", "adapter_config.json", ".eval_results/x.py"]
)
def test_files_that_somebody_added(repo, name: str) -> None:
    repo.put({name: b"x"})
    assert {problem.split(":")[0] for problem in check(NAME).problems} == {name}
    with pytest.raises(VerificationError, match=rf"{re.escape(name)}: .* \(and 1 more\)"):
        VerifiedModel.from_pretrained(NAME, require="any")


def test_one_bit_of_any_file(repo) -> None:
    for name, data in repo.files().items():
        repo.put({name: flipped(data)})
        assert {problem.split(":")[0] for problem in check(NAME).problems} == {name}
        repo.put({name: data})
    assert check(NAME).intact


def test_offline_from_the_cache(here: Hub, repo, offline, capsys) -> None:
    repo.tags["v1"] = good = repo.branches["main"]
    for revision in (None, "v1"):
        check(NAME, revision)
    repo.put({"README.md": b"changed"})
    offline()
    asked = len(here.requests)
    for revision in (None, "main", "v1", good):
        result = check(NAME, revision)
        assert result.intact and result.offline and result.commit == good
    assert VerifiedModel.from_pretrained(NAME, revision="v1") is not None
    assert main(["check", NAME]) == 0
    assert f"commit {good} (from the download cache; the Hub was not contacted)" in capsys.readouterr().out
    assert len(here.requests) == asked
    for name, revision in ((NAME, "v2"), ("owner/other", None)):
        with pytest.raises(EnvironmentFailure, match=r"HF_HUB_OFFLINE is set, and .* is not all in the download"):
            check(name, revision)


def test_a_cache_that_was_changed(here: Hub, repo, cache: Path, offline) -> None:
    folder = check(NAME).folder
    blob = Path(os.path.realpath(folder / WEIGHTS))
    data = blob.read_bytes()
    offline()
    blob.write_bytes(flipped(data))
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(NAME)
    blob.write_bytes(data)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(blob.rename(cache / "outside"))
    assert check(NAME).problems[0] == f"{WEIGHTS}: is a link, and a published folder holds only files"
    (folder / WEIGHTS).unlink()
    with pytest.raises(EnvironmentFailure, match="is not all in the download cache"):
        check(NAME)


def test_a_hub_that_does_not_answer_is_not_replaced_by_the_cache(here: Hub, repo) -> None:
    """``snapshot_download`` would take what it has without a word; a check must not."""
    check(NAME)
    here.fault("GET /api/models/owner/tiny$", status=500, times=99)
    with pytest.raises(EnvironmentFailure, match="could not be fetched from the Hub"):
        check(NAME)
    assert check(NAME, repo.branches["main"]).intact, "a commit that is there needs no answer"


def test_a_download_that_breaks_off(here: Hub, repo, cache: Path) -> None:
    fault = here.fault(f"GET .*/resolve/.*/{WEIGHTS}", cut="download", times=99)
    with pytest.raises(EnvironmentFailure, match="could not be fetched from the Hub"):
        VerifiedModel.from_pretrained(NAME)
    assert fault.met
    here.clear_faults()
    assert VerifiedModel.from_pretrained(NAME) is not None


def test_a_download_that_was_cut_short_by_its_server(repo) -> None:
    """Length and name fit what the server says; only the digest tells."""
    repo.put({WEIGHTS: repo.files()[WEIGHTS][:-100]})
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(NAME)


def test_no_token_in_what_is_said(here: Hub, repo, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for status in (401, 403, 500):
        here.clear_faults()
        here.fault("/api/models/owner/tiny", status=status, echo=True, times=99)
        with pytest.raises(HfHubHTTPError) as told:
            HfApi(endpoint=here.url).model_info(NAME)
        assert here.write_token in told.value.response.text, "otherwise this shows nothing"
        assert main(["check", NAME]) in (2, 3)
        said = capsys.readouterr()
        assert here.write_token not in said.out + said.err
        with pytest.raises((EnvironmentFailure, RequestError)) as raised:
            check(NAME)
        assert here.write_token not in str(raised.value) and raised.value.__suppress_context__


def test_real_processes_with_and_without_the_hub(here: Hub, passed, tmp_path: Path) -> None:
    here.create_from(NAME, passed.main)
    look = f"""
from hf_unlearn.hub.verified import check
result = check({NAME!r})
print(result.commit, result.offline, result.problems)
"""
    load = f"from hf_unlearn import VerifiedModel; print(type(VerifiedModel.from_pretrained({NAME!r})).__name__)"
    first = run_client(here, tmp_path / "home", look)
    asked = len(here.requests)
    second = run_client(here, tmp_path / "home", look + load, HF_HUB_OFFLINE="1")
    commit = here.repos[NAME].branches["main"]
    assert first.stdout.split() == [commit, "False", "()"], first.stderr
    assert second.stdout.split() == [commit, "True", "()", "LlamaForCausalLM"], second.stderr
    assert len(here.requests) == asked


# ---- What a Hub that lies can do ----


@pytest.fixture
def releases(here: Hub, cache: Path, passed, tmp_path: Path):
    """Two signed releases of one publisher: the public key, and the commits of both."""
    pytest.importorskip("OpenSSL", reason="model-signing imports pyOpenSSL")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    repo, commits = here.create(NAME), []
    for number in (1, 2):
        folder = Path(shutil.copytree(passed.main, tmp_path / f"release{number}"))
        report = json.loads((folder / REPORT).read_bytes())
        (folder / REPORT).write_bytes(canonical(seal({**report, "notes": [f"release {number}"]})))
        sign_folder(folder, private)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        commits.append(repo.put(files, title=f"release {number}"))
        repo.tags[f"v{number}"] = commits[-1]
    return public, commits


def test_an_older_release_in_place_of_the_newer(here: Hub, releases) -> None:
    """A signature says who made a release, not that it is the newest: only a pinned report does."""
    public, (old, new) = releases
    digest = check(NAME, trusted_keys=[public]).report_digest
    shutil.rmtree(constants.HF_HUB_CACHE)
    here.repos[NAME].instead[new] = old
    for revision in (None, "v2", new):
        result = check(NAME, revision, trusted_keys=[public])
        assert result.intact and result.report["notes"] == ["release 1"], "not promised, and not found"
        with pytest.raises(VerificationError, match=r"unlearning_report\.json: is not the requested one"):
            VerifiedModel.from_pretrained(NAME, revision, trusted_keys=[public], report_digest=digest)
    here.repos[NAME].instead.clear()
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert VerifiedModel.from_pretrained(NAME, "v2", trusted_keys=[public], report_digest=digest) is not None


def test_a_commit_in_the_cache_cannot_be_taken_back(here: Hub, releases) -> None:
    public, (old, new) = releases
    check(NAME, new)
    here.repos[NAME].instead[new] = old
    assert check(NAME, new, trusted_keys=[public]).report["notes"] == ["release 2"]


def test_files_of_two_releases_mixed(here: Hub, releases) -> None:
    public, (old, _) = releases
    repo = here.repos[NAME]
    repo.put({REPORT: repo.files(old)[REPORT]})
    for keys in ([], [public]):
        assert check(NAME, trusted_keys=keys).problems == (
            f"{REPORT}.sig: was made for another report than the one next to it",
        )


def test_an_unsigned_release_by_somebody_who_may_write(here: Hub, releases) -> None:
    """Stolen write access: weights and report fit each other, and nobody has signed."""
    public, _ = releases
    repo = here.repos[NAME]
    repo.put({f"{REPORT}.sig": None})
    assert check(NAME).intact
    with pytest.raises(VerificationError, match=r"json\.sig: is missing, so none of the trusted keys can have signed"):
        VerifiedModel.from_pretrained(NAME, trusted_keys=[public])


# ---- Digests that are remembered ----


def aged(blob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds later."""
    import time

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)


def test_remembered_digests(here: Hub, repo, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = check(NAME).folder
    blob = Path(os.path.realpath(folder / WEIGHTS))
    aged(blob, monkeypatch)
    assert not (tmp_path / "xdg").exists(), "nothing is remembered unless asked for"
    assert check(NAME, reuse_digests=True).intact
    memory = DigestMemory(blob.parent)
    assert memory(folder / WEIGHTS) == blob.name and memory.reused == [blob.name]
    # Same size, and the time of last change put back: the kernel's own time tells.
    times, data = blob.stat(), blob.read_bytes()
    blob.write_bytes(flipped(data))
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(NAME, reuse_digests=True)
    # Another file in its place.
    other = blob.with_name("other")
    other.write_bytes(flipped(data))
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(blob)
    assert not check(NAME, reuse_digests=True).intact
    blob.write_bytes(data)
    assert check(NAME, reuse_digests=True).intact


def test_a_memory_that_others_can_write_is_not_believed(
    here: Hub, repo, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = check(NAME).folder
    blob = Path(os.path.realpath(folder / WEIGHTS))
    aged(blob, monkeypatch)
    check(NAME, reuse_digests=True)
    kept = tmp_path / "xdg" / "hf_unlearn" / "digests.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    lies = kept.read_text().replace(blob.name, "0" * 64)
    for text, mode in ((lies, 0o666), ("{", 0o600), ('{"version": 9, "files": {}}', 0o600)):
        kept.write_text(text)
        kept.chmod(mode)
        memory = DigestMemory(blob.parent)
        assert memory(folder / WEIGHTS) == blob.name and not memory.reused


def test_what_is_young_or_outside_is_not_remembered(here: Hub, repo, cache: Path, tmp_path: Path, passed) -> None:
    folder = check(NAME).folder
    blob = Path(os.path.realpath(folder / WEIGHTS))
    memory = DigestMemory(blob.parent, tmp_path / "digests.json")
    assert memory(folder / WEIGHTS) == blob.name
    memory(passed.main / WEIGHTS)
    memory.save()
    assert not (tmp_path / "digests.json").exists()
    with pytest.raises(RequestError, match="digests are reused in the download cache only"):
        check(passed.main, reuse_digests=True)
