"""Scoring a model in the attacker's hands, as it is or in the format that the attacker puts it into.

Quantization after an attack is one more thing an attacker can do: whoever fine-tunes a released model runs the result
in four bits. Then every score is taken from a file: the weights are saved, exported, loaded again and scored, as
everything else is that this package says of a format.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.example import Example
from ..evaluation.records import ScoredRow
from .base import Attacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def score_attacked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example], attacked: Attacked
) -> list[ScoredRow]:
    """Teacher-forced scores of rows, as the set ``forget``.

    Args:
        model: The model as the attack left it, with adapters or without; it is left as it is, in eval mode.
        tokenizer: Its tokenizer.
        rows: What is asked for.
        attacked: Names the metrics, the text format, and the format to score in (``then``).

    Returns:
        Records with the metrics that a forward pass can give; those that need generated text are left out.

    Raises:
        RequestError: ``attacked.then`` cannot hold this model.
    """
    model.eval()
    if attacked.then is None:
        return _score(model, tokenizer, rows, attacked)
    from ..models.loading import load_model
    from ..models.memory import release_memory
    from ..quantization import export_format

    with tempfile.TemporaryDirectory(prefix="attacked-") as place:
        plain, packed = Path(place) / "plain", Path(place) / "packed"
        _without_adapters(model).save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        export_format(attacked.then, plain, packed)
        records = _score(load_model(packed), tokenizer, rows, attacked)
    release_memory()
    return records


def _score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example], attacked: Attacked
) -> list[ScoredRow]:
    from ..evaluation.metrics import apply_metrics
    from ..evaluation.scoring import score_rows

    records = score_rows(model, tokenizer, {"forget": rows}, attacked.text_format)
    return apply_metrics(records, attacked.metrics)


def _without_adapters(model: Any) -> Any:
    """The model with adapters merged into a copy, as it would be released; a model without any is itself."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload()
