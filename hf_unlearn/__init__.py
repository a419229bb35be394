"""Make a Hugging Face language model forget, and prove it on the files you release.

The heavy parts (torch, transformers) are imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import EnvironmentFailure, HfUnlearnError, MissingExtraError, RequestError, VerificationError

if TYPE_CHECKING:
    from .hub.verified import VerifiedModel, load_report
    from .losses.forget.altpo import AltPOLoss
    from .losses.forget.ce_u import CrossEntropyUnlearningLoss
    from .losses.forget.dpo import DPOLoss
    from .losses.forget.fixed_incorrect import FixedIncorrectLoss
    from .losses.forget.ga import GradientAscentLoss
    from .losses.forget.idk_dpo import IdkDPOLoss
    from .losses.forget.idk_nll import IdkNLLLoss
    from .losses.forget.jensen_shannon import JensenShannonLoss
    from .losses.forget.margin import MarginLoss
    from .losses.forget.margin_to_reference import MarginToReferenceLoss
    from .losses.forget.max_entropy import MaxEntropyLoss
    from .losses.forget.npo import NPOLoss
    from .losses.forget.pdu import PDULoss
    from .losses.forget.random_incorrect import RandomIncorrectLoss
    from .losses.forget.rmu import RMULoss
    from .losses.forget.satimp import SatImpLoss
    from .losses.forget.simnpo import SimNPOLoss
    from .losses.forget.undial import UndialLoss
    from .losses.forget.wga import WeightedGradientAscentLoss
    from .losses.retain.hidden import HiddenRetainLoss
    from .losses.retain.jensen_shannon import JensenShannonRetainLoss
    from .losses.retain.kl import KLRetainLoss
    from .losses.retain.nll import NLLRetainLoss
    from .pipeline import audit
    from .trainer.config import UnlearnConfig
    from .trainer.unlearn_trainer import UnlearnTrainer

_LAZY = {
    "audit": ".pipeline",
    "UnlearnConfig": ".trainer.config",
    "UnlearnTrainer": ".trainer.unlearn_trainer",
    "VerifiedModel": ".hub.verified",
    "load_report": ".hub.verified",
    "GradientAscentLoss": ".losses.forget.ga",
    "NPOLoss": ".losses.forget.npo",
    "CrossEntropyUnlearningLoss": ".losses.forget.ce_u",
    "MaxEntropyLoss": ".losses.forget.max_entropy",
    "SatImpLoss": ".losses.forget.satimp",
    "SimNPOLoss": ".losses.forget.simnpo",
    "WeightedGradientAscentLoss": ".losses.forget.wga",
    "NLLRetainLoss": ".losses.retain.nll",
    "KLRetainLoss": ".losses.retain.kl",
    "JensenShannonRetainLoss": ".losses.retain.jensen_shannon",
    "HiddenRetainLoss": ".losses.retain.hidden",
    "UndialLoss": ".losses.forget.undial",
    "RMULoss": ".losses.forget.rmu",
    "PDULoss": ".losses.forget.pdu",
    "MarginToReferenceLoss": ".losses.forget.margin_to_reference",
    "MarginLoss": ".losses.forget.margin",
    "JensenShannonLoss": ".losses.forget.jensen_shannon",
    "RandomIncorrectLoss": ".losses.forget.random_incorrect",
    "IdkNLLLoss": ".losses.forget.idk_nll",
    "FixedIncorrectLoss": ".losses.forget.fixed_incorrect",
    "IdkDPOLoss": ".losses.forget.idk_dpo",
    "DPOLoss": ".losses.forget.dpo",
    "AltPOLoss": ".losses.forget.altpo",
}

__version__ = "0.4.0"
__all__ = [
    "AltPOLoss",
    "CrossEntropyUnlearningLoss",
    "DPOLoss",
    "EnvironmentFailure",
    "FixedIncorrectLoss",
    "GradientAscentLoss",
    "HfUnlearnError",
    "HiddenRetainLoss",
    "IdkDPOLoss",
    "IdkNLLLoss",
    "JensenShannonLoss",
    "JensenShannonRetainLoss",
    "KLRetainLoss",
    "MarginLoss",
    "MarginToReferenceLoss",
    "MaxEntropyLoss",
    "MissingExtraError",
    "NLLRetainLoss",
    "NPOLoss",
    "PDULoss",
    "RMULoss",
    "RandomIncorrectLoss",
    "RequestError",
    "SatImpLoss",
    "SimNPOLoss",
    "UndialLoss",
    "UnlearnConfig",
    "UnlearnTrainer",
    "VerificationError",
    "VerifiedModel",
    "WeightedGradientAscentLoss",
    "__version__",
    "audit",
    "load_report",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
