"""Retraining on T with the settings that were published (arXiv 2410.08827, section 3.2 and the released code).

Five folds of which two are run, T as lettered multiple-choice questions with loss on every token, Lion in float16
without clipping, six rates from 1e-7 to 3.2e-6, 24 steps of warm-up, six epochs of batches of four, V asked for by the
letter of four options. What differs on purpose: padding carries no loss; facts that tell of each other are kept apart;
the letter is scored as it stands in the text, with its space; Lion's momentum is float32; only T is cut at 512 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import ATTACKS
from .retraining_settings import Dtype, LossTokens
from .rtt import RTT
from .rtt_sets import Asking, Form
from .tuning import OptimizerName


@ATTACKS.register(
    "rtt-paper",
    summary="as rtt, with the published settings: multiple choice, Lion, six rates, two of five folds",
    paper="arXiv 2410.08827, section 3.2 and released code",
    defaults=("folds", "run_folds", "learning_rates", "epochs", "batch_size", "optimizer", "dtype"),
    needs=("groups", "options", "never-knew control"),
    tier="deep",
)
@dataclass(frozen=True, kw_only=True)
class RTTPaper(RTT):
    """Settings of RTT as published; every one of them can be set otherwise, as for ``rtt``.

    Attributes:
        run_folds: The paper ran 2 of 5.
        learning_rates: Published for models of 7 and 8 billion weights; a small model needs far larger ones.
        batch_size: Rows per step.
        form: As multiple-choice questions.
        asked_by: By the letter of the option.
        loss_tokens: On every token of the question, its options and the answer.
        max_tokens: Longer questions lose their beginning.
        optimizer: Without weight decay, betas 0.9 and 0.99.
        dtype: Small steps are rounded away in float16, as they were there; float32 is the stronger attack.
        max_grad_norm: No clipping.
        patience: Every rate is run to its end.
        seed: Seed of the split (the released configuration's 4).
        order_seed: Seed of the order of rows. The released pipeline never passes its ``data_seed`` to retraining,
            which ran with 0.
    """

    run_folds: int | None = 2
    learning_rates: tuple[float, ...] = (1e-7, 2e-7, 4e-7, 8e-7, 1.6e-6, 3.2e-6)
    batch_size: int = 4
    form: Form = "multiple-choice"
    asked_by: Asking = "letters"
    loss_tokens: LossTokens = "all"
    max_tokens: int | None = 512
    optimizer: OptimizerName = "lion"
    dtype: Dtype = "float16"
    max_grad_norm: float = 0.0
    patience: int = 0
    seed: int = 4
    order_seed: int = 0

    name: ClassVar[str] = "rtt-paper"

    @property
    def order(self) -> int:
        """Not the seed of the split."""
        return self.order_seed
