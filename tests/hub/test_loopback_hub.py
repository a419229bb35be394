"""The real client against a small Hub on this machine: card validation, and loading from a repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """One repository ``owner/tiny`` whose only commit is the content of a folder.

    Attributes:
        files: What the repository holds.
        validated: Cards that were sent for validation.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.validated: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The few calls that validation and download make."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        """Card validation by the rules that the Hub documents for these keys."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        front = yaml.safe_load(body["content"].split("---\n")[1])
        self.server.validated.append(body["content"])
        errors = [] if isinstance(front.get("license", ""), str) else [{"message": "license must be a string"}]
        self._send(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())

    def do_HEAD(self) -> None:
        """File metadata."""
        self.do_GET()

    def do_GET(self) -> None:
        """Model info, tree, files."""
        path = urlsplit(self.path).path
        names = sorted(self.server.files)
        if path.startswith("/api/models/owner/tiny/tree/"):
            tree = [{"type": "file", "path": name, **self._size(name)} for name in names]
            self._send(200, json.dumps(tree).encode())
        elif path in ("/api/models/owner/tiny", f"/api/models/owner/tiny/revision/{COMMIT}"):
            info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(info).encode())
        elif path.startswith("/owner/tiny/resolve/") and path.split("/", 5)[5] in self.server.files:
            name = path.split("/", 5)[5]
            self._send(200, self.server.files[name], {"ETag": f'"{self._size(name)["oid"]}"', "X-Repo-Commit": COMMIT})
        else:
            missing = "RevisionNotFound" if "/revision/" in path else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": missing})

    def _size(self, name: str) -> dict[str, object]:
        data = self.server.files[name]
        return {"size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}

    def _send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def hub(passed) -> Iterator[Hub]:
    files = {
        path.relative_to(passed.main).as_posix(): path.read_bytes()
        for path in passed.main.rglob("*")
        if path.is_file()
    }
    server = Hub({**files, ".gitattributes": b"*.safetensors filter=lfs\n"})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def client(hub: Hub, home: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose Hub is ours: the address is read when the client is imported."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **settings, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_real_validate_accepts_the_cards(hub: Hub, passed, failed, tmp_path: Path) -> None:
    cards = [folder / "README.md" for folder in (passed.main, passed.variant, failed.main)]
    code = f"""
from huggingface_hub import ModelCard
for path in {[str(card) for card in cards]!r}:
    ModelCard.load(path).validate()
try:
    ModelCard("---\\nlicense: [1]\\n---\\n").validate()
except ValueError:
    print("refused")
"""
    done = client(hub, tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "refused"
    assert [yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] for text in hub.validated[:3]] == [
        "Tiny"
    ] * 3


LOAD = """
from hf_unlearn.errors import HfUnlearnError
from hf_unlearn.hub.verified import VerifiedModel, check, load_report
try:
    model = VerifiedModel.from_pretrained("owner/tiny"{more})
    print(type(model).__name__, load_report("owner/tiny")["verdict"]["status"], check("owner/tiny").problems)
except HfUnlearnError as error:
    print(type(error).__name__, error)
"""


def test_loads_a_repository_and_refuses_a_changed_one(hub: Hub, tmp_path: Path) -> None:
    done = client(hub, tmp_path / "one", LOAD.format(more=""))
    assert done.stdout.strip() == "LlamaForCausalLM passed ()", done.stderr
    data = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    done = client(hub, tmp_path / "two", LOAD.format(more=f", revision={COMMIT!r}"))
    assert done.stdout.startswith("VerificationError owner/tiny: model.safetensors: is not the file"), done.stderr
    hub.files["model.safetensors"] = data
    hub.files["pytorch_model.bin"] = b"x"
    done = client(hub, tmp_path / "three", LOAD.format(more=""))
    assert done.stdout.startswith("VerificationError owner/tiny: pytorch_model.bin: "), done.stderr


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    code = """
from hf_unlearn.errors import HfUnlearnError
from hf_unlearn.hub.verified import check
for name, revision in (("owner/none", None), ("owner/tiny", "v9")):
    try:
        check(name, revision)
    except HfUnlearnError as error:
        print(type(error).__name__, error)
"""
    lines = client(hub, tmp_path, code).stdout.splitlines()
    assert lines[0] == "RequestError there is no model 'owner/none' on the Hub that you can read"
    assert lines[1] == "RequestError owner/tiny has no revision 'v9'"


def test_a_hub_that_cannot_be_reached(hub: Hub, tmp_path: Path) -> None:
    code = """
from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.hub.verified import check
try:
    check("owner/tiny")
except EnvironmentFailure as error:
    print(error)
"""
    done = client(hub, tmp_path, code, HF_HUB_OFFLINE="1")
    assert done.stdout.startswith("owner/tiny is no folder here and could not be fetched from the Hub: "), done.stderr
