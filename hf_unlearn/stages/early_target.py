"""The target as far as it is known before its weights: a folder with its configuration and its tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..models.gguf_source import fetch_model, is_gguf_source
from ..models.loading import fetch, refuse_gguf
from ..models.scratch import build_tokenizer, new_model
from .context import RunContext
from .models import tokenizer_texts


@contextmanager
def early_target(context: RunContext) -> Iterator[Path]:
    """A folder that tells the target's shape and reads its rows; it need not hold weights.

    Args:
        context: The run. A target that will be built from its rows has a folder for as long as this lasts.

    Raises:
        RequestError: There is no such model.
        EnvironmentFailure: The Hub could not be reached, or a package or library is missing.
    """
    spec = context.recipe.model
    if spec.scratch is not None:
        with tempfile.TemporaryDirectory(prefix="hf_unlearn-") as name:
            tokenizer = build_tokenizer(tokenizer_texts(context.bundle), spec.scratch)
            tokenizer.save_pretrained(name)
            with torch.device("meta"):
                new_model(spec.scratch, tokenizer).config.save_pretrained(name)
            yield Path(name)
        return
    assert spec.target is not None  # or it is built from scratch
    if is_gguf_source(spec.target, spec.gguf_file):
        folder = fetch_model(spec.target, spec.target_revision, "model.target", spec.gguf_file)
    else:
        folder = fetch(spec.target, spec.target_revision, "model.target", weights=False)
    refuse_gguf(folder, "model.target")
    yield folder
