"""Make a Hugging Face language model forget, and prove it on the files you release.

The heavy parts (torch, transformers) are imported when a name is first used. Every registered loss is a public name:
that of its class.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import EnvironmentFailure as EnvironmentFailure
from .errors import HfUnlearnError as HfUnlearnError
from .errors import MissingExtraError as MissingExtraError
from .errors import RequestError as RequestError
from .errors import VerificationError as VerificationError
from .runtime.log_filters import drop_harmless_lines

if TYPE_CHECKING:
    from .hub.verified import VerifiedModel as VerifiedModel
    from .hub.verified import load_report as load_report
    from .pipeline import audit as audit
    from .pipeline import forget as forget
    from .pipeline import plan as plan
    from .trainer.config import UnlearnConfig as UnlearnConfig
    from .trainer.unlearn_trainer import UnlearnTrainer as UnlearnTrainer

from .version import __version__ as __version__

_ERRORS = ("EnvironmentFailure", "HfUnlearnError", "MissingExtraError", "RequestError", "VerificationError")
_LAZY = {
    "audit": ".pipeline",
    "forget": ".pipeline",
    "plan": ".pipeline",
    "UnlearnConfig": ".trainer.config",
    "UnlearnTrainer": ".trainer.unlearn_trainer",
    "VerifiedModel": ".hub.verified",
    "load_report": ".hub.verified",
}


def _losses() -> dict[str, type]:
    """Every registered loss class by its name. Imports torch."""
    from .losses import FORGET_LOSSES, RETAIN_LOSSES

    return {entry.value.__name__: entry.value for each in (FORGET_LOSSES, RETAIN_LOSSES) for entry in each.entries()}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        drop_harmless_lines()  # before the libraries below are imported, which is when they say them
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    if name == "__all__":
        return sorted([*_ERRORS, *_LAZY, *_losses(), "__version__"])
    # All loss classes end like this: other names are refused without loading anything.
    if name.endswith("Loss") and name in (losses := _losses()):
        return losses[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))
