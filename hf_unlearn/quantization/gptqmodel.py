"""GPTQ and AWQ through GPT-QModel: calibrated integer formats, the ones that serve most quantized models on GPUs.

The model is read in bfloat16, as the library does; what is not quantized is stored in it. AWQ also scales
normalization weights, so its files need not equal the source. The files are proven by unpacking their integers with
:mod:`~hf_unlearn.models.packed`, not with the library, and running the model that they make. Re-saving a folder
that transformers has loaded would damage it: it is copied as it was written.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..data.encoding import load_tokenizer
from ..errors import EnvironmentFailure, RequestError
from ..models.decoder import tower_layers
from ..models.gptqmodel import import_quietly, silent
from ..models.loading import empty_model, run_device
from ..models.memory import release_memory
from ..models.packed import Unpack, awq_weight, gptq_weight, packed_layers, plain_model, stored_tensors
from . import FORMATS
from .base import Format, Written, body_layers, check_groups, probe_logits

_BATCH_ROWS = 8
# Below this many parameters the library's own packing would spend longer on compiling itself than on packing.
_SMALL = 50_000_000


class Packed(Format):
    """A format of GPT-QModel.

    Attributes:
        method: The library's name of the algorithm.
        backend: The library's name of the layer it quantizes with; empty for its own choice.
        outputs: Outputs of a layer must be a multiple of this.
        fails_on: Types of models that the library takes and then ends the process on.
    """

    package = "gptqmodel"
    packs_layers = True
    versions = ">=7.6,<7.7"
    extra = "gptq"
    calibrated = True
    # transformers would fill the fused experts with random numbers, and only warn.
    holds_experts = False
    group_size: ClassVar[int]
    method: ClassVar[str]
    backend: ClassVar[str] = ""
    outputs: ClassVar[int] = 32
    fails_on: ClassVar[tuple[str, ...]] = ()

    def check_model(self, model: PreTrainedModel) -> None:
        """Groups must divide the layers, and the library must know the model."""
        layers = body_layers(model, self.name)
        check_groups(layers, self.group_size, self.name)
        for name, layer in layers.items():
            if layer.out_features % self.outputs:
                raise RequestError(
                    f"{self.name} needs output sizes in multiples of {self.outputs}, but {name} has "
                    f"{layer.out_features}: use another format"
                )
        if towers := tower_layers(model):
            raise RequestError(
                f"{self.name} cannot hold this model: its files do not say that {towers[0]}, which reads no text, is "
                "not packed; use a bitsandbytes, torchao or rtn format, which leave such layers as they are"
            )
        import_quietly()
        from .._compat import SUPPORTED_MODELS

        if model.config.model_type in self.fails_on:
            raise RequestError(
                f"{self.name} cannot be made from models of type {model.config.model_type!r}, on which GPT-QModel "
                "fails: use another format"
            )
        if model.config.model_type not in SUPPORTED_MODELS:
            raise RequestError(
                f"{self.name} cannot be made: GPT-QModel knows no models of type {model.config.model_type!r}; use "
                "another format"
            )

    def write(self, source: Path, target: Path) -> Written:
        """Quantize on the calibration text, save, then run the weights that the saved integers represent."""
        assert self.calibration is not None
        empty = empty_model(source)
        layers = body_layers(empty, self.name)
        tokenizer = load_tokenizer(str(source))
        rows = self.calibration.encode(tokenizer, getattr(empty.config, "max_position_embeddings", None))
        tokens = sum(map(len, rows))
        self.calibration.check_length(tokens, max(layer.in_features for layer in layers.values()))
        size = sum(parameter.numel() for parameter in empty.parameters())
        self._quantize(source, target, rows, small=size < _SMALL)
        release_memory()
        finish_folder(source, target)
        stored = packed_layers(stored_tensors(target))
        if left := sorted(layers.keys() - stored):
            raise EnvironmentFailure(f"{self.package} left {left[0]} as it was ({len(left)} layers): nothing was kept")
        plain = plain_model(target, run_device(), self._unpack(), self.bits, self.group_size)
        quantized = sum(layer.in_features * layer.out_features for layer in layers.values())
        return Written(probe_logits(plain), quantized / size, self.calibration.record(tokens))

    def _quantize(self, source: Path, target: Path, rows: Sequence[Sequence[int]], small: bool) -> None:
        import_quietly()
        with silent(), _logs_elsewhere():
            from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

            settings = QuantizeConfig(
                bits=self.bits,
                group_size=self.group_size,
                quant_method=self.method,
                device=str(run_device()),
                offload_to_disk=False,
                pack_impl="original" if small else "cpu",
            )
            model = GPTQModel.load(str(source), settings, dtype=torch.bfloat16)
            for name, parameter in model.model.named_parameters():
                if not parameter.isfinite().all():
                    raise RequestError(
                        f"{source} holds weights that are not finite ({name}): there is nothing to export"
                    )
            model.quantize(
                [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in rows],
                batch_size=_BATCH_ROWS,
                calibration_data_min_length=1,
                backend=BACKEND[self.backend] if self.backend else BACKEND.AUTO,
            )
            model.save(str(target))

    def _unpack(self) -> Unpack:
        return awq_weight if self.method == "awq" else gptq_weight


@contextlib.contextmanager
def _logs_elsewhere() -> Iterator[None]:
    """The library writes a log of every layer into ``logs/`` of the current folder, which is the user's."""
    from .._compat import loop_processor

    usual = loop_processor._PROJECT_LOG_DIR
    with tempfile.TemporaryDirectory(prefix="hf_unlearn-") as folder:
        loop_processor._PROJECT_LOG_DIR = Path(folder)
        try:
            yield
        finally:
            loop_processor._PROJECT_LOG_DIR = usual


