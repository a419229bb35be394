from __future__ import annotations

import math

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.metrics import METRICS, apply_metrics, score_versions
from hf_unlearn.evaluation.metrics.text import text_entropy
from hf_unlearn.evaluation.records import ScoredRow
from hf_unlearn.evaluation.spec import NEEDS


def value(name: str, **fields) -> float | None:
    return METRICS.get(name).value(ScoredRow("id", "fact", "group", "forget", **fields))


def test_every_metric_is_none_on_an_empty_record():
    for entry in METRICS.entries():
        assert value(entry.name) is None, entry.name


def test_every_metric_says_its_version_source_and_needs():
    for entry in METRICS.entries():
        assert entry.version and entry.summary and entry.value.__doc__, entry.name
        assert entry.paper or entry.name == "exact_match", entry.name
        assert set(entry.needs) <= NEEDS, entry.name
    assert {entry.name for entry in METRICS.entries() if "generation" in entry.needs} == {
        "exact_match", "fluency", "knowmem", "verbmem",
        "rouge_1", "rouge_1_f1", "rouge_1_stem", "rouge_l", "rouge_l_f1", "rouge_l_stem",
    }  # fmt: skip
    assert score_versions(("rouge_l", "probability")) == {"rouge_l": 2, "probability": 1}


@pytest.mark.parametrize("name, number", [("probability", math.nan), ("loss", math.inf), ("min_k", math.nan)])
def test_a_value_that_is_no_finite_number_is_refused(name, number):
    row = ScoredRow("f7", "f", "g", "forget", logps=(-1.0, -number, -2.0), hits=(True,) * 3)
    with pytest.raises(RequestError, match=f"the {name} of row 'f7' of the set 'forget' is {number}"):
        apply_metrics([row], (name,))


def test_probability_is_the_geometric_mean():
    logps = (math.log(0.5), math.log(0.02))
    assert value("probability", logps=logps) == pytest.approx(0.1)  # sqrt(0.5 * 0.02)
    assert value("probability", logps=(math.log(0.3),)) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "hits, expected",
    [
        ("1111", 1.0),  # the prompt is enough
        ("0111", 0.75),  # one token has to be given
        ("1011", 0.5),  # a hit before the last miss does not count
        ("1110", 0.0),  # the last token is missed: the whole answer has to be given
        ("0000", 0.0),
        ("1", 1.0),
        ("0", 0.0),
        ("01", 0.5),
    ],
)
def test_extraction_strength(hits, expected):
    assert value("extraction_strength", hits=tuple(hit == "1" for hit in hits)) == expected


@pytest.mark.parametrize(
    "answer, generated, hits, expected",
    [
        (" 1987", " 1987", "0", 1.0),
        (" 1987", "1987. And then", "0", 1.0),
        (" 1987", " 19876", "0", 0.0),  # another number
        (" 1987", " It was 1987", "0", 0.0),  # does not start with it
        (" 1987", "", "0", 0.0),
        (" 1987", None, "0", 0.0),
        (" 1987", None, "11", 1.0),
        (" a long answer", " a long", "111", 1.0),  # generation stopped early; every token is the likeliest
        (" yes", "yes!", "0", 1.0),
        (" Yes.", "Yes.Then", "0", 1.0),  # no word is cut
        (" yes", "yesterday", "0", 0.0),
        ("  ", "anything", "0", 0.0),
    ],
)
def test_exact_match(answer, generated, hits, expected):
    flags = tuple(hit == "1" for hit in hits)
    assert value("exact_match", answer=answer, generated=generated, hits=flags) == expected


@pytest.mark.parametrize(
    "answer, generated, expected",
    [
        ("by the old town", "by the old town, of course", 1.0),  # recall: what follows does not matter
        ("by the old town", "the town", 0.5),
        ("by the old town", "town old the by", 0.25),  # a subsequence keeps the order
        ("by the old town", "", 0.0),
        ("The OLD Town", "the old town", 1.0),
        ("in Москве был год", "был год", 0.5),  # not only the Latin alphabet
        ("...", "...", None),  # no words to find
        ("a town", None, None),
    ],
)
def test_rouge_l_recall(answer, generated, expected):
    assert value("rouge_l", answer=answer, generated=generated) == expected


def test_rouge_l_is_that_of_the_library_on_plain_english():
    from rouge_score.rouge_scorer import RougeScorer

    answer, generated = "It's a well-known fact: 3 of 4 towns.", "3 of the four towns, in fact, it's known"
    expected = RougeScorer(["rougeL"], use_stemmer=False).score(answer, generated)["rougeL"].recall
    assert 0 < expected < 1
    assert value("rouge_l", answer=answer, generated=generated) == expected


@pytest.mark.parametrize(
    "logps, lengths, right, expected",
    [
        ((-1.0, -2.0, -3.0), (1, 1, 1), 0, 1.0),
        ((-1.0, -2.0, -3.0), (1, 1, 1), 1, 0.0),
        ((-4.0, -3.0), (4, 1), 0, 1.0),  # -1 a token against -3
        ((-4.0, -3.0), (1, 3), 0, 0.0),
        ((-2.0, -2.0), (1, 1), 0, 0.0),  # a tie counts against the model
        ((-2.0, -2.0), (1, 1), 1, 0.0),
    ],
)
def test_mc_accuracy(logps, lengths, right, expected):
    assert value("mc_accuracy", choice_logps=logps, choice_lengths=lengths, right_choice=right) == expected


def test_mc_probability_is_the_right_share_of_probabilities_per_token():
    logps = (2 * math.log(0.6), math.log(0.2), 3 * math.log(0.4))
    found = value("mc_probability", choice_logps=logps, choice_lengths=(2, 1, 3), right_choice=0)
    assert found == pytest.approx(0.6 / (0.6 + 0.2 + 0.4))
    far = value("mc_probability", choice_logps=(-5000.0, -5000.0), choice_lengths=(1, 1), right_choice=1)
    assert far == pytest.approx(0.5), "no underflow"


def test_fluency_is_the_weighted_entropy_of_bigrams_and_trigrams():
    # a b a b c: bigrams ab 2, ba 1, bc 1; trigrams aba, bab, abc once each
    bigrams = 0.5 * 1 + 2 * 0.25 * 2
    assert value("fluency", generated="a b a b c") == pytest.approx((2 / 3 * bigrams + 4 / 3 * math.log2(3)) / 2)
    assert text_entropy("no no no no no no no") == 0.0
    assert value("fluency", generated="") == 0.0
    assert text_entropy("one two. three") == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * 1) / 2)


def test_apply_metrics_leaves_out_what_does_not_apply():
    rows = [
        ScoredRow("a", "a", "a", "forget", logps=(-1.0,), hits=(True,)),
        ScoredRow("b", "b", "b", "forget", values={"other": 2.0}),
    ]
    first, second = apply_metrics(rows, ("probability", "mc_accuracy"))
    assert first.values == {"probability": math.exp(-1.0)}
    assert second.values == {"other": 2.0}
    with pytest.raises(RequestError, match="did you mean 'probability'"):
        apply_metrics(rows, ("probabilty",))
