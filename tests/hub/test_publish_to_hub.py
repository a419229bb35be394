"""``hf-unlearn publish RUN --repo-id``: what stands on the Hub afterwards, and what is refused before that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from loopback import Hub

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError, VerificationError
from hf_unlearn.hub.card import render_card
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.folders import refuse_not_passed
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.hub.options import HubOptions
from hf_unlearn.hub.publish import publish_run
from hf_unlearn.verification.digests import list_entries

NF4 = "owner/tiny-bnb-nf4"
Publish = Callable[..., int]


def publish(run: Path, *options: str, repo_id: str = "owner/tiny") -> int:
    """The command line."""
    return main(["publish", str(run), "--repo-id", repo_id, *options])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of stderr, which must be the command's own."""
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("hf-unlearn: "), text
    return text.removeprefix("hf-unlearn: ")


def front(hub: Hub, repo_id: str, revision: str = "main") -> ModelCard:
    """The card on the Hub."""
    return ModelCard(hub.repos[repo_id].files(revision)["README.md"].decode())


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """Files of a repository as a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_finished_run_is_published(here: Hub, run_folder: Path, tmp_path: Path, capsys) -> None:
    assert publish(run_folder) == 0
    out = capsys.readouterr().out
    assert set(here.repos) == {"owner/tiny", NF4}
    for repo_id, repo in here.repos.items():
        assert repo.private and repo.gated is False
        assert len(repo.log()) == 1 and repo.tags == {"v1": repo.branches["main"]}
        assert repo.branches["main"] in out
        assert check_folder(written(tmp_path / repo_id, repo.files())).problems == ()
    main_files = set(here.repos["owner/tiny"].files())
    assert main_files == set(here.repos[NF4].files()) | {"plots/forget.png"}
    assert {name.rsplit(".")[-1] for name in main_files} == {"json", "jinja", "safetensors", "md", "png"}
    commits = [request.path for request in here.requests if "/commit/" in request.path]
    assert [path.split("/")[4] for path in commits] == ["tiny-bnb-nf4", "tiny"], "the main repository comes last"
    record = json.loads((run_folder / "hub" / "published.json").read_text())
    assert [row["commit"] for row in record["repositories"]] == [
        here.repos[name].branches["main"] for name in (NF4, "owner/tiny")
    ]


def test_cards_name_their_repositories(here: Hub, run_folder: Path) -> None:
    assert publish(run_folder) == 0
    card, variant = front(here, "owner/tiny"), front(here, NF4)
    assert (card.data.base_model, card.data.base_model_relation) == ("owner/base", "finetune")
    assert (variant.data.base_model, variant.data.base_model_relation) == ("owner/tiny", "quantized")
    assert f'from_pretrained("{NF4}"' in variant.text and NF4 in card.text
    assert "unlearning-verdict:passed" in card.data.tags
    before = (run_folder / "publish" / "README.md").read_text()
    assert "owner/tiny" not in before, "the run's own folders stay as they were"
    assert check_folder(run_folder / "publish").problems == ()


def test_cards_that_are_written_anew_are_named(here: Hub, run_folder: Path, capsys) -> None:
    assert publish(run_folder) == 0
    assert "written anew" not in capsys.readouterr().out
    before = here.repos["owner/tiny"].put({"README.md": b"# By hand"})
    (run_folder / "hub" / NF4 / "README.md").write_text("# By hand too")
    assert publish(run_folder) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "written anew" in line]
    assert said == [
        f"{run_folder / 'hub' / NF4 / 'README.md'} had been edited by hand and is written anew, because the report "
        "lists its digest: what can be chosen in it is set under publish in the recipe",
        f"the card of owner/tiny was written anew; the one before is README.md of commit {before}",
    ]


def test_a_target_without_a_hub_id_is_no_base(here: Hub, exported, finishing, tmp_path: Path) -> None:
    assert publish(finishing(exported, tmp_path, hub_id=None)) == 0
    assert front(here, "owner/tiny").data.base_model is None
    assert "base_model_relation" not in front(here, "owner/tiny").data.to_dict()
    assert front(here, NF4).data.base_model == "owner/tiny"


def test_the_same_again_changes_nothing(here: Hub, run_folder: Path, capsys) -> None:
    assert publish(run_folder) == 0
    before = {name: (repo.branches, repo.tags) for name, repo in here.repos.items()}
    here.requests.clear()
    capsys.readouterr()
    assert publish(run_folder) == 0
    assert {name: (repo.branches, repo.tags) for name, repo in here.repos.items()} == before
    assert here.count("^(POST|PUT|PATCH|DELETE) ") == 0, "it only looked"
    assert capsys.readouterr().out.count("already there") == 2


def test_a_new_release_replaces_all_files_under_a_new_tag(
    here: Hub, run_folder: Path, exported, finishing, capsys
) -> None:
    assert publish(run_folder) == 0
    here.repos["owner/tiny"].put({"stray.txt": b"left by hand"})
    second = finishing(exported, run_folder.parent / "second")
    words = json.loads((second / "release.json").read_text())
    words["words"]["title"] = "Tiny again"
    (second / "release.json").write_text(json.dumps(words))
    assert publish(second) == 2
    assert last_line(capsys).startswith(f"the tag v1 of {NF4} already names another release: choose a new one")
    assert all(len(repo.log()) <= 2 for repo in here.repos.values()), "nothing was written"
    assert publish(second, "--tag", "v2") == 0
    repo = here.repos["owner/tiny"]
    assert "stray.txt" not in repo.files() and "# Tiny again" in repo.files()["README.md"].decode()
    assert "# Tiny again" not in repo.files("v1")["README.md"].decode()
    assert repo.tags["v2"] == repo.branches["main"] != repo.tags["v1"]


def test_public_only_when_asked_and_only_when_all_is_there(here: Hub, run_folder: Path, capsys) -> None:
    assert publish(run_folder, "--public", "--gated", "manual") == 0
    assert [(repo.private, repo.gated) for repo in here.repos.values()] == [(False, "manual")] * 2
    assert not next(iter(here.collections.values())).private
    lines = [request.line for request in here.requests]
    opened = [line for line in lines if line.endswith("/settings")]
    assert [line.split("/")[-2] for line in opened] == ["tiny-bnb-nf4", "tiny"]
    assert max(index for index, line in enumerate(lines) if "/commit/" in line) < lines.index(opened[0])
    assert publish(run_folder) == 2
    assert "is public: use --public" in last_line(capsys)


def test_a_collection_ties_them_together(here: Hub, run_folder: Path) -> None:
    assert publish(run_folder, repo_id="org/tiny") == 0
    (collection,) = here.collections.values()
    assert (collection.owner, collection.private) == ("org", True)
    assert list(collection.items) == ["org/tiny", "org/tiny-bnb-nf4"]
    assert collection.items["org/tiny-bnb-nf4"] == "bnb-nf4, verdict passed"
    here.collections.clear()
    assert publish(run_folder, "--no-collection", repo_id="org/tiny") == 0
    assert not here.collections


def test_branches_instead_of_repositories(here: Hub, run_folder: Path, tmp_path: Path) -> None:
    assert publish(run_folder, "--branches") == 0
    (repo,) = here.repos.values()
    assert set(repo.branches) == {"main", "bnb-nf4"} and set(repo.tags) == {"v1", "v1-bnb-nf4"}
    assert not here.collections
    for revision, name in (("main", "identity"), ("bnb-nf4", "bnb-nf4")):
        folder = written(tmp_path / name, repo.files(revision))
        assert check_folder(folder).problems == ()
        assert json.loads((folder / "unlearning_report.json").read_text())["format"] == name
    assert 'revision="bnb-nf4"' in front(here, "owner/tiny", "bnb-nf4").text
    assert front(here, "owner/tiny", "bnb-nf4").data.base_model is None
    head = dict(repo.branches)
    assert publish(run_folder, "--branches") == 0
    assert repo.branches == head


def test_what_did_not_pass_is_refused_or_says_so(here: Hub, failed_run: Path, tmp_path: Path, capsys) -> None:
    run = Path(shutil.copytree(failed_run, tmp_path / "run"))
    assert publish(run) == 1
    said = last_line(capsys)
    assert "the verdict is failed: In bnb-nf4, forgotten knowledge is there" in said and not here.requests
    assert "allowed); to publish it anyway" in said
    assert publish(run, "--allow-not-passed") == 0
    for repo_id in here.repos:
        card = front(here, repo_id)
        assert card.text.strip().splitlines()[2].startswith("**Unlearning verdict: failed.**")
        assert "unlearning-verdict:failed" in card.data.tags


def test_a_control_that_was_not_caught_counts_as_not_passed(run_folder: Path) -> None:
    report = json.loads((run_folder / "verify" / "unlearning_report.json").read_text())
    refuse_not_passed(report)
    report["controls"][0] |= {"ok": False, "status": "passed"}
    with pytest.raises(VerificationError, match="the control 'bin-hidden' did not come out as it must"):
        refuse_not_passed(report)
    card = ModelCard(render_card(report, "identity", CardWords("Tiny", "years")))
    assert card.text.strip().startswith(
        "# Tiny\n\n**Unlearning verdict: passed, not to be relied on (a control did not"
    )
    assert "unlearning-controls:failed" in card.data.tags


@pytest.mark.parametrize(
    ("repo_id", "options", "said"),
    [
        ("tiny", [], "must be OWNER/NAME"),
        ("owner/ti ny", [], "must be OWNER/NAME"),
        ("owner/a--b", [], "must be OWNER/NAME"),
        ("../tiny", [], "must be OWNER/NAME"),
        ("owner/" + "x" * 85, [], "choose a shorter --repo-id"),
        ("nobody/tiny", [], "owner cannot publish as nobody: name one of owner, org"),
        ("owner/tiny", ["--tag", "a b"], "the tag 'a b' is not valid"),
        ("owner/tiny", ["--tag", "main"], "the tag 'main' is not valid"),
        ("owner/tiny", ["--gated", "yes"], "there is no 'yes': there are auto, manual"),
        ("owner/tiny", ["export.formats=[]"], "is a finished run: name the recipe"),
        ("owner/tiny", ["--workers", "1"], "--workers belongs to recipes"),
    ],
)
def test_wrong_requests(here: Hub, run_folder: Path, capsys, repo_id: str, options: list[str], said: str) -> None:
    assert publish(run_folder, *options, repo_id=repo_id) == 2
    assert said in last_line(capsys)
    assert not here.repos and here.count("^(POST|PUT|PATCH|DELETE)") == 0


def test_tokens_are_looked_at_first(here: Hub, run_folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    org_reader = here.add_token(orgs={"org": "read"})
    for token, repo_id, said in (
        (here.read_token, "owner/tiny", "may only read: make one that may write"),
        (org_reader, "org/tiny", "may only read in the organization org"),
        (here.fine_token, "org/tiny", "fine-grained token of owner may not write to repositories of org"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        assert publish(run_folder, repo_id=repo_id) == 2
        assert said in last_line(capsys)
    monkeypatch.delenv("HF_TOKEN")
    assert publish(run_folder) == 2
    assert "there is no token for the Hub" in last_line(capsys)
    assert not here.repos and here.count("^(POST|PUT|PATCH|DELETE)") == 0
    (Path(here.settings(run_folder.parent / "hf_home")["HF_HOME"])).mkdir(exist_ok=True)
    (run_folder.parent / "hf_home" / "token").write_text(here.fine_token)
    assert publish(run_folder) == 0, "the token of `hf auth login` does"


def test_somebody_elses_repository_is_left_alone(here: Hub, run_folder: Path, capsys) -> None:
    here.create(NF4, {"thesis.bin": b"years of work"}, private=True)
    assert publish(run_folder) == 2
    assert f"{NF4} holds something other than a verified model (thesis.bin)" in last_line(capsys)
    assert set(here.repos) == {NF4} and len(here.repos[NF4].log()) == 1


def test_runs_that_are_not_finished_or_were_changed(here: Hub, run_folder: Path, tmp_path: Path, capsys) -> None:
    def refused(said: str) -> None:
        assert publish(run_folder) == 2
        assert said in last_line(capsys)

    weights = run_folder / "publish-bnb-nf4" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("is not what was verified (model.safetensors: is not the file")
    weights.write_bytes(data)
    (run_folder / "publish" / "optimizer.pt").write_bytes(b"x")
    refused("optimizer.pt: is of a type that is never published")
    (run_folder / "publish" / "optimizer.pt").unlink()
    report = run_folder / "verify" / "unlearning_report.json"
    shutil.copyfile(report, tmp_path / "kept")
    report.write_bytes(
        (run_folder / "publish" / "unlearning_report.json").read_bytes().replace(b"merging", b"mending")
    )
    refused("was changed after it was written")
    shutil.copyfile(tmp_path / "kept", report)
    for name in ("publish-bnb-nf4", "release.json", "run.json"):
        (run_folder / name).rename(tmp_path / "away")
        refused(name)
        (tmp_path / "away").rename(run_folder / name)
    assert main(["publish", str(tmp_path / "none"), "--repo-id", "owner/tiny"]) == 2
    assert not here.requests


@pytest.mark.parametrize("what", ["a model", "a published copy", "an unfinished run"])
def test_a_folder_that_is_no_finished_run_stays_as_it_is(
    here: Hub, exported, copied: Path, tmp_path: Path, what: str, capsys
) -> None:
    """A file that is added to a model's folder makes it another model: its digest is that of all its files."""
    if what == "an unfinished run":
        (copied / "run.json").write_text(json.dumps({"name": "tiny", "recipe": {"name": "tiny", "publish": {}}}))
    folder = Path(shutil.copytree(exported.main, tmp_path / "model")) if what == "a model" else copied
    before = list_entries(folder)
    for options in ([], ["--dry-run"]):
        assert publish(folder, *options) == 2
        assert ("is not finished" if what == "an unfinished run" else "it has no run.json") in last_line(capsys)
    with pytest.raises(RequestError, match=r"is not finished|it has no run\.json"):
        publish_run(folder, HubOptions("owner/tiny"), say=lambda text: None)
    assert list_entries(folder) == before and not here.requests
    if what == "a published copy":
        assert check_folder(folder).intact


