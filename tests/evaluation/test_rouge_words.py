"""ROUGE and what is made of it, in any script."""

from __future__ import annotations

import random

import by_hand
import pytest

from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.metrics.words import WordTokenizer
from hf_unlearn.evaluation.records import ScoredRow


def value(name: str, answer: str, generated: str | None, samples: tuple[str, ...] = ()) -> float | None:
    row = ScoredRow("id", "fact", "group", "forget", answer=answer, generated=generated, samples=samples)
    return METRICS.get(name).value(row)


def english(seed: int, count: int) -> str:
    generator = random.Random(seed)
    words = ["running", "Rivers", "lovely", "the", "of", "a", "1987,", "well-known", "it's", "towns.", "flies"]
    return " ".join(generator.choices(words, k=count))


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_loops_by_hand(seed):
    answer, text = english(seed, 11), english(seed + 100, 17)
    tokenizer = WordTokenizer()
    ours, theirs = tokenizer.tokenize(answer), tokenizer.tokenize(text)
    left, common = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            common += 1
    longest = by_hand.longest_common(ours, theirs)
    assert value("rouge_1", answer, text) == pytest.approx(common / len(ours), abs=1e-12)
    assert value("rouge_1_f1", answer, text) == pytest.approx(by_hand.f1(common, len(ours), len(theirs)), abs=1e-12)
    assert value("rouge_l", answer, text) == pytest.approx(longest / len(ours), abs=1e-12)
    expected = by_hand.f1(longest, len(ours), len(theirs))
    for name in ("rouge_l_f1", "verbmem", "knowmem"):
        assert value(name, answer, text) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("stem", [True, False])
def test_is_that_of_the_library_on_plain_english(seed, stem):
    from rouge_score.rouge_scorer import RougeScorer

    answer, text = english(seed, 11), english(seed + 100, 17)
    scores = RougeScorer(["rouge1", "rougeL"], use_stemmer=stem).score(answer, text)
    end = "_stem" if stem else ""
    assert value(f"rouge_1{end}", answer, text) == scores["rouge1"].recall
    assert value(f"rouge_l{end}", answer, text) == scores["rougeL"].recall
    if not stem:
        assert value("rouge_l_f1", answer, text) == scores["rougeL"].fmeasure


def test_stems():
    assert value("rouge_l", "running towns", "run town") == 0.0
    assert value("rouge_l_stem", "running towns", "run town") == 1.0


@pytest.mark.parametrize(
    "text, words",
    [
        ("It's 3 o'clock, MISTER_X.", ["it", "s", "3", "o", "clock", "mister", "x"]),
        ("Война и мир", ["война", "и", "мир"]),
        ("ولد في القاهرة عام 1911", ["ولد", "في", "القاهرة", "عام", "1911"]),
        ("מֹשֶׁה נולד", ["מֹשֶׁה", "נולד"]),  # vowel points belong to their word
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京で生まれ", ["東", "京", "で", "生", "ま", "れ"]),  # no spaces: every letter
        ("born in 東京 1911", ["born", "in", "東", "京", "1911"]),
        ("กรุงเทพ", ["ก", "รุ", "ง", "เ", "ท", "พ"]),
        ("Cafe\u0301", ["caf\u00e9"]),  # composed
        ("... — !", []),
        ("", []),
    ],
)
def test_words(text, words):
    import unicodedata

    assert WordTokenizer().tokenize(text) == [unicodedata.normalize("NFC", word) for word in words]


@pytest.mark.parametrize(
    "answer, generated, expected",
    [
        ("ولد في القاهرة", "في القاهرة ولد", 2 / 3),
        ("東京で生まれた", "京都で生まれた", 6 / 7),  # 京, で, 生, ま, れ, た of seven letters
        ("мир", "", 0.0),
    ],
)
def test_rouge_l_of_other_scripts(answer, generated, expected):
    assert value("rouge_l", answer, generated) == pytest.approx(expected)


def test_an_empty_continuation_scores_nothing():
    for name in ("rouge_1", "rouge_1_f1", "rouge_l", "rouge_l_f1", "rouge_l_stem", "verbmem", "knowmem"):
        assert value(name, "a town", "") == 0.0
        assert value(name, "a town", "a town") == 1.0
        assert value(name, "?!", "a town") is None  # no words to find
        assert value(name, "a town", None) is None


def test_knowmem_ends_at_the_next_question():
    answer = "in Paris"
    assert value("knowmem", answer, "in Paris\n\nQuestion: Where is it not?") == 1.0
    assert value("knowmem", answer, "in Paris Question: and where") == 1.0
    assert value("verbmem", answer, "in Paris Question: and where") < 1.0


def test_sampled_verbmem_is_the_mean_over_samples():
    answer = "by the old town"
    assert value("verbmem_sampled", answer, None, ("by the old town", "nothing")) == 0.5
    assert value("verbmem_sampled", answer, "by the old town") is None
    assert value("verbmem_sampled", "...", None, ("by",)) is None
