"""Model folders: fetched from the Hub, loaded the stock way, read without weights, fingerprinted.

Also GGUF folders, and the tokenizer that is saved with a model.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ..errors import EnvironmentFailure, RequestError, first_line
from ..runtime.log_filters import hidden_library_bars, quiet_backends
from ..verification.digests import hash_files
from . import gptqmodel
from .foreign import ADAPTER_FILE, UNUSABLE_CONFIG, adapter_error, refuse_foreign
from .placement import spread_devices

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates",
)


def run_device() -> torch.device:
    """The device that scoring and export run on: this process's GPU (the first one unless it was set), or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def read_pretrained(folder: Path | str, dtype: torch.dtype | str, **kwargs: Any) -> PreTrainedModel:
    """Stock ``AutoModelForCausalLM.from_pretrained`` in eval mode, without its silent repairs.

    Args:
        folder: A ``save_pretrained`` folder or a Hub id.
        dtype: Type of the weights that are not quantized; ``"auto"`` keeps the stored one.
        kwargs: Passed on.

    Raises:
        RequestError: There is no causal language model, it lacks some of its weights, it is only an adapter, or it
            asks for code from elsewhere.
        EnvironmentFailure: A library that the folder's format needs is missing or broken.
    """
    if not kwargs.get("trust_remote_code"):
        kwargs["trust_remote_code"] = False  # left out, the user is asked on standard input
        _refuse_gguf_path(Path(folder), "the model")
        refuse_foreign(Path(folder), "the model")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **kwargs)
    except (OSError, ValueError, TypeError, AssertionError, SafetensorError) as error:
        if not Path(folder).is_dir() and is_adapter_on_hub(str(folder), kwargs.get("revision")):
            raise adapter_error(str(folder), None) from error
        raise RequestError(f"cannot load a causal language model from {folder}: {first_line(error)}") from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise RequestError(f"{folder} holds weights of other shapes than its config.json says") from error
    except ImportError as error:
        raise EnvironmentFailure(f"cannot load {folder}: {first_line(error)}") from error
    model, info = loaded
    if getattr(model, "_hf_peft_config_loaded", False):
        raise adapter_error(str(folder), None)
    # transformers fills weights it does not find with random numbers: whatever came of those would mean nothing.
    if missing := sorted(info["missing_keys"]):
        rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise RequestError(f"{folder} lacks weights that its config names: {', '.join(missing[:3])}{rest}")
    return model.eval()