def test_options_for_the_hub_need_a_repository(tmp_path: Path, run_folder: Path, capsys) -> None:
    assert main(["publish", "quickstart", "--public"]) == 2
    assert "--public is about the Hub: give --repo-id" in last_line(capsys)
    assert main(["publish", str(run_folder)]) == 2
    assert "--repo-id is missing" in last_line(capsys)


def test_a_dry_run_asks_the_hub_nothing(here: Hub, run_folder: Path, capsys) -> None:
    assert publish(run_folder, "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"as {NF4}" in out and "as owner/tiny" in out and not here.requests
    for repo_id in (NF4, "owner/tiny"):
        assert check_folder(run_folder / "hub" / repo_id).problems == ()
    assert publish(run_folder) == 0
    for repo_id, repo in here.repos.items():
        folder = run_folder / "hub" / repo_id
        assert repo.files() == {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }


def test_a_signature_is_uploaded_and_stays(here: Hub, run_folder: Path, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert publish(run_folder, "--private-key", str(tmp_path / "none.pem")) == 2
    assert not here.repos
    assert publish(run_folder, "--private-key", str(tmp_path / "key.pem")) == 0
    for repo_id in here.repos:
        folder = run_folder / "hub" / repo_id
        assert main(["check", str(folder), "--trusted-key", str(tmp_path / "key.pub"), "--require-signature"]) == 0
        assert "unlearning_report.json.sig" in here.repos[repo_id].files()
    assert publish(run_folder, "--private-key", str(tmp_path / "key.pem")) == 0
    assert [len(repo.log()) for repo in here.repos.values()] == [1, 1]
