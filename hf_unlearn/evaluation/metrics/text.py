"""Metrics of generated text."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from typing import Any

from ..records import ScoredRow
from . import METRICS
from .words import WordTokenizer

STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer to a few-shot question ends (MUSE)."""


@METRICS.register(
    "exact_match",
    summary="whether the greedy continuation starts with the answer",
    needs=("generation",),
    version=1,
)
def exact_match(row: ScoredRow) -> float | None:
    """1 if the greedy continuation begins with the answer, else 0. What follows the answer is not looked at.

    True if every answer token was the most likely one given those before it, which is what greedy decoding follows,
    however few tokens were generated. Else also true if the generated text, white space around it and the answer
    aside, begins with the answer and does not go on in the middle of a word or number (``1987`` is not in ``19876``):
    the same text can come from other tokens.
    """
    if row.hits and all(row.hits):
        return 1.0
    if row.generated is None:
        return 0.0 if row.hits else None
    answer, generated = row.answer.strip(), row.generated.strip()
    following = generated[len(answer) : len(answer) + 1]
    cut_word = following.isalnum() and answer[-1:].isalnum()
    return float(bool(answer) and generated.startswith(answer) and not cut_word)


def _register_rouge(name: str, kind: str, part: str, stem: bool, version: int, where: str) -> None:
    """ROUGE of the greedy continuation: ``part`` is ``recall`` or ``fmeasure``."""
    what = f"{'ROUGE-1' if kind == 'rouge1' else 'ROUGE-L'} {'recall' if part == 'recall' else 'F1'}"

    def metric(row: ScoredRow) -> float | None:
        return None if row.generated is None else rouge(row.answer, row.generated, kind, part, stem)

    metric.__name__ = name
    metric.__doc__ = f"{what} of the greedy continuation{', on word stems' if stem else ''}: see :func:`rouge`."
    METRICS.register(
        name,
        summary=f"{what} of the greedy continuation against the answer{', on word stems' if stem else ''}",
        paper=where,
        needs=("generation",),
        version=version,
    )(metric)


_ROUGE = "Lin 2004 (ROUGE)"
_register_rouge("rouge_1", "rouge1", "recall", False, 1, _ROUGE)
_register_rouge("rouge_1_f1", "rouge1", "fmeasure", False, 1, _ROUGE)
_register_rouge("rouge_l", "rougeL", "recall", False, 2, f"{_ROUGE}, arXiv 2401.06121")
_register_rouge("rouge_l_f1", "rougeL", "fmeasure", False, 1, f"{_ROUGE}, arXiv 2407.06460")
_register_rouge("rouge_1_stem", "rouge1", "recall", True, 1, "arXiv 2401.06121 (as its code has it)")
_register_rouge("rouge_l_stem", "rougeL", "recall", True, 1, "arXiv 2401.06121 (as its code has it)")


@METRICS.register(
    "verbmem",
    summary="VerbMem: ROUGE-L F1 of the greedy continuation against the true one",
    paper="arXiv 2407.06460, section 3.1",
    needs=("generation",),
    version=1,
)
def verbmem(row: ScoredRow) -> float | None:
    """ROUGE-L F1 without stemming, in 0 ... 1 (published times 100). The suite sets prompts and lengths."""
    return None if row.generated is None else rouge(row.answer, row.generated, "rougeL", "fmeasure")


@METRICS.register(
    "verbmem_sampled",
    summary="VerbMem with sampled instead of greedy continuations",
    paper="arXiv 2410.16454 (as its code has it: temperature 0.9)",
    needs=("samples",),
    version=1,
)
def verbmem_sampled(row: ScoredRow) -> float | None:
    """Mean over samples of ROUGE-L F1 against the true continuation, in 0 ... 1."""
    if not row.samples:
        return None
    scores = [rouge(row.answer, sample, "rougeL", "fmeasure") for sample in row.samples]
    found = [score for score in scores if score is not None]
    return sum(found) / len(found) if found else None


@METRICS.register(
    "knowmem",
    summary="KnowMem: ROUGE-L F1 of the greedy answer to a few-shot question",
    paper="arXiv 2407.06460, section 3.1",
    needs=("generation",),
    version=1,
)
def knowmem(row: ScoredRow) -> float | None:
    """ROUGE-L F1 without stemming of the continuation up to the first of :data:`STOPS`, in 0 ... 1."""
    if row.generated is None:
        return None
    text = row.generated
    for stop in STOPS:
        text = text.split(stop)[0]
    return rouge(row.answer, text, "rougeL", "fmeasure")


@METRICS.register(
    "fluency",
    summary="n-gram entropy of the greedy continuation, in bits",
    paper="arXiv 2202.05262 (generation entropy); weights as in arXiv 2410.16454",
    needs=("generation",),
    version=1,
)
def fluency(row: ScoredRow) -> float | None:
    """``(2/3 * H2 + 4/3 * H3) / 2``, entropies of word bigrams and trigrams in bits: see :func:`text_entropy`."""
    return None if row.generated is None else text_entropy(row.generated)


def rouge(answer: str, generated: str, kind: str, part: str, stem: bool = False) -> float | None:
    """ROUGE of a text against the answer.

    Recall is the number of shared words over the answer's words, precision that over the text's words, and F1 their
    harmonic mean. Shared are words in common (ROUGE-1), or the longest common subsequence of words (ROUGE-L).
    Recall ignores text after the answer; F1 does.

    Args:
        answer: The true answer.
        generated: The text.
        kind: ``rouge1`` or ``rougeL``.
        part: ``recall`` or ``fmeasure``.
        stem: Compare word stems.

    Returns:
        A number in 0 ... 1, ``None`` if the answer has no words (:class:`~.words.WordTokenizer`).
    """
    if not WordTokenizer().tokenize(answer):
        return None
    return float(getattr(_scorer(stem, kind).score(answer, generated)[kind], part))


def text_entropy(text: str) -> float:
    """Weighted entropy of a text's word bigrams and trigrams, in bits. Repetition lowers it; no text at all has 0."""
    return ngram_entropy(re.findall(r"\w+|[^\w\s]", text))


def ngram_entropy(words: list[str]) -> float:
    """``(2/3 * H2 + 4/3 * H3) / 2`` with ``Hn = sum p log2(1 / p)`` over the n-grams of ``words``."""
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


@functools.cache
def _scorer(stem: bool, kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=WordTokenizer(stem))


def _entropy(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    total = sum(counts.values())
    # The sum of p * log2(1 / p): never -0.0.
    return sum(count / total * math.log2(total / count) for count in counts.values())