def is_adapter_on_hub(name: str, revision: str | None = None) -> bool:
    """Whether a repository that could not be loaded holds an adapter."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, ADAPTER_FILE, revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return False
    return True


def load_model(
    folder: Path | str, dtype: str = "float32", device: torch.device | str | None = None
) -> PreTrainedModel:
    """Load a causal language model for scoring; a quantized folder is loaded in its format.

    Args:
        folder: A ``save_pretrained`` folder, quantized or not, or a Hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``: the type of the weights that are not quantized.
        device: Where to put it; left out, this process's GPU if there is one (all that the process sees if the
            model needs several), else the CPU.

    Returns:
        The model in eval mode, all of its modules ready to be called on their own.

    Raises:
        RequestError: The folder holds no causal language model, or lacks some of its weights.
        EnvironmentFailure: A library that the folder's format needs is missing or broken.
    """
    if dtype not in DTYPES:
        raise RequestError(f"there is no dtype called {dtype!r}: use one of {', '.join(DTYPES)}")
    quiet_backends()
    # Without a GPU everything is on the CPU anyway, and this avoids accelerate's hooks.
    device_map: str | dict[str, torch.device] | None = None
    if torch.cuda.is_available():
        several = spread_devices(folder, dtype) if device is None else None
        device_map = several or {"": torch.device(device or run_device())}
    arguments = {**gptqmodel.loading_arguments(folder), **gguf_arguments(folder)}
    with hidden_library_bars():
        model = read_pretrained(folder, DTYPES[dtype], device_map=device_map, **arguments)
        if quantization_method(model) in gptqmodel.METHODS:
            gptqmodel.run_eagerly(model)
        if quantization_method(model) == "bitsandbytes":
            _cast_unpacked(model, DTYPES[dtype])
        if quantization_method(model) == "compressed-tensors":
            # It unpacks its weights in the first forward of the whole model only, and scoring calls parts of it.
            # Not in inference mode, whose tensors could never be trained (attacks do).
            with torch.no_grad():
                model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    return model


def gguf_file_in(folder: Path | str) -> str | None:
    """Name of the GGUF file with a folder's weights; ``None`` for other folders and for Hub ids.

    Raises:
        RequestError: There are several.
    """
    path = Path(folder)
    files = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else []
    if not files or any(path.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise RequestError(f"{folder} holds several GGUF files ({', '.join(files)}): keep the one to load in a folder")
    return files[0]


def refuse_gguf(folder: Path | str, key: str) -> None:
    """Weights of a GGUF file are rounded: nothing is trained from them, and no format is made of them.

    Raises:
        RequestError: The folder holds its weights in one, or is one.
    """
    _refuse_gguf_path(Path(folder), key)
    file = gguf_file_in(folder)
    if file is not None:
        raise RequestError(
            f"{key}: {folder} holds its weights in a GGUF file ({file}), from which nothing is trained and no other "
            f"format is made: name the full-precision model with its safetensors files, or name the file itself to "
            "have it converted"
        )


def _refuse_gguf_path(path: Path, key: str) -> None:
    """A model is named by its folder: tokenizer and configuration lie next to its weights."""
    if path.suffix.lower() == ".gguf" and path.is_file():
        raise RequestError(
            f"{key}: {path} is a GGUF file and not a model folder: put it into a folder of its own, with the "
            "tokenizer's files and config.json, and name that folder to have it scored; to train, name the "
            "full-precision model"
        )


def gguf_arguments(folder: Path | str) -> dict[str, Any]:
    """Arguments that ``from_pretrained`` needs for a GGUF folder; none for others."""
    file = gguf_file_in(folder)
    return {} if file is None else arguments_for_gguf(folder, file)


def arguments_for_gguf(folder: Path | str, file: str) -> dict[str, Any]:
    """Arguments that ``from_pretrained`` needs for a GGUF file in a folder.

    The folder's own config is used if it is of the same family: the one that transformers derives from the file's
    metadata lacks some settings, such as the rotary scaling of Llama 3.
    """
    try:
        arguments: dict[str, Any] = {"gguf_file": file}
        if (Path(folder) / "config.json").is_file():
            own = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if (
                own.model_type
                == AutoConfig.from_pretrained(folder, gguf_file=file, trust_remote_code=False).model_type
            ):
                arguments["config"] = own
    except ImportError as error:
        raise EnvironmentFailure(f"cannot load {folder}: {first_line(error)}") from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RequestError(f"{Path(folder) / file} is no GGUF file that can be read: {first_line(error)}") from error
    return arguments


def _cast_unpacked(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Next to packed layers transformers leaves some weights in their stored type if a family renames weights."""
    for parameter in model.parameters():
        if parameter.dtype in DTYPES.values():  # packed codes are integers
            parameter.data = parameter.data.to(dtype)


def quantization_method(model: PreTrainedModel) -> str | None:
    """Name of the library format the model is loaded in (``"bitsandbytes"`` ...), ``None`` for plain weights."""
    quantizer = getattr(model, "hf_quantizer", None)
    return None if quantizer is None else str(getattr(quantizer.quantization_config.quant_method, "value", ""))


