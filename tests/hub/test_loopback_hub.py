"""The Hub on this machine is a Hub to the real clients: what they write they read again, errors are their errors."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback import Hub, run_client

WEIGHTS = bytes(range(256)) * 40


def api(hub: Hub, token: str | bool | None = None) -> HfApi:
    """A client with its own token, or the environment's; ``False`` for none."""
    return HfApi(endpoint=hub.url, token=token)


def adds(**files: bytes) -> list[CommitOperationAdd]:
    """Operations that add files; ``_`` stands for a dot in names."""
    return [CommitOperationAdd(name.replace("_", "."), data) for name, data in files.items()]


@pytest.mark.parametrize("part_size", [None, 1000])
def test_what_is_committed_can_be_read(here: Hub, tmp_path: Path, part_size: int | None) -> None:
    here.part_size = part_size
    client = api(here)
    client.create_repo("owner/new", private=True)
    empty = client.model_info("owner/new").sha
    made = client.create_commit(
        "owner/new",
        adds(model_safetensors=WEIGHTS, config_json=b"{}", empty_txt=b""),
        commit_message="one",
        parent_commit=empty,
    )
    files = {entry.path: entry for entry in client.list_repo_tree("owner/new", recursive=True)}
    assert sorted(files) == [".gitattributes", "config.json", "empty.txt", "model.safetensors"]
    assert files["model.safetensors"].lfs.size == len(WEIGHTS) and files["config.json"].lfs is None
    assert client.model_info("owner/new").sha == made.oid
    path = hf_hub_download("owner/new", "model.safetensors", endpoint=here.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    asked = urllib.request.Request(f"{here.url}/owner/new/resolve/main/model.safetensors")
    asked.add_header("Authorization", f"Bearer {here.read_token}")
    asked.add_header("Range", "bytes=300-309")
    with urllib.request.urlopen(asked) as answer:
        assert (answer.status, answer.read()) == (206, WEIGHTS[300:310])
        assert answer.headers["Content-Range"] == f"bytes 300-309/{len(WEIGHTS)}"
    assert here.count("PUT /lfs/") == (1 if part_size is None else -(-len(WEIGHTS) // 1000))
    # The same content again is neither uploaded nor committed.
    again = client.create_commit("owner/new", adds(model_safetensors=WEIGHTS), commit_message="two")
    assert again.oid == made.oid and len(here.repos["owner/new"].log()) == 1
    client.create_commit("owner/new", [CommitOperationDelete("config.json")], commit_message="three")
    assert [commit.title for commit in here.repos["owner/new"].log()] == ["three", "one"]
    assert "config.json" in here.repos["owner/new"].files(made.oid)


def test_a_commit_on_an_old_parent_is_refused(here: Hub) -> None:
    repo = here.create("owner/new", {"a.txt": b"a"})
    parent = repo.branches["main"]
    repo.put({"a.txt": b"b"})
    with pytest.raises(HfHubHTTPError) as error:
        api(here).create_commit("owner/new", adds(b_txt=b"b"), commit_message="late", parent_commit=parent)
    assert error.value.response.status_code == 412
    assert repo.files() == {"a.txt": b"b"}


def test_branches_tags_and_settings(here: Hub) -> None:
    client = api(here)
    repo = here.create("owner/new", {"a.txt": b"a"})
    client.create_branch("owner/new", branch="nf4")
    client.create_commit("owner/new", adds(b_txt=b"b"), commit_message="b", revision="nf4")
    client.create_tag("owner/new", tag="v1", revision=repo.branches["nf4"])
    client.create_tag("owner/new", tag="v1", exist_ok=True)
    assert (set(repo.files()), set(repo.files("v1"))) == ({"a.txt"}, {"a.txt", "b.txt"})
    found = client.list_repo_refs("owner/new")
    assert [branch.name for branch in found.branches] == ["main", "nf4"] and found.tags[0].name == "v1"
    with pytest.raises(RevisionNotFoundError):
        client.model_info("owner/new", revision="v2")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("owner/new", "b.txt", endpoint=here.url)
    client.update_repo_settings("owner/new", gated="manual", visibility="private")
    assert (repo.gated, repo.private) == ("manual", True)


def test_who_may_see_and_write(here: Hub) -> None:
    here.create("owner/hidden", {"a.txt": b"a"}, private=True)
    here.create("owner/gated", {"a.txt": b"a"}).gated = "auto"
    stranger = here.add_token(user="stranger", orgs={})
    for token in (False, stranger):
        with pytest.raises(RepositoryNotFoundError):
            api(here, token).model_info("owner/hidden")
        with pytest.raises(GatedRepoError):
            hf_hub_download("owner/gated", "a.txt", endpoint=here.url, token=token)
    for token in (stranger, here.read_token):
        with pytest.raises(HfHubHTTPError) as error:
            api(here, token).create_repo("owner/more")
        assert error.value.response.status_code == 403
    assert api(here, here.read_token).model_info("owner/hidden").private
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(here, here.expired_token).whoami()
    roles = [api(here, token).whoami()["auth"]["accessToken"]["role"] for token in (here.write_token, here.fine_token)]
    assert roles == ["write", "fineGrained"]


def test_collections(here: Hub) -> None:
    client = api(here)
    for name in "abcdef":
        here.create(f"owner/{name}")
    made = client.create_collection("Six models", namespace="owner", private=True)
    for name in "abcdef":
        client.add_collection_item(made.slug, f"owner/{name}", "model", note=f"is {name}", exists_ok=True)
    assert client.create_collection("Six models", namespace="owner", exists_ok=True).slug == made.slug
    found = client.get_collection(made.slug)
    assert [item.item_id for item in found.items] == [f"owner/{name}" for name in "abcdef"]
    assert found.items[2].note == "is c"
    assert [len(each.items) for each in client.list_collections(owner="owner")] == [4]
    assert not list(api(here, False).list_collections(owner="owner"))
    client.update_collection_metadata(made.slug, private=False)
    assert len(list(api(here, False).list_collections(owner="owner"))) == 1


def test_faults(here: Hub, tmp_path: Path) -> None:
    client = api(here)
    repo = here.create("owner/new", {"model.safetensors": WEIGHTS})
    slow = here.fault("POST .*/preupload/", status=429, retry_after=0, times=2)
    cut = here.fault("PUT /lfs/", cut="upload")
    client.create_commit("owner/new", adds(more_safetensors=WEIGHTS[1:]), commit_message="in the end")
    assert (slow.met, cut.met) == (2, 1) and repo.files()["more.safetensors"] == WEIGHTS[1:]
    half = here.fault("GET .*/resolve/", cut="download")
    path = hf_hub_download("owner/new", "model.safetensors", endpoint=here.url, cache_dir=tmp_path)
    assert half.met == 1 and Path(path).read_bytes() == WEIGHTS
    assert [request.status for request in here.requests if request.line.startswith("GET /owner/")] == [0, 200]
    lost = here.fault("POST .*/commit/", cut="answer")
    with pytest.raises(Exception, match=r"disconnected|closed"):
        client.create_commit("owner/new", adds(a_txt=b"a"), commit_message="nobody hears of it")
    assert lost.met == 1 and "a.txt" in repo.files()
    here.fault("POST .*/commit/", before=lambda hub: repo.put({"b.txt": b"b"}))
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        client.create_commit(
            "owner/new", adds(c_txt=b"c"), commit_message="too late", parent_commit=repo.branches["main"]
        )
    here.quota = here.stored()
    with pytest.raises(HfHubHTTPError, match="storage limit"):
        client.create_commit("owner/new", adds(d_safetensors=WEIGHTS[2:]), commit_message="too much")
    here.fault("GET /api/whoami", status=401, echo=True, skip=1)
    client.whoami()
    with pytest.raises(HfHubHTTPError) as error:
        client.whoami()
    assert here.write_token in error.value.response.text


def test_cards_are_validated(here: Hub, passed, failed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.repocard.constants.ENDPOINT", here.url, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", here.url)
    for folder in (passed.main, passed.variant, failed.main):
        ModelCard.load(folder / "README.md").validate()
    names = [yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] for text in here.validated]
    assert names == ["Tiny"] * 3
    client = api(here)
    client.create_repo("owner/new")
    with pytest.raises((ValueError, BadRequestError), match="license"):
        client.create_commit(
            "owner/new", [CommitOperationAdd("README.md", b"---\nlicense: [1]\n---\n")], commit_message="bad"
        )


def test_transformers_loads_from_it(hub: Hub, passed, tmp_path: Path) -> None:
    repo = hub.create_from("owner/tiny", passed.main, private=True)
    code = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("owner/tiny")
tokenizer = AutoTokenizer.from_pretrained("owner/tiny")
print(type(model).__name__, tokenizer("born").input_ids)
"""
    done = run_client(hub, tmp_path / "home", code, token=hub.read_token)
    assert done.stdout.split() == ["LlamaForCausalLM", "[4]"], done.stderr
    hub.repos["owner/tiny"].instead[repo.branches["main"]] = repo.log()[-1].parent or ""
    done = run_client(
        hub, tmp_path / "other", "from huggingface_hub import model_info; print(model_info('owner/tiny').siblings)"
    )
    assert "RepositoryNotFoundError" in done.stderr, "without a token a private repository is not there"
    assert os.environ.get("HF_ENDPOINT") != hub.url, "this process is left as it was"
