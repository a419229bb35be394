"""Writing: repositories, uploads, commits, branches, tags, settings."""

from __future__ import annotations

import base64
import hashlib
import json

from .handler import Answer, Handler, Refused
from .repo import Repo, StaleParent, is_large, large_file, make_file, size_of
from .routes import REPO, REVISION, commit_of, may_write, route, writable

OID = r"(?P<oid>[0-9a-f]{64})"


@route("POST", "/api/repos/create")
def create(handler: Handler) -> Answer:
    """A new repository."""
    body = handler.json()
    token = handler.token()
    repo_id = f"{body.get('organization') or (token.user if token else '')}/{body['name']}"
    may_write(handler, repo_id)
    answer = {"url": f"{handler.hub.url}/{repo_id}", "name": repo_id, "id": "0" * 24}
    with handler.hub.lock:
        if repo_id in handler.hub.repos:
            raise Refused(409, "You already created this model repo", **answer)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        handler.hub.repos[repo_id] = Repo(repo_id, private)
    return Answer(data=answer)


@route("DELETE", "/api/repos/delete")
def delete(handler: Handler) -> Answer:
    """Gone."""
    body = handler.json()
    repo_id = f"{body.get('organization') or 'owner'}/{body['name']}"
    writable(handler, repo_id)
    del handler.hub.repos[repo_id]
    return Answer()


@route("PUT", f"/api/models/{REPO}/settings")
def settings(handler: Handler, repo: str) -> Answer:
    """Visibility and gate."""
    found, body = writable(handler, repo), handler.json()
    if "visibility" in body or "private" in body:
        found.private = body.get("visibility", "private" if body.get("private") else "public") == "private"
    if "gated" in body:
        found.gated = body["gated"]
    return Answer(data={"private": found.private, "gated": found.gated})


@route("POST", f"/api/models/{REPO}/preupload/{REVISION}")
def preupload(handler: Handler, repo: str, revision: str) -> Answer:
    """Which files go where, and what is there already."""
    found = writable(handler, repo)
    there = commit_of(found, revision).files
    answers = []
    for item in handler.json()["files"]:
        path, old = item["path"], there.get(item["path"])
        large = is_large(path, base64.b64decode(item.get("sample", "")), item["size"])
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": None if old is None else old.etag,
            }
        )
    return Answer(data={"files": answers, "commitOid": commit_of(found, revision).sha})


@route("POST", r"/(?P<repo>[^/]+/[^/]+?)\.git/info/lfs/objects/batch")
def batch(handler: Handler, repo: str) -> Answer:
    """Where to put each large file; nothing is said of those that are there."""
    found, hub = writable(handler, repo), handler.hub
    objects = []
    new = {item["oid"]: item["size"] for item in handler.json()["objects"] if item["oid"] not in found.large}
    if hub.quota is not None and hub.stored() + sum(new.values()) > hub.quota:
        raise Refused(
            403, "Private repository storage limit reached, please upgrade your plan to increase your private storage"
        )
    for item in handler.json()["objects"]:
        oid, size = item["oid"], item["size"]
        listed: dict[str, object] = {"oid": oid, "size": size}
        if oid in new:
            listed["actions"] = {
                "upload": _upload(handler, repo, oid, size),
                "verify": {"href": f"{hub.url}/lfs/{repo}/verify"},
            }
        objects.append(listed)
    return Answer(data={"transfer": "basic", "objects": objects})


