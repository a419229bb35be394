"""What can go wrong at a request, on demand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .hub import Hub

Cut = Literal["upload", "download", "answer"]


@dataclass
class Fault:
    """Something goes wrong at matching requests.

    Attributes:
        where: Regular expression, searched in ``"METHOD /path"``.
        status: Answer with this status instead of doing anything.
        message: What the answer says.
        code: The answer's ``X-Error-Code``.
        retry_after: The answer's ``Retry-After`` in seconds.
        cut: The connection ends: in the middle of the request's body (nothing is done), in the middle of the answer's
            body, or after all was done and before the answer (``answer``).
        before: Called first; without ``status`` and ``cut`` the request is then handled as ever.
        echo: The answer repeats the client's ``Authorization`` header, as a careless server or proxy would.
        text: The answer is not JSON but this, as from a proxy.
        times: How often.
        skip: How many matching requests go well first.
        met: How often it has happened.
    """

    where: str
    status: int | None = None
    message: str = ""
    code: str | None = None
    retry_after: int | None = None
    cut: Cut | None = None
    before: Callable[[Hub], object] | None = None
    echo: bool = False
    text: str | None = None
    times: float = 1
    skip: int = 0
    met: int = 0
    seen: int = field(default=0, repr=False)

    def strikes(self, line: str) -> bool:
        """Whether it happens at this request."""
        if re.search(self.where, line) is None or self.met >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.skip:
            return False
        self.met += 1
        return True

    def answer(self, authorization: str | None) -> tuple[int, dict[str, str], str]:
        """Status, headers and message of the answer."""
        assert self.status is not None
        message = self.message or _MESSAGES.get(self.status, "Something went wrong")
        if self.echo:
            message += f" (your request had Authorization: {authorization})"
        extra = {"X-Error-Message": message}
        if self.code:
            extra["X-Error-Code"] = self.code
        if self.retry_after is not None:
            extra["Retry-After"] = str(self.retry_after)
        return self.status, extra, message


_MESSAGES = {
    401: "Invalid credentials in Authorization header",
    403: "You don't have the required permissions",
    412: "A commit has happened since. Please refresh and try again.",
    429: "We had to rate limit you",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
}
