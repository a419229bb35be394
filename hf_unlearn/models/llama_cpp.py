"""A GGUF file as llama.cpp runs it, with the part of a model's interface that scoring and greedy generation use.

llama.cpp multiplies quantized weights with activations that it rounds to 8 bits and keeps its cache in float16, so its
numbers differ a little from those of the de-quantized weights, which is what transformers runs.
"""

from __future__ import annotations

import importlib.metadata
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from ..errors import EnvironmentFailure, MissingExtraError, RequestError

if TYPE_CHECKING:
    from torch import nn

RUNTIME = "llama.cpp"
_PACKAGE = "llama-cpp-python"
_SHORTEST_CONTEXT = 512
_callbacks: list[Any] = []


def is_installed() -> bool:
    """Whether llama.cpp can run here."""
    try:
        importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def runtime_transforms(formats: Sequence[str]) -> tuple[str, ...]:
    """The transforms ``<format>@llama.cpp`` that can be scored here.

    Args:
        formats: The formats that are exported.
    """
    return tuple(f"{name}@{RUNTIME}" for name in formats if name.startswith("gguf-") and is_installed())


def split_runtime(transform: str) -> tuple[str, str]:
    """A transform's name as format (or ``identity``) and runtime: ``gguf-q4_0@llama.cpp`` split into its two parts."""
    name, at, runtime = transform.rpartition("@")
    return (name, runtime) if at and runtime == RUNTIME else (transform, "transformers")


def runtime_version(transform: str) -> dict[str, str]:
    """Version of what runs a transform, if that is not transformers: its numbers belong to that version."""
    return {_PACKAGE: importlib.metadata.version(_PACKAGE)} if split_runtime(transform)[1] == RUNTIME else {}


def check_needs(needs: Iterable[str]) -> None:
    """Refuse needs that llama.cpp cannot meet.

    Args:
        needs: What metrics need, in the words of :data:`hf_unlearn.evaluation.spec.NEEDS`.

    Raises:
        RequestError: One of them is gradients or hidden states.
    """
    for need in sorted({"gradient", "layers"} & set(needs)):
        raise RequestError(
            f"a metric needs {need}, which llama.cpp cannot provide: score that set with transformers only"
        )


def quiet_llama_cpp() -> None:
    """Drop llama.cpp's report of every tensor. Can be called repeatedly."""
    import ctypes

    import llama_cpp

    if _callbacks:
        return

    @llama_cpp.llama_log_callback
    def drop(level: int, text: bytes, data: Any) -> None:
        pass

    _callbacks.append(drop)  # llama.cpp keeps a pointer to it
    llama_cpp.llama_log_set(drop, ctypes.c_void_p(0))


