"""Talking to the Hub: bounded retries, errors as one sentence, and no token in any of them.

``huggingface_hub`` retries by itself when it reads listings, asks what to upload, and uploads (five times,
waiting 1 to 8 seconds, or as long as ``Retry-After`` says). It does not when it makes repositories, commits, tags,
collections or settings. Those calls are retried here, by the same rule.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import EnvironmentFailure, RequestError
from ..runtime.secrets import redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

TRIES = 5
LONGEST_WAIT = 330
"""Seconds. The Hub's rate limits count over five minutes; after a longer wait the user does better to come back."""

_PASSING = (408, 429, 500, 502, 503, 504)
_TOKEN_HELP = "make one that may write at https://huggingface.co/settings/tokens and log in with  hf auth login"
_AGAIN = "then run the same command again: it continues where this one stopped"


class HubClient:
    """One user's connection to the Hub that ``HF_ENDPOINT`` names.

    Args:
        token: The token; ``None`` takes it from where ``huggingface_hub`` keeps it.

    Raises:
        RequestError: There is no token.
    """

    def __init__(self, token: str | None = None) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.token = token or get_token()
        if not self.token:
            raise RequestError(
                "there is no token for the Hub: log in with  hf auth login  (a token that may write), or set HF_TOKEN"
            )
        if constants.HF_HUB_OFFLINE:
            raise RequestError("HF_HUB_OFFLINE is set: publishing needs the Hub, so unset it")
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.api: HfApi = HfApi(endpoint=self.endpoint, token=self.token)
        # The files of a commit never change: repository and commit to its files.
        self.listings: dict[tuple[str, str], Any] = {}

    def call(self, doing: str, function: Callable[..., T], *args: Any, again: bool = True, **kwargs: Any) -> T:
        """Call a method of :attr:`api`.

        Args:
            doing: What it does, for the message: ``"make owner/name"``.
            function: The method.
            *args: Its positional arguments.
            again: Whether to retry temporary failures here (``False`` if ``huggingface_hub`` does so itself).
            **kwargs: Its named arguments.

        Returns:
            What it returns.

        Raises:
            EnvironmentFailure: The Hub refused, failed or could not be reached.
        """
        from huggingface_hub.errors import HTTPError

        for number in range(1, TRIES + 1):
            try:
                return function(*args, **kwargs)
            except (HTTPError, OSError, RuntimeError, ValueError) as error:
                wait = wait_before_retry(error, number)
                if not again or number == TRIES or wait is None or wait > LONGEST_WAIT:
                    raise self.failure(doing, error) from None
                time.sleep(wait)
        raise AssertionError("not reached")

    def failure(self, doing: str, error: BaseException) -> EnvironmentFailure:
        """The user's message for an error: at most its first line, without tokens.

        Args:
            doing: What was tried.
            error: The error.
        """
        status = status_of(error)
        said = redact(_first_line(error), self.token)
        told = {
            401: "the Hub does not accept the token (401), it may have expired: log in again (hf auth login)",
            403: f"the token may not do that, or there is no room (403: {said}): check both",
            412: "somebody else has committed there in the meantime (412): check their commit",
            429: "the Hub asks for fewer requests (429): wait some minutes",
        }
        why = told.get(status or 0)
        if why is None:
            kind = f"the Hub answered {status}" if status else "the Hub could not be reached"
            why = f"{kind} ({said}): try again later" if status or is_network(error) else f"{said}: fix that"
        return EnvironmentFailure(f"could not {doing}: {why}, {_AGAIN}")


def check_permissions(client: HubClient, repo_id: str) -> str:
    """Check that the token may make and change this owner's repositories, as far as the Hub shows.

    Asked before anything is uploaded.

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
        raise RequestError(f"the token of {user} may only read: {_TOKEN_HELP}")
    if owner not in roles:
        raise RequestError(f"{user} cannot publish as {owner}: name one of {', '.join(roles)} in --repo-id")
    if roles[owner] == "read":
        raise RequestError(f"{user} may only read in the organization {owner}: ask its owners for write access")
    if token.get("role") == "fineGrained" and not _fine_grained_writes(token, owner, repo_id):
        raise RequestError(f"the fine-grained token of {user} may not write to repositories of {owner}: {_TOKEN_HELP}")
    return user


def _fine_grained_writes(token: Mapping[str, Any], owner: str, repo_id: str) -> bool:
    """Whether one of the token's scopes allows it; ``True`` if the Hub does not say."""
    details = token.get("fineGrained")
    if not isinstance(details, Mapping) or not isinstance(details.get("scoped"), list):
        return True
    return any(
        "repo.write" in (scope.get("permissions") or ())
        and (scope.get("entity") or {}).get("name") in (owner, repo_id)
        for scope in details["scoped"]
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if the Hub has answered at all."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def wait_before_retry(error: BaseException, number: int) -> float | None:
    """Seconds to wait before the next try; ``None`` if a retry is of no use.

    Args:
        error: The error of the last try.
        number: How many tries there were.
    """
    status = status_of(error)
    if status is None:
        # Without an answer it is the network, or something wrong here that will fail again.
        return min(8.0, 2.0 ** (number - 1)) if is_network(error) else None
    if status not in _PASSING:
        return None
    asked = _retry_after(error)
    return min(8.0, 2.0 ** (number - 1)) if asked is None else asked


def is_network(error: BaseException) -> bool:
    """Whether an error means that the connection failed."""
    from huggingface_hub.errors import HTTPError

    # If the Hub should answer in JSON and the answer is not, it comes from something in between.
    kinds = (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)
    return any(isinstance(each, kinds) for each in _causes(error))


def _retry_after(error: BaseException) -> float | None:
    for each in _causes(error):
        response = getattr(each, "response", None)
        value = getattr(response, "headers", {}).get("Retry-After", "") if response is not None else ""
        if value.strip().isdigit():
            return float(value)
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and those it came from, nearest first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _first_line(error: BaseException) -> str:
    """The server's message if there is one, otherwise the first words of the last cause."""
    for each in _causes(error):
        said = getattr(each, "server_message", None)
        if said:
            return _shortened(str(said))
    return _shortened(str(_causes(error)[-1]) or type(error).__name__)


def _shortened(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "no reason given").strip()
    plain = "".join(letter for letter in line if letter.isprintable())
    return plain if len(plain) <= 200 else plain[:199] + "…"


class _Redacting(logging.Filter):
    """Rewrites records before they are written anywhere."""

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self.token = token

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self.token), ()
        if record.exc_info:  # a traceback quotes what the server said
            record.exc_info, record.exc_text = None, None
        return True


@contextmanager
def nothing_leaks(token: str | None) -> Iterator[None]:
    """While this is open, logs of ``huggingface_hub`` are redacted and its warnings are not shown.

    Args:
        token: The token in use.
    """
    filter_ = _Redacting(token)
    library = logging.getLogger("huggingface_hub")
    # Filters of a logger do not see its children's records; those of handlers see all that is written.
    handlers = [*library.handlers, *logging.getLogger().handlers]
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    for handler in handlers:
        handler.addFilter(filter_)
    try:
        with warnings.catch_warnings():
            # Warnings quote what the server thinks of a card, unchecked.
            warnings.filterwarnings("ignore", module=r"huggingface_hub\..*")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(filter_)
