"""Every name that the package takes from the inside of another library, with the versions it was seen in and why.

These names are in no library's documentation, so any release may move them. They are listed here and nowhere else
(``tests/core/test_compat.py``): to raise a version, look at one file. A name is imported when it is first asked
for, since some of the libraries are optional and all of them are slow to import.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from .errors import EnvironmentFailure

_TRANSFORMERS = ">=5.15,<6"
_GPTQMODEL = ">=7.6,<7.7"


@dataclass(frozen=True)
class Private:
    """A name from the inside of a library.

    Attributes:
        module: The module that has it. A name that is the end of the module's own path means the module.
        versions: Versions of the library in which it exists and does what is expected.
        why: What it is needed for.
    """

    module: str
    versions: str
    why: str

    @property
    def library(self) -> str:
        """Name of the library."""
        return self.module.partition(".")[0]


PRIVATE = {
    "AwqBackend": Private(
        "transformers.utils.quantization_config", _TRANSFORMERS, "to name the AWQ kernel that needs no compiler"
    ),
    "ExpertsInterface": Private(
        "transformers.integrations.moe", _TRANSFORMERS, "to look at experts without weights, whose kernels want values"
    ),
    "HubStrategy": Private(
        "transformers.trainer_utils", _TRANSFORMERS, "the type of a field that UnlearnConfig redeclares"
    ),
    "INTEGRATION_TO_CALLBACK": Private(
        "transformers.integrations.integration_utils", _TRANSFORMERS, "which trackers report_to can name"
    ),
    "PREFIX_CHECKPOINT_DIR": Private("transformers.trainer_utils", _TRANSFORMERS, "how checkpoint folders are named"),
    "PushInProgress": Private(
        "transformers.utils", _TRANSFORMERS, "what Trainer keeps its pushes in, waits for and cancels"
    ),
    "SUPPORTED_MODELS": Private(
        "gptqmodel.models.auto", _GPTQMODEL, "to refuse a model type before hours of quantizing others"
    ),
    "TRAINER_STATE_NAME": Private("transformers.trainer", _TRANSFORMERS, "to tell a checkpoint from a finished model"),
    "TRAINING_ARGS_NAME": Private("transformers.trainer", _TRANSFORMERS, "to remove the pickle that Trainer writes"),
    "TrainOutput": Private("transformers.trainer_utils", _TRANSFORMERS, "what Trainer.train returns"),
    "convert_peft_config_for_transformers": Private(
        "peft.utils.transformers_weight_conversion",
        ">=0.19",
        "which weights peft takes for names that experts have in files only",
    ),
    "deepspeed": Private(
        "transformers.integrations.deepspeed",
        _TRANSFORMERS,
        "from_pretrained shards every model while this module remembers a ZeRO-3 configuration",
    ),
    "get_available_reporting_integrations": Private(
        "transformers.integrations", _TRANSFORMERS, "which trackers are installed, checked before anything is trained"
    ),
    "get_model_conversion_mapping": Private(
        "transformers.conversion_mapping",
        _TRANSFORMERS,
        "whether the weights of a family have other names or shapes in files than in the model",
    ),
    "get_last_checkpoint": Private(
        "transformers.trainer_utils", _TRANSFORMERS, "to resume from the checkpoint that Trainer would take"
    ),
    "loop_processor": Private(
        "gptqmodel.looper.loop_processor", _GPTQMODEL, "it logs every layer into a folder that it has no setting for"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in PRIVATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    entry = PRIVATE[name]
    module = importlib.import_module(entry.module)
    if entry.module.endswith(f".{name}"):
        return module
    try:
        return getattr(module, name)
    except AttributeError:
        raise EnvironmentFailure(
            f"{entry.module} has no {name} in the installed version of {entry.library}: "
            f"pip install '{entry.library}{entry.versions}'"
        ) from None
