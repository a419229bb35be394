"""Random numbers in the form that scoring stores and in the form that others take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_unlearn.evaluation.records import AnswerScore, ScoredRow

from .common import IGNORED

ROWS, VOCABULARY = 300, 50


WORDS = "running Rivers lovely the of a 1987, well-known it's towns. flies born Born in author's novels".split()


class FixedModel:
    """Gives the same random logits to everyone: float32, as models do."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def __call__(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits)


def random_batch(seed: int) -> tuple[FixedModel, dict[str, torch.Tensor], list[ScoredRow]]:
    """Rows of 3 prompt tokens, 1 to 30 answer tokens and a token that ends them; and their records.

    Half of the labels are the most likely token. Records leave the ending token out, as scoring here does.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 31, (ROWS,), generator=generator).tolist()
    width = 3 + max(lengths) + 1
    logits = 3 * torch.randn(ROWS, width, VOCABULARY, generator=generator)
    ids = torch.randint(VOCABULARY, (ROWS, width), generator=generator)
    likely = torch.rand(ROWS, width, generator=generator) < 0.7
    ids[:, 1:] = torch.where(likely[:, 1:], logits.argmax(-1)[:, :-1], ids[:, 1:])
    labels = torch.full_like(ids, IGNORED)
    rows = []
    logps = logits.log_softmax(-1)
    for place, length in enumerate(lengths):
        labels[place, 3 : 3 + length + 1] = ids[place, 3 : 3 + length + 1]
        where = slice(2, 2 + length)
        chosen = labels[place, 3 : 3 + length]
        table = logps[place, where].double()
        means = (table.exp() * table).sum(-1)
        rows.append(
            ScoredRow(
                f"{seed}-{place}", f"{seed}-{place}", f"{seed}-{place}", "forget",
                logps=tuple(logps[place, where].gather(-1, chosen[:, None])[:, 0].tolist()),
                hits=tuple((logits[place, where].argmax(-1) == chosen).tolist()),
                answer=" ".join(WORDS[token % len(WORDS)] for token in chosen.tolist()),
                vocab_means=tuple(means.tolist()),
                vocab_variances=tuple(((table.exp() * table.square()).sum(-1) - means.square()).tolist()),
            )
        )  # fmt: skip
    return FixedModel(logits), {"input_ids": ids, "labels": labels}, rows


def without_end(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with its ending token taken out of the labels."""
    labels = batch["labels"].clone()
    for row in labels:
        row[(row != IGNORED).nonzero()[-1]] = IGNORED
    return {**batch, "labels": labels}


def random_answers(seed: int, lowest: float = -6.0) -> list[ScoredRow]:
    """Rows with a paraphrase and five wrong answers."""
    generator = np.random.default_rng(seed)

    def answers(count: int) -> tuple[AnswerScore, ...]:
        sizes = generator.integers(1, 20, count)
        return tuple(AnswerScore(float(size * generator.uniform(lowest, -0.01)), int(size)) for size in sizes)

    return [
        ScoredRow(
            f"{place}", f"{place}", f"{place}", "forget",
            logps=(float(generator.uniform(lowest, -0.01)),),
            variants={"paraphrased": answers(1), "perturbed": answers(5)},
        )
        for place in range(ROWS)
    ]  # fmt: skip


def random_texts(seed: int) -> list[tuple[str, str]]:
    """Pairs of an answer and a continuation, some of it shared."""
    generator = np.random.default_rng(seed)
    return [
        (" ".join(generator.choice(WORDS, 12)), " ".join(generator.choice(WORDS, generator.integers(0, 30))))
        for _ in range(ROWS)
    ]
