"""What every format shares: checking the source, writing to a fresh folder, proving the result by re-loading it."""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import EnvironmentFailure, RequestError
from ..models.decoder import linear_layers, tower_layers
from ..models.loading import (
    copy_tokenizer,
    empty_model,
    gguf_file_in,
    load_model,
    run_device,
)
from ..models.memory import release_memory
from ..runtime.log_filters import hidden_library_bars, quiet_backends
from .libraries import check_libraries
from .uncalled import uncalled_layers

if TYPE_CHECKING:
    from .calibration import Calibration

_WEIGHT_FILES = ("*.safetensors", "*.gguf")
_PROBE_ROWS, _PROBE_LENGTH = 4, 16


@dataclass(frozen=True)
class ExportInfo:
    """What an export wrote.

    Attributes:
        format: Name of the format.
        bits: Bits per quantized weight, scales left out.
        group_size: Weights that share a scale; ``None`` if a whole row does, or nothing is scaled.
        library: The library that wrote it.
        version: That library's version.
        bytes: Size of the weight files.
        quantized_share: Share of the parameters that are stored in ``bits``; the rest keep the source's type.
        reload_error: ``||a - b|| / ||b||`` with ``a`` the logits of the re-loaded folder and ``b`` those of the
            de-quantized weights, both in float32 activations, on a fixed input.
        tolerance: The greatest ``reload_error`` this format allows.
        calibration: What it was calibrated with (:meth:`hf_unlearn.quantization.calibration.Calibration.record`);
            ``None`` for formats that see no text.
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
    calibration: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Written:
    """What :meth:`Format.write` knows that the check needs.

    Attributes:
        logits: Float32 logits ``[rows, length, vocabulary]`` of the de-quantized weights on the fixed input.
        quantized_share: Share of the parameters that were quantized.
        calibration: What to record of the calibration, for formats that have one.
    """

    logits: torch.Tensor
    quantized_share: float
    calibration: dict[str, Any] | None = None


class Format(ABC):
    """One storage format.

    Attributes:
        name: Its name in the registry.
        bits: Bits per quantized weight.
        group_size: Weights that share a scale, or ``None``.
        package: Distribution that provides it, as pip knows it.
        versions: The versions of it that work, as pip writes them; empty for all.
        companions: Further distributions that are needed to write or to load it.
        extra: The extra of this project that installs ``package``.
        tolerance: Greatest relative logit error between the re-loaded folder and the de-quantized weights. It
            allows for what the format's kernels do to activations, not for wrong weights.
        cpu: Whether a machine without a GPU can make it.
        published: Whether it is a format people download. ``False`` for what is only made to be scored.
        holds_experts: Whether files of mixture-of-experts models load again (with their experts quantized or not).
        packs_layers: Whether layers are replaced by others that hold no plain weight.
        calibrated: Whether :meth:`write` needs calibration text.
        calibration_kind: Which text, where the name says so; ``None`` leaves it to the recipe.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    group_size: ClassVar[int | None] = None
    package: ClassVar[str]
    versions: ClassVar[str] = ""
    companions: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "quantization"
    tolerance: ClassVar[float]
    cpu: ClassVar[bool] = True
    published: ClassVar[bool] = True
    holds_experts: ClassVar[bool] = True
    packs_layers: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    calibration_kind: ClassVar[str | None] = None

    # Set by export for the time of a write.
    calibration: Calibration | None = None

    def check_available(self) -> str:
        """Check the format's libraries.

        Returns:
            The version of ``package``.

        Raises:
            MissingExtraError: One is not installed.
            EnvironmentFailure: It is, in a version that does not work.
        """
        return check_libraries(self.name, self.package, self.versions, self.companions, self.extra)

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a model that this format cannot be made from, before any work.

        Args:
            model: Only shapes and names are looked at; it may be on the ``meta`` device.

        Raises:
            RequestError: Says what does not fit.
        """
        fused = next(fused_experts(model), None)
        if fused is not None and not self.holds_experts:
            raise RequestError(
                f"{self.name} cannot hold the experts of this model ({fused}): transformers does not load them from "
                f"what {self.package} stores; use bf16 or a bitsandbytes format, which leave experts as they are"
            )
        if self.packs_layers and (uncalled := uncalled_layers(model.config)):
            raise RequestError(
                f"{self.name} cannot hold this model: it multiplies by the weight of {uncalled[0]} itself instead of "
                "calling the layer, so that no packed layer can take its place; use bf16 or fp16"
            )
        self.check_model(model)

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027 (most formats take any model)
        """What :meth:`check` finds out for this format alone; raises :class:`RequestError` too.

        Args:
            model: Only shapes and names are looked at; it may be on the ``meta`` device.
        """

    def export(self, source: Path, target: Path, calibration: Calibration | None = None) -> ExportInfo:
        """Write ``source`` to ``target`` in this format and check it.

        Args, result and errors are those of :func:`hf_unlearn.quantization.export_format`.
        """
        version = self.check_available()
        check_source(source)
        if self.calibrated and calibration is None:
            raise RequestError(f"{self.name} is calibrated on text, but none was given: set it")
        self.calibration = calibration
        quiet_backends()
        self.check(empty_model(source))
        with fresh_folder(target):
            with hidden_library_bars():
                written = self.write(source, target)
            # Models hold cycles: without this the one just written would still be there when its copy is loaded.
            release_memory()
            copy_tokenizer(source, target)
            error = self._reload_error(target, written.logits)
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
                bytes=sum(file.stat().st_size for pattern in _WEIGHT_FILES for file in target.glob(pattern)),
                quantized_share=written.quantized_share,
                reload_error=error,
                tolerance=self.tolerance,
                calibration=written.calibration,
            )

    @abstractmethod
    def write(self, source: Path, target: Path) -> Written:
        """Save the model in this format to the existing, empty folder ``target``."""

    def reloaded_logits(self, target: Path) -> torch.Tensor:
        """Logits of a written folder on the fixed input, in float32 activations, loaded as users will.

        Returns:
            ``[rows, length, vocabulary]`` on the CPU.
        """
        return probe_logits(load_model(target, device=run_device()))

    def _reload_error(self, target: Path, expected: torch.Tensor) -> float:
        """``||logits - expected|| / ||expected||`` of the written folder; infinite if undefined."""
        if not expected.isfinite().all():
            raise RequestError("the source model gives logits that are not finite: there is nothing to export")
        error = ((self.reloaded_logits(target) - expected).norm() / expected.norm()).item()
        return error if error == error else float("inf")


def check_source(source: Path) -> None:
    """Refuse a folder that is not a plain model: :class:`RequestError`."""
    config_file = source / "config.json"
    if not config_file.is_file():
        raise RequestError(f"{source} has no config.json: a format is made from a folder written by save_pretrained")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RequestError(f"{config_file} is not JSON: {error}") from error
    if gguf_file_in(source) is not None:
        raise RequestError(
            f"{source} is already quantized (gguf): formats are made from the full-precision model only"
        )
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise RequestError(
            f"{source} is already quantized ({method}): formats are made from the full-precision model only"
        )


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[None]:
    """Make ``target`` for the block, and remove it again if the block fails in any way."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(f"{target} already exists: an export writes to a new folder")
    target.mkdir(parents=True, exist_ok=True)
    complete = False
    try:
        yield
        complete = True
    finally:
        if not complete:
            shutil.rmtree(target, ignore_errors=True)


