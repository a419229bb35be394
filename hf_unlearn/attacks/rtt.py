"""Retraining on T (RTT): train on some forgotten facts, ask for others that those say nothing about.

Source: Deeb and Roger, "Do Unlearning Methods Remove Information from Language Model Weights?" (arXiv 2410.08827),
section 3.2. The forgotten facts are split into folds of whole groups; one fold is V, the others are T. The attacker
fine-tunes on T and is scored on V after every epoch. What comes back on V cannot have been taught by T: it was hidden,
not removed. As in the paper the attacker's best learning rate and epoch count, here per metric and fold.

Where this differs from the released code of the paper: padding carries no loss, weights are trained in float32 with
AdamW instead of in float16 with Lion, and T is trained in the form the facts were learned in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.encoding import EncodedRow, TextFormat, encode_row, load_tokenizer
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, read_records, write_records
from ..evaluation.run import fact_scores
from ..verification.scores import FactScores
from . import ATTACKS
from .base import Attack, AttackResult

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@ATTACKS.register(
    "rtt",
    summary="retrain on some forgotten facts, ask for the others (k folds, sweep of learning rates)",
    paper="arXiv 2410.08827, section 3.2",
    defaults={"folds": 5, "learning_rates": [1e-4, 3e-4, 1e-3], "epochs": 6, "batch_size": 16},
    needs=("groups", "never-knew control"),
)
@dataclass(frozen=True)
class RTT(Attack):
    """Settings of RTT.

    Attributes:
        folds: Parts into which the groups of forgotten facts are split.
        run_folds: How many of them serve as V, from the first on; all if left out (the paper ran 2 of 5).
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over T; V is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant (the paper's 24).
        loss_tokens: ``answer`` trains on the answers of T only, ``all`` on every token of its rows.
        max_grad_norm: Gradient clipping; 0 turns it off.
        seed: Seed of the split and of the order of rows.
    """

    folds: int = 5
    run_folds: int | None = None
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 6
    batch_size: int = 16
    warmup_steps: int = 24
    loss_tokens: Literal["answer", "all"] = "answer"
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(f"rtt.folds is {self.folds}: at least 2 are needed, one to train on and one to ask for")
        if self.run_folds is not None and not 1 <= self.run_folds <= self.folds:
            raise RequestError(f"rtt.run_folds is {self.run_folds}: it must be between 1 and folds ({self.folds})")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise RequestError("rtt.learning_rates must name at least one rate above 0, and only such")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise RequestError("rtt.learning_rates names a rate twice: once is enough")
        for key, least in (("epochs", 1), ("batch_size", 1), ("warmup_steps", 0), ("max_grad_norm", 0)):
            if getattr(self, key) < least:
                raise RequestError(f"rtt.{key} is {getattr(self, key)}: it must be at least {least}")

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per fold and rate."""
        self._splits(bundle)
        folds = range(self.run_folds or self.folds)
        return [f"fold{fold}-lr{rate!r}" for fold in folds for rate in self.learning_rates]

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts in T and V, rates, epochs and steps."""
        train, ask = self._splits(bundle)[0]
        rows = sum(row.group in train for row in bundle.forget.train)
        return {
            "folds": self.folds,
            "run_folds": self.run_folds or self.folds,
            "groups_in_T": len(train),
            "groups_in_V": len(ask),
            "rows_in_T": rows,
            "learning_rates": list(self.learning_rates),
            "epochs": self.epochs,
            "steps_per_rate": self.epochs * -(-rows // self.batch_size),
            "optimizer": "AdamW, full fine-tuning in float32",
            "loss_tokens": self.loss_tokens,
        }

    def run_job(
        self, job: str, model: Path, bundle: DataBundle, text_format: TextFormat, metrics: tuple[str, ...], out: Path
    ) -> None:
        """Fine-tune on T at one rate; write V's records per epoch as ``epoch<N>.jsonl`` (0 is before training).

        A rate that diverges is recorded in ``diverged.json`` and ends there: a failed attack is a result.
        """
        fold, rate = self._parse(job)
        train_groups, ask_groups = self._splits(bundle)[fold]
        trainer = _Retraining(self, model, text_format, rate)
        rows = [row for row in bundle.forget.train if row.group in train_groups]
        asked = [row for row in bundle.forget.score if row.group in ask_groups]
        write_records(out / "epoch0.jsonl", trainer.score(asked, metrics))
        for epoch, finite in enumerate(trainer.epochs(rows), start=1):
            if not finite:
                (out / "diverged.json").write_text(json.dumps({"epoch": epoch}), encoding="utf-8")
                return
            write_records(out / f"epoch{epoch}.jsonl", trainer.score(asked, metrics))

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric and fold the best rate and epoch; facts of all folds together."""
        runs: dict[int, list[tuple[float, int, Mapping[tuple[str, str], FactScores]]]] = {}
        for job, folder in folders.items():
            fold, rate = self._parse(job)
            for epoch in range(self.epochs + 1):
                path = folder / f"epoch{epoch}.jsonl"
                if path.exists():
                    runs.setdefault(fold, []).append((rate, epoch, fact_scores(read_records(path))))
        scores: dict[str, FactScores] = {}
        details: list[dict[str, Any]] = []
        for metric in metrics:
            values: dict[str, float] = {}
            groups: dict[str, str] = {}
            for fold, tried in sorted(runs.items()):
                there = [
                    (rate, epoch, found["forget", metric])
                    for rate, epoch, found in tried
                    if ("forget", metric) in found
                ]
                if not there:
                    continue
                rate, epoch, best = max(there, key=lambda item: (item[2].mean, -item[1], -item[0]))
                before = next(facts for _, epoch_, facts in there if epoch_ == 0)
                values.update(best.values)
                groups.update(best.groups)
                details.append(
                    {
                        "metric": metric,
                        "fold": fold,
                        "learning_rate": rate,
                        "epoch": epoch,
                        "before": before.mean,
                        "after": best.mean,
                    }
                )
            if values:
                scores[metric] = FactScores(values, groups)
        return AttackResult(scores, details)

    def _parse(self, job: str) -> tuple[int, float]:
        fold, rate = job.removeprefix("fold").split("-lr")
        return int(fold), float(rate)

    def _splits(self, bundle: DataBundle) -> list[tuple[frozenset[str], frozenset[str]]]:
        return split_groups(bundle.forget.score, self.folds, self.seed)


def split_groups(rows: Sequence[Example], folds: int, seed: int) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Split groups into folds; fold ``i`` gives (groups of T, groups of V = part i).

    Raises:
        RequestError: Fewer groups than folds.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < folds:
        raise RequestError(
            f"rtt splits the forget set into {folds} folds of whole groups, but there are {len(groups)} groups: "
            "lower attack.rtt.folds, or give rows that are independent facts different values in the group column"
        )
    random.Random(f"rtt-{seed}").shuffle(groups)
    parts = [frozenset(groups[index::folds]) for index in range(folds)]
    everything = frozenset(groups)
    return [(everything - part, part) for part in parts]


class _Retraining:
    """One model in the attacker's hands."""

    def __init__(self, settings: RTT, folder: Path, text_format: TextFormat, rate: float) -> None:
        import torch

        from ..evaluation.loading import load_model

        self.settings = settings
        self.format = text_format
        self.tokenizer = load_tokenizer(str(folder))
        self.model: PreTrainedModel = load_model(folder, dtype="float32")
        self.model.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.0)
        warmup = settings.warmup_steps
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )

    def score(self, rows: Sequence[Example], metrics: tuple[str, ...]) -> list[ScoredRow]:
        """Teacher-forced scores of V, as the set ``forget``."""
        from ..evaluation.metrics import apply_metrics
        from ..evaluation.scoring import score_rows

        self.model.eval()
        records = score_rows(self.model, self.tokenizer, {"forget": rows}, self.format)
        return apply_metrics(records, metrics)  # those that need generated text do not apply and are left out

    def epochs(self, rows: Sequence[Example]) -> Iterator[bool]:
        """Train epoch by epoch; yields whether the loss stayed finite."""
        encoded = [encode_row(row, self.tokenizer, self.format, eos=True) for row in rows]
        order = list(range(len(encoded)))
        rng = random.Random(f"rtt-order-{self.settings.seed}")
        for _ in range(self.settings.epochs):
            rng.shuffle(order)
            self.model.train()
            finite = True
            for start in range(0, len(order), self.settings.batch_size):
                batch = [encoded[index] for index in order[start : start + self.settings.batch_size]]
                finite = finite and self._step(batch)
            yield finite
            if not finite:
                return

    def _step(self, rows: Sequence[EncodedRow]) -> bool:
        import torch

        input_ids, attention_mask, labels = self._pad(rows)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False)
        loss: torch.Tensor = output.loss
        if not torch.isfinite(loss):
            return False
        loss.backward()
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return True

    def _pad(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        import torch

        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, -100)
        for index, row in enumerate(rows):
            ids = torch.tensor(row.input_ids)
            first = 1 if self.settings.loss_tokens == "all" else row.n_prompt
            input_ids[index, : len(ids)] = ids
            attention_mask[index, : len(ids)] = 1
            labels[index, first : len(ids)] = ids[first:]
        device = self.model.device
        return input_ids.to(device), attention_mask.to(device), labels.to(device)
