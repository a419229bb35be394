"""Whether a token may publish, asked before anything is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from .client import HubClient

_HELP = "make one that may write at https://huggingface.co/settings/tokens and log in with  hf auth login"


def check_rights(client: HubClient, repo_id: str) -> str:
    """May the token make and change this owner's repositories, as far as the Hub tells?

    Args:
        client: The connection.
        repo_id: ``owner/name`` of the main repository.

    Returns:
        Name of the user.

    Raises:
        RequestError: The token may only read, or not write for this owner.
        EnvironmentFailure: The token is not valid (any more), or the Hub cannot be reached.
    """
    who: dict[str, Any] = client.call("ask the Hub who you are", client.api.whoami)
    owner, user = repo_id.split("/")[0], str(who.get("name"))
    roles = {user: "owner", **{org["name"]: org.get("roleInOrg") for org in who.get("orgs") or ()}}
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise RequestError(f"the token of {user} may only read: {_HELP}")
    if owner not in roles:
        raise RequestError(f"{user} cannot publish as {owner}: name one of {', '.join(roles)} in --repo-id")
    if roles[owner] == "read":
        raise RequestError(f"{user} may only read in the organization {owner}: ask its owners for the right to write")
    if token.get("role") == "fineGrained" and not _fine_grained_writes(token, owner, repo_id):
        raise RequestError(f"the fine-grained token of {user} may not write to repositories of {owner}: {_HELP}")
    return user


def _fine_grained_writes(token: Mapping[str, Any], owner: str, repo_id: str) -> bool:
    """Whether one of the token's scopes allows it; ``True`` where the Hub does not say."""
    details = token.get("fineGrained")
    if not isinstance(details, Mapping) or not isinstance(details.get("scoped"), list):
        return True
    return any(
        "repo.write" in (scope.get("permissions") or ())
        and (scope.get("entity") or {}).get("name") in (owner, repo_id)
        for scope in details["scoped"]
    )