def fused_experts(model: nn.Module) -> Iterator[str]:
    """Names of weights that are the experts of a layer: ``[experts, out, in]`` in memory, one tensor each in files.

    Not every weight of three dimensions is one: convolutions have such weights too.
    """
    for place, module in model.named_modules():
        if "expert" in f"{place}.{type(module).__name__}".lower():
            yield from (f"{place}.{name}" for name, item in module.named_parameters(recurse=False) if item.ndim == 3)


def head_name(model: PreTrainedModel) -> str | None:
    """Module name of the output head, which every format leaves as it is."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def spared_layers(model: PreTrainedModel) -> list[str]:
    """Names of linear layers that no format touches: the output head, and those of towers for images or sound."""
    head = head_name(model)
    return [*([head] if head else []), *tower_layers(model)]


def body_layers(model: PreTrainedModel, format_name: str) -> dict[str, nn.Linear]:
    """The linear layers besides the output head, by name.

    Raises:
        RequestError: There are none.
    """
    layers = linear_layers(model)
    if not layers:
        raise RequestError(
            f"{model.name_or_path or 'the model'} has no linear layer besides its output head: {format_name} changes "
            "nothing"
        )
    return layers


def check_groups(layers: Mapping[str, nn.Linear], group_size: int, format_name: str) -> None:
    """Refuse layers whose inputs do not divide into whole groups.

    Raises:
        RequestError: Names the layer and its size.
    """
    for name, layer in layers.items():
        if layer.in_features % group_size:
            raise RequestError(
                f"{format_name} needs input sizes in multiples of {group_size}, but {name} has {layer.in_features}: "
                "use a format with a smaller group"
            )


def probe_logits(model: PreTrainedModel) -> torch.Tensor:
    """Float32 logits ``[rows, length, vocabulary]`` on a fixed pseudo-random input, on the CPU."""
    config = model.config.get_text_config()
    length = min(_PROBE_LENGTH, getattr(config, "max_position_embeddings", None) or _PROBE_LENGTH)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (_PROBE_ROWS, length), generator=generator)
    with torch.inference_mode():
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()
