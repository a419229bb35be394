"""Suites: YAML files that say which rows are scored, how they are asked, and what is measured."""

from .loading import builtin_suites, find_suite, load_suite
from .run import Request, evaluate_suite
from .spec import HarnessSpec, Shots, Suite, SuiteSet

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
