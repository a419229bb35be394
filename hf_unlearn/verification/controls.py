"""The verifier's own test: models of which it is known beforehand what the verdict must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .typed_json import Stated
from .values import Status
from .verdict import Judgement


@dataclass(frozen=True)
class ControlOutcome:
    """What the verdict made of a control: a row of the report.

    Attributes:
        name: The control.
        expected: What the verdict must be.
        status: What it was.
        caught_by: Transforms under which forgotten knowledge was found.
        required_by: Transforms that must be among them.
        ok: Whether it came out as it must.
    """

    name: str
    expected: Stated[Literal["passed", "failed"]]
    status: Stated[Status]
    caught_by: tuple[str, ...]
    required_by: tuple[str, ...]
    ok: Stated[bool]


def control_outcome(
    judgement: Judgement, expected: Literal["passed", "failed"], required_by: Sequence[str] = ()
) -> ControlOutcome:
    """Compare a judgement with what it must be.

    A positive control (``expected="failed"``) counts as caught only if forgotten knowledge was found: a model that
    failed for its lost utility alone was not caught hiding anything.

    Args:
        judgement: The judgement on the control.
        expected: What the verdict must be.
        required_by: Transforms that must have caught it; only for positive controls.

    Returns:
        The outcome.

    Raises:
        ValueError: ``required_by`` was given for a control that must pass.
    """
    if expected == "passed" and required_by:
        raise ValueError("a control that must pass cannot be required to be caught")
    caught = bool(judgement.caught_by) and set(required_by) <= set(judgement.caught_by)
    ok = judgement.status == expected and (expected == "passed" or caught)
    return ControlOutcome(judgement.subject, expected, judgement.status, judgement.caught_by, tuple(required_by), ok)


def all_as_expected(outcomes: Sequence[ControlOutcome]) -> bool:
    """Whether every control came out as it must."""
    return all(outcome.ok for outcome in outcomes)
