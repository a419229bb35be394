"""Pooled retention, from the table of the paper that the 21 % and 83 % come from."""

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.report_sections import Cell, pooled_retention, pooled_rows

CORPORA, METRICS = ("NEWS", "BOOKS"), ("M1", "M2")
METHODS = ("GA_GDR", "GA_KLR", "NPO_GDR", "NPO_KLR")
# Table 1 of arXiv 2410.16454: verbatim (M1) and knowledge (M2) memorization of the forget set.
# Model: NEWS in full precision, NEWS in 4 bits, BOOKS in full precision, BOOKS in 4 bits.
TABLE_1 = {
    "target": ((58.4, 63.9), (34.2, 54.4), (99.8, 59.4), (85.3, 36.8)),
    "GA_GDR": ((0.0, 28.9), (25.0, 50.1), (0.0, 2.9), (17.9, 33.7)),
    "GA_KLR": ((14.1, 27.1), (33.8, 50.9), (13.0, 15.1), (75.6, 34.6)),
    "NPO_GDR": ((0.3, 46.1), (33.2, 51.4), (0.4, 13.4), (66.0, 31.9)),
    "NPO_KLR": ((16.6, 36.6), (34.1, 53.7), (12.4, 13.7), (70.9, 34.2)),
}


def published():
    places = [(corpus, precision) for corpus in CORPORA for precision in ("full", "4-bit")]
    return {
        Cell(model, corpus, precision, metric): value
        for model, cells in TABLE_1.items()
        for (corpus, precision), pair in zip(places, cells, strict=True)
        for metric, value in zip(METRICS, pair, strict=True)
    }


def test_the_published_figures():
    table = published()
    full = pooled_retention(table, METHODS, CORPORA, METRICS, "full")
    quantized = pooled_retention(table, METHODS, CORPORA, METRICS, "4-bit")
    assert f"{full:.1%}" == "21.4%"
    assert f"{quantized:.1%}" == "82.7%"


def test_the_example_in_the_papers_text():
    """GA_KLR on BOOKS by M1 alone: 13 % to about 89 %, each beside the target at the same precision."""
    table = published()
    assert pooled_retention(table, ["GA_KLR"], ["BOOKS"], ["M1"], "full") == pytest.approx(0.130, abs=5e-4)
    assert pooled_retention(table, ["GA_KLR"], ["BOOKS"], ["M1"], "4-bit") == pytest.approx(0.886, abs=5e-4)


def test_what_is_missing_is_named():
    table = published()
    del table[Cell("GA_KLR", "BOOKS", "4-bit", "M2")]
    with pytest.raises(RequestError, match="M2 of GA_KLR on BOOKS at 4-bit"):
        pooled_retention(table, METHODS, CORPORA, METRICS, "4-bit")
    with pytest.raises(RequestError, match="method"):
        pooled_retention(table, [], CORPORA, METRICS, "full")


def test_a_target_that_knows_nothing_gives_nothing():
    table = {Cell(model, "c", "full", "m"): 0.0 for model in ("target", "a")}
    assert pooled_retention(table, ["a"], ["c"], ["m"], "full") is None


def test_rows_of_a_run(scenario):
    made = scenario(("identity", "bnb-nf4"))
    made.model("target", 0.9).model("a", 0.09, bnb_nf4=0.72).model("b", 0.27, bnb_nf4=0.9)
    rows = pooled_rows(made.table, ["a", "b"], ["probability", "mc_accuracy", "never_scored"])
    found = {row.transform: row.retention for row in rows}
    assert found["identity"] == pytest.approx(0.2, abs=0.02)
    assert found["bnb-nf4"] == pytest.approx(0.9, abs=0.02)
    assert rows[0].methods == ("a", "b")
    assert rows[0].metrics == ("probability", "mc_accuracy")
    assert pooled_rows(made.table, ["a"], ["probability"]) == []


def test_a_transform_that_one_method_lacks_is_left_out(scenario):
    made = scenario(("identity", "bnb-nf4")).model("target", 0.9).model("a", 0.1).model("b", 0.1)
    made.drop("b", "bnb-nf4", metric="probability")
    rows = pooled_rows(made.table, ["a", "b"], ["probability", "mc_accuracy"])
    assert [row.transform for row in rows] == ["identity"]