def fetch(name: str, revision: str | None, key: str, *, weights: bool = True) -> Path:
    """A local folder as it is, or a Hub model downloaded to the cache.

    Args:
        name: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        key: Its name in messages.
        weights: Whether they are downloaded, too; without them shapes and tokenizer can be checked.

    Raises:
        RequestError: Neither a folder with a saved model nor a model on the Hub that can be read.
        EnvironmentFailure: The Hub cannot be reached.
    """
    folder = Path(name)
    _refuse_gguf_path(folder, key)
    if folder.is_dir():
        refuse_foreign(folder, key)
        if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
            raise RequestError(f"{key}: the folder {name} holds no config.json, so it is not a saved model")
        return folder
    patterns = [*(["*.safetensors"] if weights else []), "*.json", "*.jinja", "*.model", "*.txt"]
    found = _download(name, revision, key, patterns)
    refuse_foreign(found, key)
    if not (found / "config.json").exists():
        raise RequestError(
            f"{key}: {name!r} on the Hub holds no config.json, so it is not a saved model: name the repository with "
            "the full-precision safetensors files, or its GGUF file too (model.gguf_file)"
        )
    return found


def check_there(name: str, key: str, loading: Mapping[str, Any]) -> None:
    """Ask once whether there is a model, before transformers asks for each of its files and for each of them again.

    Args:
        name: Folder or Hub id.
        key: Its name in messages.
        loading: Keyword arguments that it is loaded with.

    Raises:
        RequestError: It is neither a folder nor a model on the Hub that can be read.
        EnvironmentFailure: The Hub cannot be reached, and the model is not in the download cache.
    """
    if not Path(name).exists():
        client = {word: loading[word] for word in ("token", "cache_dir", "local_files_only") if word in loading}
        _download(name, loading.get("revision"), key, ["config.json"], **client)


def _download(name: str, revision: str | None, key: str, patterns: list[str], **client: Any) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, **client))
    except HFValidationError:
        raise RequestError(f"{key}: {name!r} is neither a folder here nor a Hub id") from None
    except ValueError as error:  # the client refuses names by which a file would leave its folder
        raise EnvironmentFailure(f"{key}: {name!r} was not fetched from the Hub: {first_line(error)}") from None
    except RepositoryNotFoundError:
        raise RequestError(
            f"{key}: {name!r} is neither a folder here nor a model on the Hub that you can read: check the name, or "
            "log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise RequestError(f"{key}: {name!r} on the Hub has no revision {revision!r}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentFailure(
            f"{key}: {name!r} is not a folder here and the Hub did not give it: {first_line(error)}"
        ) from None


def files_fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a model folder's files, to recognize the model that this process holds already.

    What was written through a memory mapping, or by who sets times back, is not seen. Where results are kept from one
    process to the next, :func:`files_digests` decides.
    """
    if not folder.is_dir():
        return [(str(folder), 0, 0)]
    entries = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.is_file()]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in entries)


def files_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a model folder's files, sub-folders left out.

    Raises:
        EnvironmentFailure: A file cannot be read.
    """
    if not folder.is_dir():
        return {}
    return hash_files(folder, [entry.name for entry in os.scandir(folder) if entry.is_file()])


def empty_model(source: Path) -> PreTrainedModel:
    """The model of a folder without its weights (on the ``meta`` device): shapes and names to check.

    Raises:
        RequestError: The folder's config names no causal language model.
    """
    try:
        return empty_model_of(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except UNUSABLE_CONFIG as error:
        raise RequestError(f"{source} has a config.json that cannot be used: {first_line(error)}") from error


def empty_model_of(config: PretrainedConfig) -> PreTrainedModel:
    """An empty model of a configuration: parameters and buffers are on the ``meta`` device."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def plain_model_of(config: PretrainedConfig) -> PreTrainedModel:
    """A plain float32 model of a configuration, without its quantization, to be filled with weights later.

    Args:
        config: It is not changed.

    Returns:
        The model with its parameters on the ``meta`` device and its buffers in place.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer and chat template files byte by byte."""
    for item in tokenizer_files(source):
        if item.is_dir():
            shutil.copytree(item, target / item.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(item, target / item.name)


def tokenizer_files(folder: Path) -> list[Path]:
    """Tokenizer and chat template files of a folder, and the folder of further templates if there is one."""
    return sorted({item for pattern in _TOKENIZER_FILES for item in folder.glob(pattern)})