def _upload(handler: Handler, repo: str, oid: str, size: int) -> dict[str, object]:
    hub = handler.hub
    if hub.part_size is None or size <= hub.part_size:
        return {"href": f"{hub.url}/lfs/{repo}/{oid}"}
    count = -(-size // hub.part_size)
    hub.parts[oid] = {}
    header = {str(number): f"{hub.url}/lfs/{repo}/{oid}/part/{number}" for number in range(1, count + 1)}
    return {
        "href": f"{hub.url}/lfs/{repo}/{oid}/complete",
        "header": {"chunk_size": str(hub.part_size), **header},
    }


@route("PUT", f"/lfs/{REPO}/{OID}")
def put(handler: Handler, repo: str, oid: str) -> Answer:
    """A large file in one piece (the address itself is the right to use it, as in cloud storage)."""
    return _store(handler, repo, oid, handler.body)


@route("PUT", rf"/lfs/{REPO}/{OID}/part/(?P<number>\d+)")
def put_part(handler: Handler, repo: str, oid: str, number: str) -> Answer:
    """A part of a large file."""
    handler.hub.parts[oid][int(number)] = handler.body
    return Answer(headers={"ETag": f'"{hashlib.md5(handler.body).hexdigest()}"'})


@route("POST", f"/lfs/{REPO}/{OID}/complete")
def complete(handler: Handler, repo: str, oid: str) -> Answer:
    """All parts are there."""
    parts = handler.hub.parts.pop(oid)
    wanted = [part["partNumber"] for part in handler.json()["parts"]]
    return _store(handler, repo, oid, b"".join(parts[number] for number in wanted))


def _store(handler: Handler, repo: str, oid: str, data: bytes) -> Answer:
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "The content does not have the announced sha256")
    handler.hub.repos[repo].large[oid] = data
    return Answer(headers={"ETag": f'"{oid}"'})


@route("POST", f"/lfs/{REPO}/verify")
def verify(handler: Handler, repo: str) -> Answer:
    """Did it arrive?"""
    found, body = writable(handler, repo), handler.json()
    content = found.large.get(body["oid"])
    if content is None or size_of(content) != body["size"]:
        raise Refused(404, "The uploaded file is not there")
    return Answer()


@route("POST", f"/api/models/{REPO}/commit/{REVISION}")
def commit(handler: Handler, repo: str, revision: str) -> Answer:
    """One commit, all or nothing."""
    found, hub = writable(handler, repo), handler.hub
    header: dict = {}
    added, deleted, folders = {}, [], []
    for line in handler.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            data = base64.b64decode(value["content"])
            added[value["path"]] = make_file(value["path"], data)
        elif key == "lfsFile":
            content = found.large.get(value["oid"])
            if content is None:
                raise Refused(400, "LFS pointer pointed to a file that does not exist")
            added[value["path"]] = large_file(content, value["oid"], size_of(content))
        else:
            (deleted if key == "deletedFile" else folders).append(value["path"])
    with hub.lock:
        if revision not in found.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        try:
            sha = found.commit(revision, header.get("parentCommit"), header["summary"], added, deleted, folders)
        except StaleParent:
            raise Refused(412, "A commit has happened since. Please refresh and try again.") from None
        except KeyError as error:
            raise Refused(404, f"A file with this name doesn't exist: {error.args[0]}", "EntryNotFound") from None
    return Answer(
        data={"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{repo}/commit/{sha}", "hookOutput": ""}
    )


@route("POST", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)")
def branch(handler: Handler, repo: str, branch: str) -> Answer:
    """A new branch."""
    found = writable(handler, repo)
    if branch in found.branches:
        raise Refused(409, "Reference already exists")
    found.branches[branch] = commit_of(found, handler.json().get("startingPoint", "main")).sha
    return Answer(201)


@route("DELETE", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)")
def delete_branch(handler: Handler, repo: str, branch: str) -> Answer:
    """A branch less."""
    del writable(handler, repo).branches[branch]
    return Answer()


@route("POST", f"/api/models/{REPO}/tag/{REVISION}")
def tag(handler: Handler, repo: str, revision: str) -> Answer:
    """A new tag."""
    found, name = writable(handler, repo), handler.json()["tag"]
    if name in found.tags:
        raise Refused(409, "Reference already exists")
    found.tags[name] = commit_of(found, revision).sha
    return Answer(201)


@route("DELETE", f"/api/models/{REPO}/tag/(?P<name>[^/]+)")
def delete_tag(handler: Handler, repo: str, name: str) -> Answer:
    """A tag less."""
    found = writable(handler, repo)
    if name not in found.tags:
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
    del found.tags[name]
    return Answer()
