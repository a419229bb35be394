"""Suites: YAML files that say which rows are scored, how they are asked, and what is measured.

What runs a suite is loaded when it is first used: recipes name suites, and are checked without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .loading import builtin_suites, find_suite, load_suite
from .spec import HarnessSpec, Shots, Suite, SuiteSet

if TYPE_CHECKING:
    from .run import Request, evaluate_suite

__all__ = [
    "HarnessSpec",
    "Request",
    "Shots",
    "Suite",
    "SuiteSet",
    "builtin_suites",
    "evaluate_suite",
    "find_suite",
    "load_suite",
]


def __getattr__(name: str) -> Any:
    if name not in ("Request", "evaluate_suite"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".run", __name__), name)
