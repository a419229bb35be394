"""What every format shares: checking the source, writing to a fresh folder, proving the result by re-loading it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..errors import EnvironmentFailure, MissingExtraError, RequestError
from ..evaluation.loading import hidden_library_bars, load_model, quiet_backends, run_device

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
_PROBE_ROWS, _PROBE_LENGTH = 4, 16


@dataclass(frozen=True)
class ExportInfo:
    """What an export wrote.

    Attributes:
        format: Name of the format.
        bits: Bits per quantized weight, scales left out.
        group_size: Weights that share a scale; ``None`` where a whole row does, or nothing is scaled.
        library: The library that wrote it.
        version: That library's version.
        bytes: Size of the weight files.
        quantized_share: Share of the parameters that are stored in ``bits``; the rest keep the source's type.
        reload_error: ``||a - b|| / ||b||`` with ``a`` the logits of the re-loaded folder and ``b`` those of the
            de-quantized weights, both in float32 activations, on a fixed input.
        tolerance: The greatest ``reload_error`` this format allows.
    """

    format: str
    bits: int
    group_size: int | None
    library: str
    version: str
    bytes: int
    quantized_share: float
    reload_error: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Written:
    """What :meth:`Format.write` knows that the check needs.

    Attributes:
        logits: Float32 logits ``[rows, length, vocabulary]`` of the de-quantized weights on the fixed input.
        quantized_share: Share of the parameters that were quantized.
    """

    logits: torch.Tensor
    quantized_share: float


class Format(ABC):
    """One storage format.

    Attributes:
        name: Its name in the registry.
        bits: Bits per quantized weight.
        group_size: Weights that share a scale, or ``None``.
        package: Distribution that provides it, as pip knows it.
        extra: The extra of this project that installs ``package``.
        tolerance: Greatest relative logit error between the re-loaded folder and the de-quantized weights. It
            allows for what the format's kernels do to activations, not for wrong weights.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    group_size: ClassVar[int | None] = None
    package: ClassVar[str]
    extra: ClassVar[str] = "quantization"
    tolerance: ClassVar[float]

    def check_available(self) -> None:
        """Raise :class:`MissingExtraError` if the format's library is not installed."""
        self._version()

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027 (most formats take any model)
        """Raise :class:`RequestError` for a model that this format cannot be made from.

        Args:
            model: Only shapes and names are looked at; it may be on the ``meta`` device.
        """

    def export(self, source: Path, target: Path) -> ExportInfo:
        """Write ``source`` to ``target`` in this format and check it.

        Args, result and errors are those of :func:`hf_unlearn.quantization.export_format`.
        """
        version = self._version()
        check_source(source)
        quiet_backends()
        with fresh_folder(target):
            with hidden_library_bars():
                written = self.write(source, target)
            copy_tokenizer(source, target)
            error = reload_error(target, written.logits)
            if not error <= self.tolerance:
                raise EnvironmentFailure(
                    f"{self.name} made with {self.package} {version} does not load as the weights that were written "
                    f"(relative logit error {error:.3g}, at most {self.tolerance:g} is allowed): nothing was kept"
                )
            return ExportInfo(
                format=self.name,
                bits=self.bits,
                group_size=self.group_size,
                library=self.package,
                version=version,
                bytes=sum(file.stat().st_size for file in target.glob("*.safetensors")),
                quantized_share=written.quantized_share,
                reload_error=error,
                tolerance=self.tolerance,
            )

    @abstractmethod
    def write(self, source: Path, target: Path) -> Written:
        """Save the model in this format to the existing, empty folder ``target``."""

    def _version(self) -> str:
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtraError(f"format {self.name}", self.package, self.extra) from None


def check_source(source: Path) -> None:
    """Refuse a folder that is not a plain model: :class:`RequestError`."""
    config_file = source / "config.json"
    if not config_file.is_file():
        raise RequestError(f"{source} has no config.json: a format is made from a folder written by save_pretrained")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RequestError(f"{config_file} is not JSON: {error}") from error
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise RequestError(
            f"{source} is already quantized ({method}): formats are made from the full-precision model only"
        )


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[None]:
    """Make ``target`` for the block, and remove it again if the block fails in any way."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(f"{target} is there already: an export writes to a new folder")
    target.mkdir(parents=True, exist_ok=True)
    complete = False
    try:
        yield
        complete = True
    finally:
        if not complete:
            shutil.rmtree(target, ignore_errors=True)


def head_name(model: PreTrainedModel) -> str | None:
    """Module name of the output head, which every format leaves as it is."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer and chat template files byte by byte."""
    for pattern in _TOKENIZER_FILES:
        for item in source.glob(pattern):
            if item.is_dir():
                shutil.copytree(item, target / item.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(item, target / item.name)


def probe_logits(model: PreTrainedModel) -> torch.Tensor:
    """Float32 logits ``[rows, length, vocabulary]`` on a fixed pseudo-random input, on the CPU."""
    config = model.config.get_text_config()
    length = min(_PROBE_LENGTH, getattr(config, "max_position_embeddings", None) or _PROBE_LENGTH)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (_PROBE_ROWS, length), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()


def reload_error(target: Path, expected: torch.Tensor) -> float:
    """Load ``target`` as users will and return ``||logits - expected|| / ||expected||`` (infinite if undefined)."""
    if not expected.isfinite().all():
        raise RequestError("the source model gives logits that are not finite: there is nothing to export")
    logits = probe_logits(load_model(target, device=run_device()))
    error = ((logits - expected).norm() / expected.norm()).item()
    return error if error == error else float("inf")
