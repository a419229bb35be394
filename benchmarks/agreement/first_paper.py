"""zzwjames/FailureLLMUnlearning: entropy of n-grams, on the same words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hf_unlearn.evaluation.metrics.text import ngram_entropy

from .common import Comparison, borrow
from .random_rows import random_texts


def compare_first_paper(root: Path, report: Comparison) -> None:
    """Entropy of n-grams, on the same words."""
    import nltk

    words = SimpleNamespace(word_tokenize=str.split, ngrams=nltk.ngrams, FreqDist=nltk.FreqDist)
    code = borrow(
        root / "LLama_factory" / "src" / "llmtuner" / "eval" / "eval_fluency.py",
        "compute_freq", "compute_n_gram_entropy", nltk=words,
    )  # fmt: skip
    code.compute_n_gram_entropy.__globals__["compute_freq"] = code.compute_freq
    texts = [text for _, text in random_texts(6) if len(text.split()) > 2]  # shorter ones are not defined there
    theirs = [float(code.compute_n_gram_entropy(text)) for text in texts]
    report.add(
        "fluency", "FailureLLMUnlearning", [ngram_entropy(text.split()) for text in texts], theirs, "same words"
    )
