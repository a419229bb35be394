"""GGUF: the files of llama.cpp, Ollama and LM Studio. One file holds weights, settings and tokenizer.

``gguf-q8_0`` and ``gguf-q4_0`` are written with the ``gguf`` package alone. The K-quants and IQ4_NL have mixtures of
types and a search for scales that only llama.cpp itself has, so its own quantizer makes them from a plain file.
Unlike the other formats these quantize the embedding and the output head too, as the published files do.
"""

from __future__ import annotations

import json
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..errors import EnvironmentFailure, RequestError
from ..models.llama_cpp import quiet_llama_cpp
from ..models.loading import read_pretrained
from . import FORMATS
from .base import Format, Written
from .gguf_file import FileWeights, Vocabulary, check_family, read_vocabulary, write_file
from .streaming import streamed_logits

_PLAIN = {torch.bfloat16: ("BF16", 32), torch.float16: ("F16", 1), torch.float32: ("F32", 0)}
_NOT_QUANTIZED = ("F32", "F16", "BF16")
# A matrix whose rows are in the wrong order is further from the source than its own norm; the coarsest type is at 0.4.
_FURTHEST = 0.6


class Gguf(Format):
    """A folder with one GGUF file, the config and the tokenizer."""

    package = "gguf"
    extra = "gguf"
    # transformers and the check both read the file's de-quantized weights.
    tolerance = 1e-4
    file_type: ClassVar[int]
    block: ClassVar[int] = 32

    @property
    def file_name(self) -> str:
        """As publishers name them: the type in capitals."""
        return f"model-{self.name.removeprefix('gguf-').upper()}.gguf"

    @abstractmethod
    def write_quantized(self, model: PreTrainedModel, vocabulary: Vocabulary, path: Path) -> None:
        """Make the file."""

    def check_model(self, model: PreTrainedModel) -> None:
        """The family must be known, and rows must divide into whole blocks."""
        check_family(model.config, self.name)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and parameter.shape[-1] % self.block:
                raise RequestError(
                    f"{self.name} needs rows in multiples of {self.block} weights, but {name} has "
                    f"{parameter.shape[-1]}: use {'gguf-q4_0 or gguf-q8_0' if self.block > 32 else 'another format'}"
                )

    def write(self, source: Path, target: Path) -> Written:
        """Write the file, then run the source's model with the weights that are read back by name."""
        model = read_pretrained(source, "auto")
        self.check_model(model)
        path = target / self.file_name
        self.write_quantized(model, read_vocabulary(source, model.config.vocab_size), path)
        _copy_settings(source, target)
        weights = FileWeights(path, model)
        share = self._check_weights(model, weights) / sum(parameter.numel() for parameter in model.parameters())
        logits = streamed_logits(model, lambda name, stored: weights.read(name).to(stored.device))
        return Written(logits, quantized_share=share)

    def _check_weights(self, model: PreTrainedModel, weights: FileWeights) -> int:
        """See that the file holds the model's weights, and count those that are quantized."""
        quantized = 0
        for name, parameter in model.named_parameters():
            values, norm = weights.read(name).to(parameter.device), parameter.detach().float().norm()
            if not (values - parameter.detach()).norm() <= _FURTHEST * norm and norm.isfinite():
                raise EnvironmentFailure(f"{self.name} holds other weights than {name} of the source: not kept")
            quantized += 0 if weights.type_name(name) in _NOT_QUANTIZED else values.numel()
        return quantized


class Simple(Gguf):
    """Types with one scale per 32 weights and no search, which the ``gguf`` package can write."""

    group_size = 32
    type_name: ClassVar[str]

    def write_quantized(self, model: PreTrainedModel, vocabulary: Vocabulary, path: Path) -> None:
        """One type for every matrix, and Q8_0 for the matrix that gives the logits."""
        head = "token_embd.weight" if model.config.tie_word_embeddings else "output.weight"

        def type_of(name: str, shape: tuple[int, ...]) -> str:
            if len(shape) == 1:
                return "F32"
            return "Q8_0" if name == head else self.type_name

        write_file(model, vocabulary, path, type_of, self.file_type)


