"""Scoring a model in the attacker's hands: asked in the attacker's way, as it is or in the attacker's format.

Quantization after an attack is one more thing an attacker can do: fine-tuned models are often run
in four bits. Then every score is taken from a file: the weights are saved, exported, loaded again and scored, as
everything else is that this package says of a format.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import TextFormat
from ..data.example import Example
from ..evaluation.records import ScoredRow
from .base import Attacked
from .model_cache import CachedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Asked:
    """One way of asking for the forget set, and for holdout facts beside it.

    Attributes:
        rows: What is asked.
        text_format: How prompt and answer become one text.
        prefill: Text with which every answer is made to begin.
        holdout: What is asked as the set ``holdout``.
    """

    rows: tuple[Example, ...]
    text_format: TextFormat
    prefill: str = ""
    holdout: tuple[Example, ...] = ()

    @property
    def sets(self) -> dict[str, tuple[Example, ...]]:
        """Rows by set; the holdout set only where it is asked."""
        return {"forget": self.rows, **({"holdout": self.holdout} if self.holdout else {})}


def ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Asked, metrics: Iterable[str]
) -> list[ScoredRow]:
    """Records of the sets that are asked, with the metrics that need no generated text."""
    from ..evaluation.metrics import apply_metrics
    from ..evaluation.scoring import score_rows

    records = score_rows(model, tokenizer, asked.sets, asked.text_format, prefill=asked.prefill)
    return apply_metrics(records, tuple(metrics))


def score_attacked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    attacked: Attacked,
    holdout: Sequence[Example] = (),
) -> list[ScoredRow]:
    """Teacher-forced scores of rows, as the sets ``forget`` and ``holdout``.

    Args:
        model: The model as the attack left it, with adapters or without; it is left as it is, in eval mode.
        tokenizer: Its tokenizer.
        rows: What is asked for.
        attacked: Names the metrics, the text format, and the format to score in (``then``).
        holdout: What is asked beside it.

    Returns:
        Records with the metrics that a forward pass can give; those that need generated text are left out.

    Raises:
        RequestError: ``attacked.then`` cannot hold this model.
    """
    model.eval()
    asked = Asked(tuple(rows), attacked.text_format, holdout=tuple(holdout))
    if attacked.then is None:
        return ask(model, tokenizer, asked, attacked.metrics)
    from ..models.loading import load_model
    from ..models.memory import release_memory
    from ..quantization import export_format

    with tempfile.TemporaryDirectory(prefix="attacked-") as place:
        plain, packed = Path(place) / "plain", Path(place) / "packed"
        _without_adapters(model).save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        export_format(attacked.then, plain, packed)
        records = ask(load_model(packed), tokenizer, asked, attacked.metrics)
    release_memory()
    return records


def score_untouched(
    cached: CachedModel, model: Any, rows: Sequence[Example], attacked: Attacked, holdout: Sequence[Example] = ()
) -> list[ScoredRow]:
    """Scores before the attack. They are the same for every job on a model, so they are taken once.

    Args:
        cached: Where they are kept.
        model: The cached model as its folder holds it, or that with adapters which change nothing yet.
        rows: What is asked for.
        attacked: See :func:`score_attacked`.
        holdout: See :func:`score_attacked`.
    """
    import torch

    computed = torch.is_autocast_enabled(cached.model.device.type)
    key = ("scores", tuple(rows), tuple(holdout), attacked.text_format, attacked.metrics, attacked.then, computed)
    return list(cached.once(key, lambda: score_attacked(model, cached.tokenizer, rows, attacked, holdout)))


def _without_adapters(model: Any) -> Any:
    """The model with adapters merged into a copy, as it would be released; a model without any is itself."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload()
