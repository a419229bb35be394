"""Reading: who am I, models, trees, files."""

from __future__ import annotations

from urllib.parse import parse_qs

import yaml

from .handler import Answer, Handler, Refused
from .repo import Repo
from .routes import DATE, REPO, REVISION, commit_of, may_write, readable, route, visible


@route("GET", "/api/whoami-v2")
def whoami(handler: Handler) -> Answer:
    """The user, their organizations, and what the token is good for."""
    token = handler.token()
    if token is None:
        raise Refused(401, "Invalid username or password.")
    access: dict[str, object] = {"displayName": "test", "role": token.role, "createdAt": DATE}
    if token.role == "fineGrained":
        kinds = {name: ("model" if "/" in name else "user" if name == token.user else "org") for name in token.scoped}
        scoped = [
            {"entity": {"_id": "0" * 24, "type": kinds[name], "name": name}, "permissions": list(permissions)}
            for name, permissions in token.scoped.items()
        ]
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in token.orgs.items()]
    return Answer(
        data={
            "type": "user",
            "id": "0" * 24,
            "name": token.user,
            "fullname": token.user,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


@route("POST", "/api/validate-yaml")
def validate_yaml(handler: Handler) -> Answer:
    """Card validation by the rules that the Hub documents for these keys."""
    content = handler.json()["content"]
    front = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
    handler.hub.validated.append(content)
    errors = []
    if not isinstance(front.get("license", ""), str):
        errors.append({"message": '"license" must be a string'})
    if front.get("base_model_relation", "finetune") not in ("finetune", "quantized", "adapter", "merge"):
        errors.append({"message": '"base_model_relation" must be one of [adapter, merge, quantized, finetune]'})
    bases = front.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if base.count("/") > 1 or base.startswith(("/", ".")):
            errors.append({"message": f'"base_model" with value "{base}" is not valid.'})
    for model in front.get("model-index", []):
        if not model.get("name") or not all(
            result.get("task", {}).get("type")
            and result.get("dataset", {}).get("name")
            and all(metric.get("type") and metric.get("value") is not None for metric in result.get("metrics", [{}]))
            for result in model.get("results", [])
        ):
            errors.append({"message": '"model-index" is not valid'})
    warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
    return Answer(400 if errors else 200, {"errors": errors, "warnings": warnings})


@route("GET", f"/api/models/{REPO}")
@route("GET", f"/api/models/{REPO}/revision/{REVISION}")
def model_info(handler: Handler, repo: str, revision: str = "main") -> Answer:
    """What there is to know of a model."""
    found = visible(handler, repo)
    commit = commit_of(found, revision)
    siblings = [
        {"rfilename": path, "size": file.size, "blobId": file.blob_id} for path, file in found.served(commit).items()
    ]
    card = commit.files.get("README.md")
    data: dict[str, object] = {
        "_id": "0" * 24,
        "id": repo,
        "modelId": repo,
        "author": repo.split("/")[0],
        "sha": commit.sha,
        "private": found.private,
        "gated": found.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": DATE,
        "lastModified": DATE,
        "siblings": siblings,
    }
    if card is not None and isinstance(card.content, bytes) and card.content.startswith(b"---\n"):
        data["cardData"] = yaml.safe_load(card.content.split(b"---\n")[1])
        data["tags"] = (data["cardData"] or {}).get("tags", [])
    return Answer(data=data)


@route("GET", f"/api/models/{REPO}/auth-check")
def auth_check(handler: Handler, repo: str) -> Answer:
    """May I read?"""
    readable(handler, repo)
    return Answer()


@route("GET", f"/api/models/{REPO}/auth-check/write")
def auth_check_write(handler: Handler, repo: str) -> Answer:
    """May I write?"""
    visible(handler, repo)
    may_write(handler, repo)
    return Answer()


@route("GET", f"/api/models/{REPO}/refs")
def refs(handler: Handler, repo: str) -> Answer:
    """Branches and tags."""
    found = visible(handler, repo)

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return Answer(
        data={"branches": listed("heads", found.branches), "converts": [], "tags": listed("tags", found.tags)}
    )


@route("GET", f"/api/models/{REPO}/commits/{REVISION}")
def commits(handler: Handler, repo: str, revision: str) -> Answer:
    """History, newest first."""
    found = visible(handler, repo)
    listed = []
    sha: str | None = commit_of(found, revision).sha
    while sha is not None:
        commit = found.commits[sha]
        listed.append({"id": sha, "title": commit.title, "message": "", "date": DATE, "authors": [{"user": "owner"}]})
        sha = commit.parent
    return Answer(data=listed)


@route("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?")
def tree(handler: Handler, repo: str, revision: str, folder: str = "") -> Answer:
    """Files of a folder; with ``recursive`` those of its sub-folders too."""
    found = readable(handler, repo)
    commit = commit_of(found, revision)
    start = f"{folder.rstrip('/')}/" if folder else ""
    recursive = handler.query.get("recursive", ["false"])[0].lower() == "true"
    entries: dict[str, dict[str, object]] = {}
    for path, file in found.served(commit).items():
        if not path.startswith(start):
            continue
        parts = path[len(start) :].split("/")
        if recursive or len(parts) > 1:
            for depth in range(1, len(parts) if recursive else 2):
                name = start + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        if recursive or len(parts) == 1:
            entries[path] = file.listed(path)
    if folder and not entries:
        raise missing(commit.sha, folder)
    return Answer(data=[entries[path] for path in sorted(entries)])


@route("POST", f"/api/models/{REPO}/paths-info/{REVISION}")
def paths_info(handler: Handler, repo: str, revision: str) -> Answer:
    """The same for some paths; those that are not there are left out."""
    found = readable(handler, repo)
    files = found.served(commit_of(found, revision))
    wanted = parse_qs(handler.body.decode()).get("paths", [])
    return Answer(data=[files[path].listed(path) for path in wanted if path in files])


@route("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)")
def resolve(handler: Handler, repo: str, revision: str, path: str) -> Answer:
    """A file."""
    found: Repo = readable(handler, repo)
    commit = commit_of(found, revision)
    file = found.served(commit).get(path)
    if file is None:
        raise missing(commit.sha, path)
    headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit.sha, "Content-Type": "application/octet-stream"}
    if file.sha256:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Answer(headers=headers, content=file.content)


def missing(sha: str, path: str) -> Refused:
    """A file or folder that is not there, though its repository is."""
    refused = Refused(404, f"Entry not found: {path}", "EntryNotFound")
    refused.answer.headers["X-Repo-Commit"] = sha
    return refused
