"""Every loss with its formula by plain Python loops in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from random_batch import VOCABULARY, WIDTH, Batch

from hf_unlearn.losses.forget.bs_s import BootstrapSequenceLoss
from hf_unlearn.losses.forget.bs_t import BootstrapTokenLoss
from hf_unlearn.losses.forget.ce_u import CrossEntropyUnlearningLoss
from hf_unlearn.losses.forget.clamped_entropy import ClampedEntropyLoss
from hf_unlearn.losses.forget.dpo import DPOLoss
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.idk_nll import IdkNLLLoss
from hf_unlearn.losses.forget.jensen_shannon import JensenShannonLoss
from hf_unlearn.losses.forget.margin import MarginLoss
from hf_unlearn.losses.forget.margin_to_reference import MarginToReferenceLoss
from hf_unlearn.losses.forget.max_entropy import MaxEntropyLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.losses.forget.pdu import PDULoss
from hf_unlearn.losses.forget.rmu import RMULoss
from hf_unlearn.losses.forget.satimp import SatImpLoss
from hf_unlearn.losses.forget.simnpo import SimNPOLoss
from hf_unlearn.losses.forget.undial import UndialLoss
from hf_unlearn.losses.forget.wga import WeightedGradientAscentLoss
from hf_unlearn.losses.retain.hidden import HiddenRetainLoss
from hf_unlearn.losses.retain.jensen_shannon import JensenShannonRetainLoss
from hf_unlearn.losses.retain.kl import KLRetainLoss
from hf_unlearn.losses.retain.nll import NLLRetainLoss


def by_hand_ga(batch: Batch) -> float:
    terms = batch.terms()
    return sum(batch.logp(batch.logits, *term) for term in terms) / len(terms)


def by_hand_nll(batch: Batch) -> float:
    return -by_hand_ga(batch)


def by_hand_npo(batch: Batch, beta: float) -> float:
    rows = batch.labelled_rows()
    total = 0.0
    for row in rows:
        ratio = batch.logp_sum(batch.logits, row) - batch.logp_sum(batch.reference, row)
        total += -(2 / beta) * math.log(1 / (1 + math.exp(beta * ratio)))
    return total / len(rows)


def by_hand_kl(batch: Batch) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, _ in terms:
        for token in range(VOCABULARY):
            reference = batch.logp(batch.reference, row, time, token)
            total += math.exp(reference) * (reference - batch.logp(batch.logits, row, time, token))
    return total / len(terms)


def by_hand_simnpo(batch: Batch, beta: float, gamma: float) -> float:
    rows = batch.labelled_rows()
    total = 0.0
    for row in rows:
        length = sum(1 for term in batch.terms() if term[0] == row)
        inside = -(beta / length) * batch.logp_sum(batch.logits, row) - gamma
        total += -(2 / beta) * math.log(1 / (1 + math.exp(-inside)))
    return total / len(rows)


def by_hand_weighted(batch: Batch, beta1: float, beta2: float) -> float:
    logps = [batch.logp(batch.logits, *term) for term in batch.terms()]
    return sum(math.exp(logp) ** beta1 * (1 - math.exp(logp)) ** beta2 * logp for logp in logps) / len(logps)


def by_hand_ce_u(batch: Batch, skip_first: int) -> float:
    total, count, seen = 0.0, 0, dict.fromkeys(range(5), 0)
    for row, time, label in batch.terms():
        seen[row] += 1
        if seen[row] <= skip_first:
            continue
        count += 1
        rest = 1 - math.exp(batch.logp(batch.logits, row, time, label))
        for token in range(VOCABULARY):
            if token != label:
                logp = batch.logp(batch.logits, row, time, token)
                total -= math.exp(logp) / rest * logp
    return total / count


def by_hand_max_entropy(batch: Batch) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, _ in terms:
        for token in range(VOCABULARY):
            logp = batch.logp(batch.logits, row, time, token)
            total += math.exp(logp) * (logp - math.log(1 / VOCABULARY))
    return total / len(terms)


def by_hand_dpo(batch: Batch, beta: float) -> float:
    others, rows = batch.alternates, batch.labelled_rows()
    total = 0.0
    for row in rows:
        gained = others.logp_sum(others.logits, row) - others.logp_sum(others.reference, row)
        gained -= batch.logp_sum(batch.logits, row) - batch.logp_sum(batch.reference, row)
        total += -(2 / beta) * math.log(1 / (1 + math.exp(-beta * gained)))
    return total / len(rows)


def by_hand_undial(batch: Batch, beta: float) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, label in terms:
        lowered = [float(value) - beta * (token == label) for token, value in enumerate(batch.reference[row, time])]
        whole = sum(math.exp(value) for value in lowered)
        for token, value in enumerate(lowered):
            total -= math.exp(value) / whole * batch.logp(batch.logits, row, time, token)
    return total / len(terms)


def by_hand_pdu(batch: Batch) -> float:
    squares = []
    for row, time, _ in batch.terms():
        values = [float(value) for value in batch.logits[row, time]]
        squares.append((max(values) - sum(values) / len(values)) ** 2)
    return sum(squares) / len(squares)


def margin(logits: torch.Tensor, label: int) -> float:
    values = [float(value) for value in logits]
    return values[label] - max(value for token, value in enumerate(values) if token != label)


def by_hand_margin(batch: Batch, kappa: float, to_reference: bool) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, label in terms:
        aim = margin(batch.reference[row, time], label) if to_reference else 0.0
        total += max(0.0, margin(batch.logits[row, time], label) - aim + kappa)
    return total / len(terms)


def by_hand_jensen_shannon(batch: Batch) -> float:
    """Divergence from one-hot distributions, written out over the vocabulary."""
    answers: dict[int, list[int]] = {}
    for row, _, label in batch.alternates.terms():
        answers.setdefault(row, []).append(label)
    places = dict.fromkeys(range(5), 0)
    terms = batch.terms()
    total = 0.0
    for row, time, _ in terms:
        wanted = answers[row][places[row] % len(answers[row])]
        places[row] += 1
        for token in range(VOCABULARY):
            p, q = math.exp(batch.logp(batch.logits, row, time, token)), float(token == wanted)
            middle = (p + q) / 2
            total += 0.5 * p * math.log(p / middle) + (0.5 * math.log(1 / middle) if q else 0.0)
    return total / len(terms)


def by_hand_jensen_shannon_retain(batch: Batch) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, _ in terms:
        for token in range(VOCABULARY):
            p = math.exp(batch.logp(batch.logits, row, time, token))
            q = math.exp(batch.logp(batch.reference, row, time, token))
            total += 0.5 * (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q)))
    return total / len(terms)


def by_hand_distance(batch: Batch, aim: Callable[[int, int], list[float]]) -> float:
    """Mean over rows of the mean over their positions of the squared distance of hidden states to ``aim``."""
    lengths, total = batch.lengths(), 0.0
    for row, time, _ in batch.terms():
        pairs = zip(batch.hidden[row, time].tolist(), aim(row, time), strict=True)
        total += sum((value - wanted) ** 2 for value, wanted in pairs) / lengths[row]
    return total / len(batch.labelled_rows())


def by_hand_rmu(batch: Batch, coefficient: float, seed: int) -> float:
    vector = torch.rand(WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    length = math.sqrt(sum(value**2 for value in vector))
    return by_hand_distance(batch, lambda row, time: [coefficient * value / length for value in vector])


def by_hand_hidden(batch: Batch) -> float:
    return by_hand_distance(batch, lambda row, time: batch.reference_hidden[row, time].tolist())


def by_hand_clamped_entropy(batch: Batch, tau: float) -> float:
    terms, total = batch.terms(), 0.0
    for row, time, _ in terms:
        logps = [batch.logp(batch.logits, row, time, token) for token in range(VOCABULARY)]
        total += max(0.0, tau * math.log(VOCABULARY) + sum(math.exp(logp) * logp for logp in logps))
    return total / len(terms)


def by_hand_bs_t(batch: Batch, share: float, top_k: int) -> float:
    lengths, total = batch.lengths(), 0.0
    for row, time, label in batch.terms():
        logps = [batch.logp(batch.logits, row, time, token) for token in range(VOCABULARY)]
        likely = sorted(range(VOCABULARY), key=lambda token, found=logps: -found[token])[:top_k]
        mass = sum(math.exp(logps[token]) for token in likely)
        beliefs = sum(math.exp(logps[token]) / mass * logps[token] for token in likely)
        total += (share * beliefs + (1 - share) * logps[label]) / lengths[row]
    return total / len(batch.labelled_rows())


def by_hand_bs_s(batch: Batch, sequences: float, share: float, top_k: int) -> float:
    own, written = (by_hand_bs_t(each, share, top_k) for each in (batch, batch.alternates))
    return (1 - sequences) * own + sequences * written


CASES = {
    "ga": (GradientAscentLoss(), by_hand_ga),
    "npo-0.1": (NPOLoss(beta=0.1), lambda batch: by_hand_npo(batch, 0.1)),
    "npo-1.5": (NPOLoss(beta=1.5), lambda batch: by_hand_npo(batch, 1.5)),
    "simnpo": (SimNPOLoss(), lambda batch: by_hand_simnpo(batch, 2.5, 0.0)),
    "simnpo-margin": (SimNPOLoss(beta=1.5, gamma=0.7), lambda batch: by_hand_simnpo(batch, 1.5, 0.7)),
    "wga": (WeightedGradientAscentLoss(), lambda batch: by_hand_weighted(batch, 1, 0)),
    "wga-0.5": (WeightedGradientAscentLoss(beta=0.5), lambda batch: by_hand_weighted(batch, 0.5, 0)),
    "satimp": (SatImpLoss(), lambda batch: by_hand_weighted(batch, 5, 1)),
    "satimp-other": (SatImpLoss(beta1=0.5, beta2=2.0), lambda batch: by_hand_weighted(batch, 0.5, 2)),
    "ce-u": (CrossEntropyUnlearningLoss(), lambda batch: by_hand_ce_u(batch, 1)),
    "ce-u-all": (CrossEntropyUnlearningLoss(skip_first=0), lambda batch: by_hand_ce_u(batch, 0)),
    "max-entropy": (MaxEntropyLoss(), by_hand_max_entropy),
    "nll": (NLLRetainLoss(), by_hand_nll),
    "kl": (KLRetainLoss(), by_hand_kl),
    "dpo": (DPOLoss(), lambda batch: by_hand_dpo(batch, 0.1)),
    "dpo-1.5": (DPOLoss(beta=1.5), lambda batch: by_hand_dpo(batch, 1.5)),
    "idk-nll": (IdkNLLLoss(), lambda batch: by_hand_nll(batch.alternates)),
    "undial": (UndialLoss(), lambda batch: by_hand_undial(batch, 10.0)),
    "undial-3": (UndialLoss(beta=3.0), lambda batch: by_hand_undial(batch, 3.0)),
    "pdu": (PDULoss(), by_hand_pdu),
    "margin": (MarginLoss(), lambda batch: by_hand_margin(batch, 1.0, False)),
    "margin-to-reference": (MarginToReferenceLoss(2.0), lambda batch: by_hand_margin(batch, 2.0, True)),
    "jensen-shannon": (JensenShannonLoss(), by_hand_jensen_shannon),
    "jensen-shannon-retain": (JensenShannonRetainLoss(), by_hand_jensen_shannon_retain),
    "rmu": (RMULoss(), lambda batch: by_hand_rmu(batch, 6.5, 0)),
    "rmu-other": (RMULoss(coefficient=0.5, vector_seed=3), lambda batch: by_hand_rmu(batch, 0.5, 3)),
    "hidden": (HiddenRetainLoss(), by_hand_hidden),
    "clamped-entropy": (ClampedEntropyLoss(), lambda batch: by_hand_clamped_entropy(batch, 0.7)),
    "clamped-entropy-other": (ClampedEntropyLoss(0.4), lambda batch: by_hand_clamped_entropy(batch, 0.4)),
    "bs-t": (BootstrapTokenLoss(), lambda batch: by_hand_bs_t(batch, 0.5, 20)),
    "bs-t-few": (BootstrapTokenLoss(share=0.8, top_k=3), lambda batch: by_hand_bs_t(batch, 0.8, 3)),
    "bs-s": (BootstrapSequenceLoss(0.3, 0.6, 4), lambda batch: by_hand_bs_s(batch, 0.3, 0.6, 4)),
}
"""Losses and their formulas, by a name of the case."""

COUNTS_ROWS = (
    NPOLoss,
    SimNPOLoss,
    DPOLoss,
    RMULoss,
    HiddenRetainLoss,
    BootstrapTokenLoss,
    BootstrapSequenceLoss,
)
"""Losses whose mean runs over rows, not tokens."""