def finish_folder(source: Path, target: Path) -> None:
    """Undo what the library changes besides the weights: its log, and repairs of configuration files.

    It writes sampling into the generation settings and a padding token into the configuration, which the source does
    not have. Only its type and quantization settings are taken over.
    """
    (target / "quant_log.csv").unlink(missing_ok=True)
    written: dict[str, Any] = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config |= {key: written[key] for key in ("dtype", "quantization_config", "transformers_version")}
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    settings = source / "generation_config.json"
    if settings.exists():
        shutil.copyfile(settings, target / settings.name)
    else:
        (target / settings.name).unlink(missing_ok=True)


class GPTQ(Packed):
    """Symmetric integers; each column's rounding error is made up for by the columns after it."""

    method = "gptq"
    # transformers loads GPTQ files through it.
    companions = ("optimum",)
    # Plain unpacking and products in 16 bits.
    tolerance = 0.01


class FourBitGPTQ(GPTQ):
    """Four bits, for which the CPU has a kernel of its own."""

    # The kernel rounds scales and activations to bfloat16: 0.004 on two layers of random weights, 0.012 on ten.
    tolerance = 0.08


class AWQ(Packed):
    """Integers of inputs that were scaled, the large ones up, and the layers before them down."""

    method = "awq"
    fails_on = ("gpt_neox",)
    backend = "AWQ_TORCH"
    # It searches clipping in blocks of this many outputs.
    outputs = 64
    companions = ("accelerate",)
    tolerance = 0.08


def _register(value: type[Packed], name: str, bits: int, group_size: int, summary: str, paper: str) -> None:
    made = type(value.__name__, (value,), {"name": name, "bits": bits, "group_size": group_size})
    defaults = {"bits": bits, "group_size": group_size, "symmetric": True}
    FORMATS.register(name, summary=summary, paper=paper, defaults=defaults, needs=("gptqmodel", "calibration"))(made)


for _size in (128, 32):
    for _bits, _value in ((3, GPTQ), (4, FourBitGPTQ), (8, GPTQ)):
        _register(
            _value,
            f"gptq-int{_bits}-g{_size}",
            _bits,
            _size,
            f"GPTQ INT{_bits}, groups of {_size}: later columns make up for rounding errors on calibration text",
            "arXiv 2210.17323",
        )
    _register(
        AWQ,
        f"awq-int4-g{_size}",
        4,
        _size,
        f"AWQ INT4, groups of {_size}: inputs that are large on calibration text are scaled up before rounding",
        "arXiv 2306.00978",
    )
