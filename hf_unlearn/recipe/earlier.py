"""Deletion requests that were granted before: what they asked for, and which model knew it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.sources import Source
from ..errors import RequestError


@dataclass(frozen=True)
class EarlierSpec:
    """An earlier deletion request of the same model.

    Attributes:
        id: Name of the request. It is published in report and card, and names a folder.
        forget: Where its forget set comes from: the rows that were forgotten then. With ``known`` its own target is
            asked again, not the target of this run.
        target: The model that knew these facts, from before that request (Hub id or folder). Left out, it is the
            target that the request's report names on the Hub.
        target_revision: Its revision on the Hub.
        never_knew: A model that was trained without these facts (Hub id or folder). Without it the holdout set is the
            floor.
        never_knew_revision: Its revision on the Hub.
        report: The report of that request: a file, the folder of the run, a published folder, or a Hub id. Rows and
            target are compared with it.
        date: Date of the request, as it is published; the day of its report if left out.
    """

    id: str
    forget: Source
    target: str | None = None
    target_revision: str | None = None
    never_knew: str | None = None
    never_knew_revision: str | None = None
    report: str | None = None
    date: str = ""

    def __post_init__(self) -> None:
        if self.target is None and self.report is None:
            raise RequestError(
                f"the earlier request {self.id} names neither target nor report: name the model that knew its facts"
            )
        for key in ("target", "never_knew"):
            if getattr(self, f"{key}_revision") is not None and getattr(self, key) is None:
                raise RequestError(f"{key}_revision is given without {key}: remove it or set {key}")

    @property
    def key(self) -> str:
        """How messages name it."""
        return f"data.earlier ({self.id})"


def check_ids(requests: Sequence[EarlierSpec]) -> None:
    """Refuse two requests of one name: :class:`RequestError`."""
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise RequestError(f"data.earlier names the request {request.id!r} twice: give each its own id")
        seen.add(request.id)
