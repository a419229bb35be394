"""Errors a user can meet, each with the exit code of the command that met it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def printable(text: str, keep: str = "") -> str:
    """A text as a terminal may show it: what would steer the terminal, or hide or turn letters, is spelled out.

    Args:
        text: Names and texts that somebody else chose.
        keep: Characters that are left as they are, such as the end of a line.
    """
    return "".join(
        letter
        if letter in keep or letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


class HfUnlearnError(Exception):
    """Base of all errors that are shown as one sentence instead of a traceback.

    Args:
        message: The sentence, which may quote names that somebody else chose.

    Attributes:
        key: The recipe's key that it is about, if :func:`about` said so; its place is found by it.
    """

    exit_code = 3
    key: str | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


class RequestError(HfUnlearnError):
    """The request is wrong (recipe, data, arguments). The message says which file, line or key, and how to fix it."""

    exit_code = 2


class EnvironmentFailure(HfUnlearnError):
    """The environment failed: memory, disk, network, a broken installation."""

    exit_code = 3


class MissingExtraError(EnvironmentFailure):
    """An optional library is needed and not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}, which is not installed: run  pip install 'hf_unlearn[{extra}]'")
        self._made_of = (what, package, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """Errors are pickled in worker processes, and this one cannot be rebuilt from its message alone."""
        return type(self), self._made_of


class SeveralErrors(RequestError):
    """Several things are in the way, found before anything was started.

    Attributes:
        errors: Each of them. The exit code is that of a wrong request if one of them is.
    """

    def __init__(self, errors: Sequence[HfUnlearnError]) -> None:
        self.errors = tuple(errors)
        lines = "".join(f"\n  {number}. {error}" for number, error in enumerate(self.errors, start=1))
        # Not by the parent class, which would spell out the ends of lines.
        Exception.__init__(self, f"{len(self.errors)} things are in the way, and nothing was started:{lines}")

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """2 if one of them is about the request, or 3."""
        wrong = any(error.exit_code == RequestError.exit_code for error in self.errors)
        return RequestError.exit_code if wrong else EnvironmentFailure.exit_code

    def __reduce__(self) -> tuple[type[SeveralErrors], tuple[tuple[HfUnlearnError, ...]]]:
        """See :class:`MissingExtraError`."""
        return type(self), (self.errors,)


def one_error(errors: Sequence[HfUnlearnError]) -> HfUnlearnError:
    """The only one of some errors as it is, or all of them as one."""
    every = [each for error in errors for each in (error.errors if isinstance(error, SeveralErrors) else (error,))]
    return every[0] if len(every) == 1 else SeveralErrors(every)


@contextmanager
def about(key: str) -> Iterator[None]:
    """Say of errors raised inside which key of the recipe they are about, unless they know it better."""
    try:
        yield
    except HfUnlearnError as error:
        for each in getattr(error, "errors", (error,)):
            each.key = each.key or key
        raise


class Refusals:
    """Collects what independent checks refuse, so that all of it is told at once."""

    def __init__(self) -> None:
        self._found: list[RequestError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep what is refused inside, and go on after the block."""
        try:
            yield
        except RequestError as error:
            self._found.append(error)

    def add(self, message: str) -> None:
        """Refuse something."""
        self._found.append(RequestError(message))

    def raise_any(self) -> None:
        """Raise the only refusal as it is, or all of them as one error.

        Raises:
            RequestError: There is one.
        """
        if self._found:
            raise one_error(self._found)


class VerificationError(HfUnlearnError):
    """A published model is not what was verified, or its verdict is not the required one."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """An error's whole message, in one line."""
    return " ".join(str(error).split())
