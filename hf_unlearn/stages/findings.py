"""What is found before a run starts: everything at once, not the first thing alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeVar

from ..errors import HfUnlearnError, RequestError, one_error
from ..recipe.places import Places

Level = Literal["refuse", "warn", "note"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing to know before a run starts.

    Attributes:
        level: ``refuse`` ends it before it starts, ``warn`` is likely to be regretted, ``note`` is good to know.
        key: The recipe's key that it is about; empty if it is about none.
        sentence: What was found.
        where: ``file:line`` of the key, if known.
        mend: What to do, where the sentence does not say it.
        error: The error of a refusal.
        section: The key whose check ended with it, where the error knew a closer one.
    """

    level: Level
    key: str
    sentence: str
    where: str | None = None
    mend: str | None = None
    error: HfUnlearnError | None = field(default=None, repr=False, compare=False)
    section: str = field(default="", repr=False, compare=False)

    def line(self) -> str:
        """In one line: where, what, and the mend."""
        where = f"{self.where}: " if self.where and not self.sentence.startswith(self.where) else ""
        return where + self.sentence + (f": {self.mend}" if self.mend else "")

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        names = ("level", "key", "sentence", "where", "mend")
        return {name: getattr(self, name) for name in names}


class Findings:
    """Collects what independent checks find.

    Args:
        places: Where the recipe's keys stand; ``None`` if there is no file.
    """

    def __init__(self, places: Places | None = None) -> None:
        self._places = places
        self._found: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        yield from self._found

    @property
    def refused(self) -> bool:
        """Whether there is a refusal so far."""
        return any(finding.level == "refuse" for finding in self._found)

    def of(self, key: str) -> list[Finding]:
        """Refusals that a check of one key of the recipe ended with."""
        return [finding for finding in self._found if finding.section == key and finding.level == "refuse"]

    def check(self, key: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a check; what it raises for the user is a refusal.

        Args:
            key: The recipe's key that it is about.
            function: The check.
            args: Its arguments.
            kwargs: Its arguments.

        Returns:
            What it returns; ``None`` after a refusal.
        """
        try:
            return function(*args, **kwargs)
        except HfUnlearnError as error:
            self.refuse(key, error)
            return None

    def refuse(self, key: str, error: HfUnlearnError) -> None:
        """Add a refusal, unless the same was found before; an error that knows its key better is placed by that."""
        for each in getattr(error, "errors", (error,)):
            if str(each) not in [finding.sentence for finding in self._found]:
                known = each.key or key
                self._found.append(Finding("refuse", known, str(each), self._where(known), error=each, section=key))

    def add(
        self,
        level: Level,
        key: str,
        sentence: str,
        mend: str | None = None,
        kind: type[HfUnlearnError] = RequestError,
    ) -> None:
        """Add something that is no refusal of a check's; a refusal is an error of this kind."""
        error = kind(sentence + (f": {mend}" if mend else "")) if level == "refuse" else None
        self._found.append(Finding(level, key, sentence, self._where(key), mend, error, key))

    def raise_refusals(self) -> None:
        """Raise the only refusal, or all of them as one error.

        Raises:
            HfUnlearnError: There is one.
        """
        refusals = [finding for finding in self._found if finding.error is not None]
        if len(refusals) == 1 and refusals[0].error is not None:
            raise refusals[0].error
        if refusals:
            raise one_error([_placed(finding) for finding in refusals])

    def _where(self, key: str) -> str | None:
        return self._places.at(key) if self._places and key else None


def _placed(finding: Finding) -> HfUnlearnError:
    """The error with its place, if it is a plain one without."""
    error = finding.error
    assert error is not None  # given with every refusal
    if finding.where is None or type(error) is not RequestError or finding.where in str(error):
        return error
    return RequestError(f"{finding.where}: {error}")
