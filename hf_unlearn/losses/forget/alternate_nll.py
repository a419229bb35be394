"""Cross-entropy on other answers to the forget prompts. The true answers are not looked at."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


class AlternateNLLLoss(Loss):
    r"""Negative log-likelihood of alternates, averaged over their tokens.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \log p_\theta(y'_{i,t} \mid x_i, y'_{i,<t})

    with ``y'`` another answer to prompt ``x`` and ``N`` the tokens of all of them in the global batch. Zero at best.
    The true answer is only pushed away as far as another takes its place.

    Cost: a forward and a backward pass over prompts and alternates; no reference.
    """

    uses_alternates: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of the alternates, ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Minus the sum of label log-probabilities over ``[N]`` positions of the alternates."""
        return LossSum(-scores.logps.sum(), scores.n_labels)


@FORGET_LOSSES.register(
    "idk-nll",
    summary="Gradient descent on refusals in place of the true answers.",
    paper="arXiv 2401.06121",
    needs=("alternates",),
)
class IdkNLLLoss(AlternateNLLLoss):
    """:class:`AlternateNLLLoss` on refusals: the model learns to say that it does not know.

    In the sweep of arXiv 2605.24614 no setting of it scored above 0: what a model refuses to say it still knows.

    Source: Maini et al., *TOFU: A Task of Fictitious Unlearning for LLMs* (arXiv 2401.06121).
    """

    default_alternates: ClassVar[str | None] = "refusals"


@FORGET_LOSSES.register(
    "random-incorrect",
    summary="Random incorrect answer (RIA): gradient descent on wrong answers, another one each epoch.",
    paper="arXiv 2410.08827",
    needs=("alternates", "options"),
)
class RandomIncorrectLoss(AlternateNLLLoss):
    """:class:`AlternateNLLLoss` on wrong options of each row, of which every epoch draws one.

    The paper's data hold up to three paraphrases of a fact, each with a wrong option of its own, written beforehand;
    here the row's options serve and the draw goes on from epoch to epoch.

    Source: Deeb and Roger, *Do Unlearning Methods Remove Information from Language Model Weights?* (arXiv 2410.08827);
    learning rate 8e-7 with Lion, 5 epochs, retain weights from 0.001 to 100.
    """

    default_alternates: ClassVar[str | None] = "options"


@FORGET_LOSSES.register(
    "fixed-incorrect",
    summary="Fixed incorrect answer: gradient descent on one wrong answer, the same in every row of a fact.",
    paper="arXiv 2410.08827",
    needs=("alternates", "options"),
)
class FixedIncorrectLoss(AlternateNLLLoss):
    """:class:`AlternateNLLLoss` on one wrong option for all rows of a fact, in every epoch.

    Source: Deeb and Roger (arXiv 2410.08827); the learning rate is that of ``random-incorrect``.
    """

    default_alternates: ClassVar[str | None] = "fixed-option"
