"""Tiny models on disk."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from hf_unlearn.quantization import export_format
from hf_unlearn.quantization.base import ExportInfo


def save_llama(
    folder: Path, *, hidden: int = 128, inner: int = 256, dtype=torch.float32, tied: bool = False, bias: bool = False
) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
    )
    model = LlamaForCausalLM(config)
    if bias:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def file_limit():
    """A context in which no file can grow beyond so many bytes, as on a full disk."""

    @contextlib.contextmanager
    def limited(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture
def make_llama():
    """``save_llama``, for tests that need another size."""
    return save_llama


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    folder = save_llama(tmp_path_factory.mktemp("plain"))
    (folder / "tokenizer.json").write_text('{"made": "up"}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"not for release")
    return folder


@pytest.fixture(scope="session")
def odd(tmp_path_factory) -> Path:
    """bfloat16, tied embeddings, biases."""
    folder = save_llama(tmp_path_factory.mktemp("odd"), dtype=torch.bfloat16, tied=True, bias=True)
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """``(name, source)`` to the exported folder and its info, made once. Tests must not write there."""
    made: dict[tuple[str, Path], tuple[Path, ExportInfo]] = {}

    def get(name: str, source: Path) -> tuple[Path, ExportInfo]:
        if (name, source) not in made:
            target = tmp_path_factory.mktemp("exported") / name
            made[name, source] = (target, export_format(name, source, target))
        return made[name, source]

    return get
