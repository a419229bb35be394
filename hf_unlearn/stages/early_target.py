"""The target as far as it is known before its weights: a folder with its configuration and its tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..models.scratch import build_tokenizer, new_model
from .context import RunContext
from .models import fetch_base, fetch_target, tokenizer_texts


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
    if spec.scratch is None:
        yield fetch_target(spec, weights=False)
    elif spec.scratch.base is not None:
        yield fetch_base(spec.scratch, weights=False)
    else:
        with tempfile.TemporaryDirectory(prefix="hf_unlearn-") as name:
            tokenizer = build_tokenizer(tokenizer_texts(context.bundle), spec.scratch)
            tokenizer.save_pretrained(name)
            with torch.device("meta"):
                new_model(spec.scratch, tokenizer).config.save_pretrained(name)
            yield Path(name)
