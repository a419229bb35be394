"""Soft prompts: a few trained vectors before every question, fitted on T and asked on V. No weight is changed.

Sources: arXiv 2104.08691 (prompt tuning); Schwinn et al., "Soft Prompt Threats" (arXiv 2402.09063), an attack on
unlearning, and its released code (``embedding_attack_unlearning.py``, the universal attack: one set of embeddings for
all questions, fitted on some and tested on others). Fitted to an answer, soft tokens get any text out of any model,
whether it was trained on it or not (arXiv 2502.15836): so here they are fitted on T and asked on V only, and count
only beside the floor. What differs from the released code: AdamW in place of steps by the sign of the gradient, and
vectors that begin as embeddings of tokens of the questions.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import EncodedRow
from ..errors import RequestError
from . import ATTACKS
from .fitted import FittedAttack, Lent
from .model_cache import CachedModel
from .retraining_settings import check_least

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@ATTACKS.register(
    "soft-prompt",
    summary="fit a few input vectors before the question on some facts, ask for the others with them",
    paper="arXiv 2104.08691 (prompt tuning), arXiv 2402.09063 (on unlearning), arXiv 2502.15836 (why beside a floor)",
    defaults=("tokens", "learning_rates", "epochs", "batch_size", "folds", "run_folds"),
    needs=("groups", "never-knew control"),
    tier="deep",
)
@dataclass(frozen=True, kw_only=True)
class SoftPrompt(FittedAttack):
    """Settings of soft prompts. They are reported, and judged only if a gate names the attack.

    Attributes:
        tokens: Vectors before the question.
        learning_rates: Rates of the sweep, in units of the size of the model's embeddings; the attacker keeps the
            best.
    """

    tokens: int = 8
    learning_rates: tuple[float, ...] = (0.03, 0.3)

    name: ClassVar[str] = "soft-prompt"
    turned: ClassVar[str] = "learning_rate"

    def __post_init__(self) -> None:
        check_least(self.name, "tokens", self.tokens, 1)
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise RequestError(f"{self.name}.learning_rates must name at least one rate above 0, and only such")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise RequestError(f"{self.name}.learning_rates names a rate twice: once is enough")
        super().__post_init__()

    @property
    def swept(self) -> Sequence[float]:
        """The rates."""
        return self.learning_rates

    @property
    def added_tokens(self) -> int:
        """The vectors."""
        return self.tokens

    def shown(self) -> dict[str, Any]:
        """How many vectors, at which rates."""
        return {
            "trained": f"{self.tokens} input vectors before the question",
            "learning_rates": list(self.learning_rates),
        }

    def lend(self, cached: CachedModel, rows: Sequence[EncodedRow], setting: float) -> tuple[Lent, float]:
        """Vectors that begin as embeddings of tokens of T, drawn with the seed."""
        generator = random.Random(f"{self.name}-{self.seed}")
        seen = sorted({token for row in rows for token in row.input_ids[: row.n_prompt]})
        ids = [generator.choice(seen) for _ in range(self.tokens)]
        begin = cached.tokenizer.bos_token_id
        after = int(begin is not None and all(row.input_ids[0] == begin for row in rows))
        return SoftTokens(cached.model, ids, after), setting


class SoftTokens(Lent):
    """Vectors in place of the embeddings of the first tokens of every text.

    Texts get as many filler tokens, and what the embedding gives for these is replaced. So everything that reads token
    ids works as it is.

    Args:
        model: Its embedding is read, not changed.
        ids: Tokens whose embeddings the vectors begin as.
        after: Tokens of every text that stay before them: 1 where all begin with the same special one.
    """

    def __init__(self, model: PreTrainedModel, ids: Sequence[int], after: int = 0) -> None:
        import torch

        self._embedding: nn.Module = model.get_input_embeddings()
        with torch.no_grad():
            found: Tensor = self._embedding(torch.tensor([list(ids)], device=model.device))[0]
        self._begin = found.float().clone()
        # Embeddings differ a hundredfold in size between families: steps are in units of it.
        self._unit = float(self._begin.square().mean().sqrt()) or 1.0
        self._moved = torch.zeros_like(self._begin).requires_grad_(True)
        self._ids, self._after = tuple(ids), after

    @property
    def weights(self) -> list[Tensor]:
        """How far the vectors were moved, in units of a typical number of an embedding: ``[tokens, width]``."""
        return [self._moved]

    @property
    def vectors(self) -> Tensor:
        """What stands before every question: ``[tokens, width]``, float32."""
        return self._begin + self._unit * self._moved

    def text(self, row: EncodedRow) -> EncodedRow:
        """The row with filler tokens where the vectors go."""
        first, rest = row.input_ids[: self._after], row.input_ids[self._after :]
        return replace(row, input_ids=(*first, *self._ids, *rest), n_prompt=row.n_prompt + len(self._ids))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model reads the vectors at their places of every text."""
        import torch

        def change(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # A pass that only asks what the model is like may be shorter than the vectors.
            places = slice(self._after, min(self._after + len(self._ids), output.shape[-2]))
            vectors = self.vectors[: places.stop - places.start].to(output.device, output.dtype)
            vectors = vectors.expand(*output.shape[:-2], -1, -1)
            return torch.cat([output[..., : places.start, :], vectors, output[..., places.stop :, :]], dim=-2)

        handle = self._embedding.register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()
