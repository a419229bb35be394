"""Metrics of generated text."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from typing import Any

from ..records import ScoredRow
from . import METRICS


@METRICS.register(
    "exact_match", summary="whether the greedy continuation starts with the answer", needs=("generation",)
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


@METRICS.register(
    "rouge_l",
    summary="ROUGE-L recall of the greedy continuation against the answer",
    paper="arXiv 2401.06121",
    needs=("generation",),
)
def rouge_l(row: ScoredRow) -> float | None:
    """Longest common subsequence of words, divided by the number of the answer's words, in 0 ... 1.

    Recall, as in TOFU (MUSE uses F1): the continuation may go on after the answer. Words are lower-cased runs of
    letters and digits of any script, without stemming.
    """
    if row.generated is None or not WordTokenizer().tokenize(row.answer):
        return None
    return float(_scorer().score(row.answer, row.generated)["rougeL"].recall)


@METRICS.register(
    "fluency",
    summary="n-gram entropy of the greedy continuation, in bits",
    paper="arXiv 2202.05262 (generation entropy); weights as in arXiv 2410.16454",
    needs=("generation",),
)
def fluency(row: ScoredRow) -> float | None:
    """``(2/3 * H2 + 4/3 * H3) / 2``, entropies of word bigrams and trigrams in bits: see :func:`text_entropy`."""
    return None if row.generated is None else text_entropy(row.generated)


def text_entropy(text: str) -> float:
    """Weighted entropy of a text's word bigrams and trigrams, in bits. Repetition lowers it; no text at all has 0."""
    words = re.findall(r"\w+|[^\w\s]", text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


class WordTokenizer:
    """Words for ROUGE in any script; for plain English the same as rouge_score's own."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-cased runs of letters and digits."""
        return re.findall(r"[^\W_]+", text.lower())


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=WordTokenizer())


def _entropy(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    total = sum(counts.values())
    # The sum of p * log2(1 / p): never -0.0.
    return sum(count / total * math.log2(total / count) for count in counts.values())
