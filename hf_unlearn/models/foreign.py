"""Model folders that are no whole models of ``transformers``: adapters, and those that ask for code from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

from ..errors import RequestError
from .sizes import refuse_sizes

ADAPTER_FILE = "adapter_config.json"


UNUSABLE_CONFIG = (
    *(OSError, ValueError, TypeError, AssertionError, KeyError, AttributeError, ZeroDivisionError),
    StrictDataclassError,
)
"""What transformers raises on a configuration that is broken, or whose sizes are missing, of another type or 0."""


def refuse_foreign(folder: Path, key: str) -> None:
    """Refuse a folder that cannot be loaded by itself, with the code of ``transformers`` alone, and on this machine.

    Args:
        folder: A model's folder.
        key: What messages call it.

    Raises:
        RequestError: It holds an adapter, or its configuration asks for code from elsewhere or for sizes that nothing
            holds.
    """
    if (folder / ADAPTER_FILE).is_file():
        raise adapter_error(f"{key}: {folder}", folder / ADAPTER_FILE)
    config = read_json(folder / "config.json")
    wanted = foreign_code(config)
    if wanted is not None:
        raise RequestError(
            f"{key}: {folder / 'config.json'} asks for code that is not part of transformers ({wanted}), which is "
            "never run here: use a model whose code is in transformers"
        )
    refuse_sizes(config, f"{key}: {folder / 'config.json'}")


def refuse_other_kinds(model: Any, key: str, revision: str | None = None) -> None:
    """Refuse models that do not continue a text from left to right, by the name of their kind.

    Args:
        model: A model, or a folder or Hub id, of which only the configuration is read; ``None`` for none. What cannot
            be read is left to the loader.
        key: What messages call it.
        revision: Branch, tag or commit on the Hub.

    Raises:
        RequestError: It is an encoder-decoder or encoder model.
    """
    config = getattr(model, "config", None)
    if isinstance(model, str):
        try:
            config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        except UNUSABLE_CONFIG:
            return
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder model"
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and not (
        getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    ):
        kind = "an encoder model"
    else:
        return
    assert config is not None
    name = model if isinstance(model, str) else type(model).__name__
    raise RequestError(
        f"{key}: {name} is {kind} ({config.model_type}), and unlearning is for models that continue a text "
        "(decoder-only, AutoModelForCausalLM)"
    )


def adapter_error(what: str, file: Path | None) -> RequestError:
    """What to say of an adapter where a whole model is needed.

    Args:
        what: The key and the name.
        file: Its settings, if they are here.
    """
    base = {} if file is None else read_json(file)
    named = f" of {base['base_model_name_or_path']!r}" if base.get("base_model_name_or_path") else ""
    return RequestError(
        f"{what} holds an adapter{named} and not a whole model: merge it into its base first, for instance with "
        "peft.AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(FOLDER), and name "
        "that folder with the base's tokenizer in it"
    )


def foreign_code(config: Mapping[str, Any]) -> str | None:
    """The key and value of a ``config.json`` by which code from elsewhere would run; ``None`` if there is none."""
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        return f"auto_map, for the model type {config.get('model_type')!r}"
    # A kernel is named by its repository: org/kernel, with what is behind | or : beside it.
    return next((f"{key}: {value}" for key, value in _implementations(config) if "/" in value), None)


def _implementations(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _implementations(value, key if "implementation" in key else str(name))
    elif isinstance(config, str) and key.removesuffix("_internal").endswith("implementation"):
        yield key, config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read, which loading then says better."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
