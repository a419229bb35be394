"""Whatever fails at whatever request: nothing half-published, a clear last line, and the same again finishes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from loopback import Fault, Hub

from hf_unlearn.cli.main import main

EVER = float("inf")
LASTING: dict[str, dict[str, Any]] = {
    "down": {"status": 500},
    "busy": {"status": 429, "retry_after": 1},
    "expired": {"status": 401},
    "forbidden": {"status": 403},
    "cut": {"cut": "upload"},
    "half an answer": {"cut": "download"},
    "a proxy's page": {"status": 502, "text": "<html>Bad Gateway</html>"},
}
PASSING = ("down", "busy", "cut", "half an answer", "a proxy's page")


def publish(run: Path, *options: str) -> int:
    """The command line."""
    return main(["publish", str(run), "--repo-id", "owner/tiny", "--public", "--gated", "auto", *options])


def state(hub: Hub) -> dict[str, Any]:
    """All that stands on the Hub, without the names of commits, which hang on how many there were before."""
    repos = {
        name: (
            {branch: repo.files(branch) for branch in repo.branches},
            {tag: repo.files(tag) for tag in repo.tags},
            repo.private,
            repo.gated,
            len(repo.log()),
        )
        for name, repo in hub.repos.items()
    }
    collections = [(each.title, each.private, dict(each.items)) for each in hub.collections.values()]
    return {"repos": repos, "collections": collections}


def reset(hub: Hub) -> None:
    """An empty Hub without faults."""
    for held in (hub.repos, hub.collections, hub.faults, hub.requests):
        held.clear()
    hub.quota = None


def assert_not_half(hub: Hub, wanted: dict[str, Any]) -> None:
    """The main model is absent or complete, and then so are its variants; nobody sees a public one before."""
    main_repo = hub.repos.get("owner/tiny")
    if main_repo is not None and main_repo.files():
        for name, repo in hub.repos.items():
            assert repo.files() == wanted["repos"][name][0]["main"]
        assert set(hub.repos) == set(wanted["repos"])
    if main_repo is None or not main_repo.files():
        assert all(repo.private for repo in hub.repos.values())
    if main_repo is not None and not main_repo.private:
        assert not any(repo.private for repo in hub.repos.values())


@pytest.fixture
def wanted(here: Hub, run_folder: Path) -> dict[str, Any]:
    """What an undisturbed publication leaves. The Hub is empty again afterwards; ``requests`` says what it took."""
    assert publish(run_folder) == 0
    found = {**state(here), "requests": [request.line for request in here.requests]}
    assert found["requests"][0] == "GET /api/whoami-v2" and len(found["requests"]) > 25
    reset(here)
    return found


def assert_ends_well(hub: Hub, run: Path, wanted: dict[str, Any]) -> None:
    """The same command again, and all is as it would have been."""
    hub.clear_faults()
    hub.quota = None
    assert publish(run) == 0
    assert state(hub) == {key: wanted[key] for key in ("repos", "collections")}


def test_the_hub_fails_for_good_at_any_request(here: Hub, run_folder: Path, wanted, capsys) -> None:
    kinds = list(LASTING.items())
    for number, line in enumerate(wanted["requests"]):
        kind, about = kinds[number % len(kinds)]
        fault = here.fault(".", skip=number, times=EVER, **about)
        capsys.readouterr()
        assert publish(run_folder) == 3, f"{kind} at {line}"
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("hf-unlearn: could not ") and "run the same command again" in said, said
        assert "Traceback" not in said and fault.met, line
        assert_not_half(here, wanted)
        assert_ends_well(here, run_folder, wanted)
        reset(here)


def test_the_hub_fails_once_at_any_request(here: Hub, run_folder: Path, wanted) -> None:
    for number, line in enumerate(wanted["requests"]):
        kind = PASSING[number % len(PASSING)]
        fault = here.fault(".", skip=number, **LASTING[kind])
        assert publish(run_folder) == 0, f"{kind} at {line}"
        assert fault.met == 1
        assert state(here) == {key: wanted[key] for key in ("repos", "collections")}, f"{kind} at {line}"
        reset(here)


def test_an_answer_is_lost_after_any_change(here: Hub, run_folder: Path, wanted) -> None:
    """What was done and not heard of is not done twice."""
    changes = [number for number, line in enumerate(wanted["requests"]) if not line.startswith("GET")]
    for number in changes:
        here.fault(".", skip=number, cut="answer")
        assert publish(run_folder) == 0, wanted["requests"][number]
        assert state(here) == {key: wanted[key] for key in ("repos", "collections")}, wanted["requests"][number]
        reset(here)


def test_killed_between_any_two_changes(here: Hub, run_folder: Path, wanted) -> None:
    """As after ``kill -9``: an error that nothing handles, from inside the request."""

    class Killed(BaseException):
        pass

    from huggingface_hub.utils import get_session

    client = type(get_session())
    for number, line in enumerate(wanted["requests"]):
        if line.startswith("GET"):
            continue
        sent: list[str] = []
        send = client.send

        def counting(self, request, sent=sent, send=send, number=number, **more):
            if len(sent) >= number:
                raise Killed
            sent.append(str(request.url))
            return send(self, request, **more)

        client.send = counting
        try:
            with pytest.raises(Killed):
                publish(run_folder)
        finally:
            client.send = send
        assert_not_half(here, wanted)
        assert_ends_well(here, run_folder, wanted)
        reset(here)


@pytest.mark.parametrize("repo_id", ["owner/tiny", "owner/tiny-bnb-nf4"])
def test_somebody_commits_in_between(here: Hub, run_folder: Path, wanted, capsys, repo_id: str) -> None:
    here.fault(
        f"POST .*/{repo_id}/commit/", before=lambda hub: hub.repos[repo_id].put({"README.md": b"by somebody else"})
    )
    assert publish(run_folder) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"could not commit to {repo_id}: somebody else has committed there in the meantime (412)" in said
    assert here.repos[repo_id].files() == {"README.md": b"by somebody else"}, "what they did is not overwritten"
    assert all(repo.private for repo in here.repos.values())
    assert publish(run_folder) == 0
    assert here.repos[repo_id].files() == wanted["repos"][repo_id][0]["main"]


def test_no_room(here: Hub, run_folder: Path, wanted, capsys) -> None:
    here.quota = 1000
    assert publish(run_folder) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "could not upload the files of owner/tiny-bnb-nf4: " in said and "storage limit reached" in said
    assert not any(repo.files() for repo in here.repos.values())
    assert_ends_well(here, run_folder, wanted)


def test_the_tag_was_made_by_somebody_else(here: Hub, run_folder: Path, wanted, capsys) -> None:
    def tag(hub: Hub) -> None:
        repo = hub.repos["owner/tiny"]
        repo.tags["v1"] = repo.log()[-1].parent or ""

    here.fault("POST .*/owner/tiny/tag/", before=tag)
    assert publish(run_folder) == 2
    assert "the tag v1 of owner/tiny already names another release" in capsys.readouterr().err
    del here.repos["owner/tiny"].tags["v1"]
    assert_ends_well(here, run_folder, wanted)


def test_as_long_as_the_hub_asks_for(here: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    waited: list[float] = []
    sleep = time.sleep

    def long_waits_at_once(seconds: float) -> None:
        """Other threads (progress bars) sleep for moments."""
        if seconds >= 1:
            waited.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", long_waits_at_once)
    here.fault("POST .*/repos/create", status=429, retry_after=7)
    here.fault("POST .*/preupload/", status=429, retry_after=9)
    assert publish(run_folder) == 0
    assert sorted(waited) == [7.0, 10.0], "huggingface_hub adds a second of its own"
    waited.clear()
    here.fault("GET .*whoami", status=429, retry_after=4000)
    assert publish(run_folder) == 3
    assert waited == [] and "asks for fewer requests (429)" in capsys.readouterr().err


def test_tries_are_bounded(here: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    sleep = time.sleep

    def note_long_waits(seconds: float) -> None:
        # Other threads of the process may sleep for moments of their own.
        if seconds >= 1:
            waited.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", note_long_waits)
    fault: Fault = here.fault("POST .*/repos/create", status=503, times=EVER)
    assert publish(run_folder) == 3
    # Five for each of the two repositories, which are made side by side.
    assert fault.met == 10 and sorted(waited) == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0]


def test_the_hub_is_not_there(here: Hub, run_folder: Path, capsys) -> None:
    here.close()
    assert publish(run_folder) == 3
    assert "could not ask the Hub who you are: the Hub could not be reached" in capsys.readouterr().err
