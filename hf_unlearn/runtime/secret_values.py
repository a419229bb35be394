"""Recipes, suites and requests hold no secrets: they are copied into results, the report, the page and the card."""

from __future__ import annotations

from ..errors import RequestError
from .secrets import looks_secret, takes_secret
from .strict_yaml import Located

_INSTEAD = (
    "it would be written next to the results and published with a model, so there must be none: log in with "
    "`hf auth login`, or set the environment variable that the service reads (HF_TOKEN for the Hub)"
)


def check_secrets(tree: Located, key: str = "") -> None:
    """Refuse a value that stands where a secret goes or looks like one. The message does not hold it.

    Raises:
        RequestError: With file, line and key.
    """
    items = tree.value if isinstance(tree.value, dict) else {}
    if isinstance(tree.value, list):
        items = {str(index): item for index, item in enumerate(tree.value)}
    for name, item in items.items():
        path = f"{key}.{name}" if key else name
        # true, false and null say whether the login of this machine is used.
        held = takes_secret(name) and (isinstance(item.value, str) or _is_long_number(item.value))
        if held or looks_secret(item.value) or looks_secret(name):
            shown = "a key" if looks_secret(name) else path
            raise RequestError(f"{_place(item.where)}: {shown} holds a secret: {_INSTEAD}")
        check_secrets(item, path)


def _is_long_number(value: object) -> bool:
    """A password of digits. A short number counts pieces of text (``max_new_token``, a slip of the pen)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1e6


def _place(where: str) -> str:
    """Where it stands; of an override without its value."""
    return "command line" if where.startswith("command line") else where