class LlamaCppModel:
    """A causal language model run by llama.cpp on the CPU.

    Rows are run one after the other: it has no padding. There are no weights to differentiate and no hidden states,
    so gradients and layers are not available.

    Args:
        file: The GGUF file.
        config: The model's config.
        generation_config: Holds its stop tokens.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    hf_quantizer = None

    def __init__(self, file: Path, config: PretrainedConfig, generation_config: GenerationConfig | None) -> None:
        if not is_installed():
            raise MissingExtraError("scoring with llama.cpp", _PACKAGE, "llama-cpp")
        self.config = config
        # Code that asks how attention is computed must not assume that it takes any mask.
        self.config._attn_implementation = RUNTIME
        self.generation_config = generation_config
        self._file = file
        self._runner: Any = None
        self._room = 0
        self._close: Callable[[], Any] | None = None

    def eval(self) -> LlamaCppModel:
        """Nothing is trained here."""
        return self

    def get_decoder(self) -> None:
        """No part can run alone."""

    def get_output_embeddings(self) -> nn.Module | None:
        """No head can run alone."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        """Logits ``[rows, time, vocabulary]``, zero where the mask is.

        Args:
            input_ids: ``[rows, time]``, padded on the right.
            attention_mask: ``[rows, time]``; none means no padding.
            position_ids: Must be left out.
            use_cache: Ignored: no cache is returned.
        """
        assert position_ids is None, "llama.cpp takes tokens where they stand"
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = torch.zeros((*input_ids.shape, self.config.get_text_config().vocab_size))
        for place, (row, kept) in enumerate(zip(input_ids, mask, strict=True)):
            length = int(kept.sum())
            logits[place, :length] = torch.from_numpy(self._run(row[:length].tolist()))
        return SimpleNamespace(logits=logits)

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_processor: Sequence[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = (),
        stopping_criteria: Sequence[Callable[[torch.Tensor, None], torch.Tensor]] = (),
    ) -> torch.Tensor:
        """The most likely continuation by ``generation_config``, after its prompt: ``[1, time + new]``.

        Args:
            input_ids: ``[1, time]``, padded on the left. One prompt at a time: the cache has one sequence.
            attention_mask: ``[1, time]``.
            logits_processor: Called with all tokens so far and the logits ``[1, vocabulary]`` of the next one.
            stopping_criteria: Called with all tokens so far; true ends the continuation.
        """
        assert len(input_ids) == 1, "llama.cpp continues one prompt at a time"
        settings = self.generation_config or GenerationConfig()
        assert not settings.do_sample, "sampling is done by a processor"
        stops = settings.eos_token_id
        stop_ids = set(stops if isinstance(stops, list) else [] if stops is None else [stops])
        prompt = input_ids[attention_mask.bool()].tolist()
        count = settings.max_new_tokens or 1
        runner = self._with_room(len(prompt) + count)
        runner.reset()
        runner.eval(prompt)
        tokens = input_ids
        for step in range(count):
            if step:
                runner.eval(tokens[0, -1:].tolist())
            scores = torch.from_numpy(runner.scores[len(prompt) + step - 1].copy()).unsqueeze(0)
            for process in logits_processor:
                scores = process(tokens, scores)
            tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], dim=1)
            if int(tokens[0, -1]) in stop_ids or any(bool(criterion(tokens, None)) for criterion in stopping_criteria):
                break
        return tokens

    def _run(self, tokens: list[int]) -> np.ndarray:
        runner = self._with_room(len(tokens))
        runner.reset()
        runner.eval(tokens)
        return runner.scores[: len(tokens)]

    def _with_room(self, length: int) -> Any:
        """The runner, with a cache for at least this many tokens (a model's maximum can take gigabytes)."""
        if length > self._room:
            import llama_cpp

            quiet_llama_cpp()
            self._room = max(_SHORTEST_CONTEXT, 1 << (length - 1).bit_length())
            threads = torch.get_num_threads()
            if self._close is not None:
                self._close()
            try:
                self._runner = llama_cpp.Llama(
                    str(self._file),
                    n_ctx=self._room,
                    n_batch=min(512, self._room),
                    logits_all=True,
                    n_threads=threads,
                    n_threads_batch=threads,
                    verbose=False,
                )
            except (ValueError, RuntimeError, OSError) as error:
                raise EnvironmentFailure(
                    f"llama.cpp {importlib.metadata.version(_PACKAGE)} cannot load {self._file} ({error}): update "
                    f"{_PACKAGE}, or score it with transformers only"
                ) from error
            # It must be freed before the modules it uses.
            self._close = weakref.finalize(self, self._runner.close)
        return self._runner


def load_llama_cpp(folder: Path | str) -> LlamaCppModel:
    """Load a GGUF folder to be run by llama.cpp.

    Args:
        folder: A folder with one ``.gguf`` file.

    Raises:
        RequestError: There is no such file in it.
        MissingExtraError: llama-cpp-python is not installed.
        EnvironmentFailure: llama.cpp cannot read the file.
    """
    from .loading import gguf_file_in

    file = gguf_file_in(folder)
    if file is None:
        raise RequestError(f"{folder} holds no GGUF file: llama.cpp cannot run anything else")
    path = Path(folder) / file
    has_config = (path.parent / "config.json").is_file()
    given = {} if has_config else {"gguf_file": file}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **given)
    has_settings = (path.parent / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(folder) if has_settings else None
    return LlamaCppModel(path, config, generation)
