"""Collections."""

from __future__ import annotations

import hashlib
import re

from .handler import Answer, Handler, Refused
from .hub import Collection
from .routes import DATE, may_write, route

SLUG = r"(?P<slug>[^/]+/[^/]+)"
LISTED_ITEMS = 4  # a list of collections shows only the first items of each


def _shown(collection: Collection, most: int | None = None) -> dict[str, object]:
    items = [
        {
            "_id": hashlib.sha1(item.encode()).hexdigest()[:24],
            "id": item,
            "type": "model",
            "position": position,
            **({"note": {"text": note, "html": note}} if note else {}),
        }
        for position, (item, note) in enumerate(collection.items.items())
    ]
    return {
        "slug": collection.slug,
        "title": collection.title,
        "description": collection.description,
        "owner": {"name": collection.owner, "type": "user"},
        "items": items[:most],
        "position": 0,
        "theme": "blue",
        "private": collection.private,
        "upvotes": 0,
        "lastUpdated": DATE,
    }


def _sees(handler: Handler, collection: Collection) -> bool:
    token = handler.token()
    return not collection.private or (token is not None and token.sees(collection.owner))


def _find(handler: Handler, slug: str) -> Collection:
    found = handler.hub.collections.get(slug)
    if found is None or not _sees(handler, found):
        raise Refused(404, "Collection not found")
    return found


@route("GET", "/api/collections")
def listing(handler: Handler) -> Answer:
    """Those of an owner."""
    owners = handler.query.get("owner", [])
    found = [each for each in handler.hub.collections.values() if not owners or each.owner in owners]
    shown = [_shown(each, LISTED_ITEMS) for each in found if _sees(handler, each)]
    return Answer(data=[{key: value for key, value in each.items() if key != "position"} for each in shown])


@route("POST", "/api/collections")
def create(handler: Handler) -> Answer:
    """A new one; a second one with the same title is refused."""
    body = handler.json()
    owner, title = body["namespace"], body["title"]
    may_write(handler, f"{owner}/collection")
    if len(title) >= 60 or len(body.get("description", "")) > 150:
        raise Refused(400, "title or description is too long")
    for each in handler.hub.collections.values():
        if (each.owner, each.title) == (owner, title):
            raise Refused(409, "This collection already exists", slug=each.slug)
    short = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    slug = f"{owner}/{short}-{hashlib.sha1(f'{owner}/{title}'.encode()).hexdigest()[:24]}"
    made = Collection(slug, title, owner, bool(body.get("private")), body.get("description", ""))
    handler.hub.collections[slug] = made
    return Answer(data=_shown(made))


@route("GET", f"/api/collections/{SLUG}")
def get(handler: Handler, slug: str) -> Answer:
    """All of one."""
    return Answer(data=_shown(_find(handler, slug)))


@route("PATCH", f"/api/collections/{SLUG}")
def update(handler: Handler, slug: str) -> Answer:
    """Another title, description or visibility."""
    found, body = _find(handler, slug), handler.json()
    may_write(handler, f"{found.owner}/collection")
    found.title, found.description = body.get("title", found.title), body.get("description", found.description)
    found.private = body.get("private", found.private)
    return Answer(data={"success": True, "data": _shown(found)})


@route("POST", f"/api/collections/{SLUG}/items")
def add_item(handler: Handler, slug: str) -> Answer:
    """One more item."""
    found, body = _find(handler, slug), handler.json()
    may_write(handler, f"{found.owner}/collection")
    item = body["item"]["id"]
    if item not in handler.hub.repos:
        raise Refused(404, f"{item} does not exist")
    if item in found.items:
        raise Refused(409, "This item is already in this collection")
    found.items[item] = body.get("note")
    return Answer(data=_shown(found))


@route("DELETE", f"/api/collections/{SLUG}")
def delete(handler: Handler, slug: str) -> Answer:
    """Gone."""
    found = _find(handler, slug)
    may_write(handler, f"{found.owner}/collection")
    del handler.hub.collections[slug]
    return Answer()
