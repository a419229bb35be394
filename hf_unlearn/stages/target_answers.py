"""What the target says before a run: how likely it finds given answers. Kept in the package's cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import TextFormat, load_tokenizer
from ..data.example import Example
from ..evaluation.scoring import score_rows
from ..models.loading import load_model
from ..recipe import Recipe
from ..runtime.cache import cache_dir
from ..runtime.files import write_atomically
from ..runtime.processes import on_main_process
from .context import library_versions, plain_row
from .models import fetch_target
from .units import file_digests, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class TargetAnswers:
    """The target, loaded when it is first asked something that it was not asked before.

    Attributes:
        folder: The target.
        text_format: How rows become text.
    """

    folder: Path
    text_format: TextFormat
    _loaded: list[Any] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, recipe: Recipe) -> TargetAnswers:
        """The target of a recipe that names one.

        Raises:
            RequestError: There is no such model.
            EnvironmentFailure: The Hub could not be reached, or a package or library is missing.
        """
        return cls(fetch_target(recipe.model), recipe.data.format.text_format())

    def logps(self, rows: Sequence[Example]) -> list[float]:
        """Log-probability (nats) of each row's answer after its prompt. All processes call this together.

        Raises:
            RequestError: A row cannot be tokenized, or is too long for the model.
        """
        if not rows:
            return []
        asked = [plain_row(row) for row in rows]
        described = self.text_format.described()
        inputs = {"target": self._digest, "rows": asked, "format": described, "versions": library_versions()}
        path = cache_dir() / "answers" / f"{fingerprint(inputs)[:32]}.json"
        on_main_process(lambda: None if _kept(path) else self._ask(rows, path))
        if not _kept(path):  # a machine with a cache of its own
            self._ask(rows, path)
        return _kept(path)

    @cached_property
    def _digest(self) -> str:
        return fingerprint(file_digests(self.folder))

    def _ask(self, rows: Sequence[Example], path: Path) -> None:
        if not self._loaded:
            self._loaded = [load_model(self.folder, "float32"), load_tokenizer(str(self.folder))]
        model: PreTrainedModel
        tokenizer: PreTrainedTokenizerBase
        model, tokenizer = self._loaded
        records = score_rows(model, tokenizer, {"asked": rows}, self.text_format, needs={"asked": ()})
        path.parent.mkdir(parents=True, exist_ok=True)
        logps = [sum(record.logps) for record in records]
        write_atomically(path, json.dumps({"logps": logps, "digest": fingerprint(logps)}))


def _kept(path: Path) -> list[float]:
    """Answers as they were written; none where there are none, or where they were damaged since."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        logps: list[float] = found["logps"]
        return logps if found["digest"] == fingerprint(logps) else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
