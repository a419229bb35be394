"""KL divergence to the target model on the retain set."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from .. import RETAIN_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens, log_softmax


@RETAIN_LOSSES.register(
    "kl",
    summary="KL divergence from the target model's next-token distribution on the retain answers.",
    paper="arXiv 2404.05868",
    needs=("retain", "reference"),
)
class KLRetainLoss(Loss):
    r"""Forward KL divergence, from the reference to the model being trained, averaged over label positions.

    .. math:: L = \frac{1}{N} \sum_{i,t} \sum_v p_{ref}(v \mid \cdot)
              \left(\log p_{ref}(v \mid \cdot) - \log p_\theta(v \mid \cdot)\right)

    with ``N`` the number of label positions of the global batch. The direction is :math:`KL(p_{ref} \| p_\theta)`: the
    expectation is taken under the reference, so the model must cover whatever the target model finds likely. Both
    distributions are normalized over the whole vocabulary; the divergence is zero at the target, never negative.

    Public code divides by all positions of the batch, prompt and padding among them, so that published weights of the
    KL term do not carry over: on rows with long prompts it is a smaller term that also points elsewhere (cosine of the
    two gradients 0.75 on such rows).

    Cost: a forward and a backward pass; of the target the hidden states that go into its output head are kept for
    every retain label (its width, not the vocabulary), and the head is applied to those of each batch.

    Source: the KL-regularized retain terms in Zhang et al. (arXiv 2404.05868) and *Catastrophic Failure of LLM
    Unlearning via Quantization* (arXiv 2410.16454).
    """

    uses_reference_logits: ClassVar[bool] = True
    metric: ClassVar[str | None] = "kl"

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions; needs ``reference_logits`` of shape ``[N, vocabulary]``."""
        if scores.reference_logits is None:
            raise ValueError("the KL retain loss needs the logits of the reference model")
        reference = log_softmax(scores.reference_logits)
        divergence = F.kl_div(scores.all_logps, reference, reduction="sum", log_target=True)
        return LossSum(divergence, scores.n_labels)
