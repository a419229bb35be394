"""Alternates of a run: made before training, by the target if their source says so, and encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..data.alternates.base import AlternateSource, Given, SampledAnswers, check_prompts
from ..data.alternates.variants import CHOSEN, VariantAlternates
from ..data.encoding import EncodedRow, TextFormat, encode_prompt
from ..data.example import Example
from ..errors import RequestError
from ..evaluation.batch_runner import Passes
from ..evaluation.generation import Prompt, generate
from ..evaluation.spec import Sampling
from ..models.sharding import placed
from ..runtime.files import write_atomically
from ..runtime.processes import on_main_process
from .config import UnlearnConfig
from .dataset import encode_dataset, read_rows
from .references import evaluating

if TYPE_CHECKING:
    import datasets

KEPT_FILE = "alternates.json"
"""In a run's folder: what the target wrote, so that a resumed run trains on the same answers."""

_PROMPTS_PER_BATCH = 32


class RunAlternates:
    """The alternates of one run: texts first, unless a model has to write them, so that bad rows are refused early.

    Args:
        args: The run's settings.
        forget: The forget rows.
        retain: The retain set as the trainer was given it; read only if alternates come from there.

    Raises:
        RequestError: A forget row has no prompt, or the source finds no other answer to it.
    """

    def __init__(
        self, args: UnlearnConfig, forget: Sequence[Example], retain: datasets.Dataset | Sequence[Example] | None
    ) -> None:
        self._args, self._forget = args, forget
        self._source: AlternateSource | None = source_for(args, forget)
        self._texts: list[tuple[str, ...]] | None = []
        if self._source is None:
            return
        check_prompts(forget)
        if self._source.needs_retain and retain is None:
            raise RequestError("alternates: they come from retain rows, so a retain_dataset is needed")
        others = read_rows(retain, "retain") if self._source.needs_retain and retain is not None else []
        needs_model = self._source.needs_model
        self._texts = None if needs_model else self._source.answers(Given(forget, others, args.seed))

    def encoded(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, text_format: TextFormat
    ) -> list[list[EncodedRow]]:
        """Encoded alternates of each forget row; nothing if the forget loss needs none.

        Raises:
            RequestError: The target writes nothing usable, or an alternate is too long.
        """
        if self._source is None:
            return []
        texts = self._texts
        if texts is None:
            write = TargetWriter(model, tokenizer, text_format, self._args)
            texts = self._source.answers(Given(self._forget, (), self._args.seed, write))
        rows = [replace(row, answer=text) for row, own in zip(self._forget, texts, strict=True) for text in own]
        encoded = iter(encode_dataset(rows, "alternate", tokenizer, text_format, self._args))
        return [[next(encoded) for _ in own] for own in texts]


def source_for(args: UnlearnConfig, forget: Sequence[Example]) -> AlternateSource | None:
    """Where other answers come from: as set, or the chosen answers of pairs, or as the loss has it by default.

    Args:
        args: The run's settings.
        forget: The forget rows.
    """
    chosen = all(dict(row.variants).get(CHOSEN) for row in forget)
    if chosen and args.alternates is None and args.build_forget_loss().needs_alternates:
        return VariantAlternates(CHOSEN)
    return args.build_alternates()


@dataclass(frozen=True)
class TargetWriter:
    """Lets the target model write answers, once: they are kept in the run's folder.

    Under several processes the first one writes and the others read.

    Attributes:
        model: The target.
        tokenizer: Its tokenizer.
        text_format: How a prompt becomes text.
        args: ``device`` and ``output_dir`` are used.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    text_format: TextFormat
    args: UnlearnConfig

    def __call__(self, rows: Sequence[Example], wish: SampledAnswers) -> list[list[str]]:
        """See :class:`~hf_unlearn.data.alternates.base.Writer`.

        Raises:
            RequestError: The model's weights are sharded over several processes.
        """
        if any(hasattr(parameter, "ds_id") for parameter in self.model.parameters()):
            raise RequestError(
                "alternates: generated needs whole weights, and ZeRO-3 shards them: choose other alternates, or "
                "put generated ones into the data (variants)"
            )
        prompts = [encode_prompt(row, self.tokenizer, self.text_format) for row in rows]
        digest = self._digest(prompts, rows, wish)
        path = Path(str(self.args.output_dir), KEPT_FILE)

        def write() -> None:
            if _read(path, digest) is None:
                _keep(path, digest, self._write(prompts, rows, wish))

        on_main_process(write)
        kept = _read(path, digest)
        if kept is None:
            raise RequestError(f"{path} cannot be read by every process: put output_dir on storage that all share")
        return kept

    def _write(
        self, prompts: Sequence[tuple[int, ...]], rows: Sequence[Example], wish: SampledAnswers
    ) -> list[list[str]]:
        sampling = Sampling(wish.count, wish.temperature, seed=wish.seed)
        asked = [
            Prompt(ids, row.origin or row.id, wish.max_new_tokens, wish.stop, sampling, row.id, sample)
            for ids, row in zip(prompts, rows, strict=True)
            for sample in range(wish.count)
        ]
        model: Any = self.model
        with placed(self.model, self.args.device), evaluating(self.model):
            texts = generate(model, self.tokenizer, asked, Passes(2**31), name="alternates", most=_PROMPTS_PER_BATCH)
        return [texts[start : start + wish.count] for start in range(0, len(texts), wish.count)]

    def _digest(self, prompts: Sequence[tuple[int, ...]], rows: Sequence[Example], wish: SampledAnswers) -> str:
        told = {"prompts": prompts, "ids": [row.id for row in rows], "wish": asdict(wish), "weights": self._weights()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @torch.no_grad()
    def _weights(self) -> list[Any]:
        """Shape, sum and sum of squares of each weight: enough to tell models apart, and quick for large ones."""
        return [
            (name, list(weight.shape), float(weight.sum(dtype=torch.float64)), float(weight.float().square().sum()))
            for name, weight in self.model.named_parameters()
        ]


def _read(path: Path, digest: str) -> list[list[str]] | None:
    try:
        kept: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept["texts"] if kept["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, digest: str, texts: list[list[str]]) -> None:
    write_atomically(path, json.dumps({"digest": digest, "texts": texts}))
