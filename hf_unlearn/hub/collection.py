"""The collection that ties a model and its variants together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .client import HubClient

# What the Hub takes, in characters.
_TITLE, _DESCRIPTION, _NOTE = 59, 150, 500


@dataclass(frozen=True)
class Tied:
    """A collection.

    Attributes:
        slug: Its address.
        private: Whether only its owner sees it.
    """

    slug: str
    private: bool


def tie_together(client: HubClient, owner: str, title: str, description: str, items: Mapping[str, str]) -> Tied:
    """Make the collection, or find it, and add what is missing.

    A new one is private until :func:`open_collection`.

    Args:
        client: The connection.
        owner: User or organization.
        title: Its title; cut to what the Hub takes.
        description: Its description; cut likewise.
        items: Repository to a note on it, in the order they are to stand in.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    api, doing, title = client.api, f"make the collection of {owner}", _cut(title, _TITLE)

    def find() -> str | None:
        return next((each.slug for each in api.list_collections(owner=owner) if each.title == title), None)

    slug = client.call(doing, find, again=False)
    if slug is not None:
        # A list shows only the first items of each.
        found = client.call(doing, api.get_collection, slug)
    else:
        about = _cut(description, _DESCRIPTION)
        found = client.call(
            doing, api.create_collection, title, namespace=owner, description=about, private=True, exists_ok=True
        )
    there = {item.item_id for item in found.items}
    for repo_id, note in items.items():
        if repo_id not in there:
            doing = f"add {repo_id} to the collection"
            add = api.add_collection_item
            client.call(doing, add, found.slug, repo_id, "model", note=_cut(note, _NOTE), exists_ok=True)
    return Tied(found.slug, found.private)


def open_collection(client: HubClient, slug: str) -> None:
    """Make a collection public.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    client.call("make the collection public", client.api.update_collection_metadata, slug, private=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