@FORMATS.register(
    "gguf-q8_0",
    summary="GGUF Q8_0: INT8 in blocks of 32 with a float16 scale, embedding and head included",
    defaults={"bits": 8, "block": 32},
    needs=("gguf",),
)
class Q8Zero(Simple):
    """``scale = max|w| / 127``."""

    name = "gguf-q8_0"
    bits = 8
    type_name = "Q8_0"
    file_type = 7


@FORMATS.register(
    "gguf-q4_0",
    summary="GGUF Q4_0: INT4 in blocks of 32 with a float16 scale, the head in Q8_0",
    defaults={"bits": 4, "block": 32},
    needs=("gguf",),
)
class Q4Zero(Simple):
    """``scale = m / -8`` with ``m`` the weight of largest magnitude, sign kept: one end of the grid is always used."""

    name = "gguf-q4_0"
    bits = 4
    type_name = "Q4_0"
    file_type = 2


class LlamaCppQuantized(Gguf):
    """Types that llama.cpp's own quantizer makes."""

    package = "llama-cpp-python"
    companions = ("gguf",)
    extra = "llama-cpp"
    block = 256

    def write_quantized(self, model: PreTrainedModel, vocabulary: Vocabulary, path: Path) -> None:
        """Write a plain file in the source's type, have it quantized, and remove it."""
        plain = path.with_name("plain.gguf")
        type_name, file_type = _PLAIN.get(model.dtype, _PLAIN[torch.float32])
        write_file(model, vocabulary, plain, lambda _, shape: "F32" if len(shape) == 1 else type_name, file_type)
        try:
            quantize_file(plain, path, self.file_type)
        finally:
            plain.unlink()


def _register(name: str, bits: int, group_size: int, file_type: int, summary: str) -> None:
    described: dict[str, Any] = {
        "name": name,
        "bits": bits,
        "group_size": group_size,
        "file_type": file_type,
        "__doc__": summary,
    }
    FORMATS.register(
        name,
        summary=summary,
        defaults={"bits": bits, "block": 256},
        needs=("llama-cpp-python",),
    )(type(name.removeprefix("gguf-").upper(), (LlamaCppQuantized,), described))


_register("gguf-q6_k", 6, 16, 18, "GGUF Q6_K: 6 bits in blocks of 16, made by llama.cpp")
_register("gguf-q5_k_m", 5, 32, 17, "GGUF Q5_K_M: 5 bits in blocks of 32, some tensors in 6, made by llama.cpp")
_register("gguf-q4_k_m", 4, 32, 15, "GGUF Q4_K_M: 4 bits in blocks of 32, some tensors in 6, made by llama.cpp")
_register("gguf-iq4_nl", 4, 32, 25, "GGUF IQ4_NL: 16 uneven levels in blocks of 32, made by llama.cpp")
_register("gguf-q3_k_m", 3, 16, 12, "GGUF Q3_K_M: 3 bits in blocks of 16, some tensors in 4 or 5, made by llama.cpp")
_register("gguf-q2_k", 2, 16, 10, "GGUF Q2_K: 2 bits in blocks of 16, some tensors in 3 or 4, made by llama.cpp")


def quantize_file(plain: Path, path: Path, file_type: int) -> None:
    """Have llama.cpp quantize a plain GGUF file.

    Args:
        plain: A file with F32, F16 or BF16 matrices.
        path: The file to make.
        file_type: llama.cpp's number for the mixture of types.

    Raises:
        EnvironmentFailure: It failed, for one of the reasons it does not name.
    """
    import ctypes

    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = file_type
    settings.nthread = max(1, torch.get_num_threads())
    quiet_llama_cpp()
    failed = llama_cpp.llama_model_quantize(str(plain).encode(), str(path).encode(), ctypes.byref(settings))
    if failed:
        raise EnvironmentFailure(
            f"llama.cpp could not quantize to {path.name} (code {failed}): is the disk full? It gives no reason itself"
        )


def _copy_settings(source: Path, target: Path) -> None:
    """The config, for tools that look at a folder without opening the file, and the generation settings."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
