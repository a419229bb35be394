"""Telling forgotten rows from holdout rows: reported by default, judged with a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.told_apart import SignalAuc, ToldApart
from hf_unlearn.verification.verdict import Judgement, judge


def told(auc: float, low: float | None, high: float | None) -> ToldApart:
    interval = None if low is None or high is None else (low, high)
    return ToldApart(auc, interval, 240, (SignalAuc("loss", 1 - auc, None), SignalAuc("entropy", 0.5, None)))


MARKED, ALIKE, UNSURE = told(0.9, 0.85, 0.94), told(0.55, 0.5, 0.63), told(0.7, 0.6, 0.8)


def judged(plain, gate: Gate, most: float | None, found: dict[tuple[str, str], ToldApart], **more) -> Judgement:
    plain.table.told_apart.update(found)
    return judge(plain.table, "good", replace(gate, max_forgotten_rows_auc=most), **more)


def everywhere(found: ToldApart, model: str = "good") -> dict[tuple[str, str], ToldApart]:
    return {(model, transform): found for transform in ("identity", "bnb-nf4")}


def test_without_a_limit_it_is_only_reported(plain, gate: Gate) -> None:
    judgement = judged(plain, gate, None, everywhere(MARKED))
    assert judgement.status == "passed"
    assert [(row.transform, row.status, row.threshold) for row in judgement.forgotten_rows] == [
        ("identity", "reported", None),
        ("bnb-nf4", "reported", None),
    ]
    assert judgement.forgotten_rows[0].strongest == SignalAuc("loss", 1 - 0.9, None)


def test_a_model_that_gives_its_forgotten_rows_away_fails_with_a_limit(plain, gate: Gate) -> None:
    judgement = judged(plain, gate, 0.65, everywhere(MARKED))
    assert judgement.status == "failed"
    assert judgement.reasons[0] == (
        "As it stands: forgotten rows are told from holdout rows with an AUC of 0.90 [0.85, 0.94] (at most 0.65)."
    )
    (identity, *_) = judgement.outcomes
    assert identity.causes == ("marked rows",) and identity.status == "failed"
    assert judgement.caught_by == (), "no knowledge is there"


@pytest.mark.parametrize(("found", "status"), [(ALIKE, "passed"), (UNSURE, "inconclusive"), (MARKED, "failed")])
def test_the_whole_interval_decides(plain, gate: Gate, found: ToldApart, status: str) -> None:
    judgement = judged(plain, gate, 0.65, everywhere(found))
    assert judgement.status == status and {row.status for row in judgement.forgotten_rows} == {status}


def test_sets_that_a_never_knew_model_tells_apart_too_prove_nothing(plain, gate: Gate) -> None:
    judgement = judged(plain, gate, 0.65, {**everywhere(MARKED), **everywhere(MARKED, "never_knew")})
    assert judgement.status == "inconclusive"
    assert "the two sets differ by themselves" in judgement.reasons[0]


def test_a_limit_without_holdout_rows_cannot_be_passed(plain, gate: Gate) -> None:
    judgement = judged(plain, gate, 0.65, {})
    assert judgement.status == "inconclusive"
    assert "Whether forgotten rows can be told from others was not measured under identity" in judgement.reasons[0]
    assert judge(plain.table, "good", gate).status == "passed"


def test_few_groups_settle_nothing(plain, gate: Gate) -> None:
    assert judged(plain, gate, 0.65, everywhere(told(0.5, None, None))).status == "inconclusive"


def test_another_judgement_of_the_same_model_leaves_it_out(plain, gate: Gate) -> None:
    judgement = judged(plain, gate, 0.65, everywhere(MARKED), with_utility=False)
    assert judgement.status == "passed" and judgement.forgotten_rows == ()


@pytest.mark.parametrize("most", [0.4, 1.0])
def test_a_limit_that_means_nothing_is_refused(most: float) -> None:
    with pytest.raises(RequestError, match=r"gate\.max_forgotten_rows_auc is .* at least 0.5 \(a guess\) and under 1"):
        Gate(max_forgotten_rows_auc=most)
