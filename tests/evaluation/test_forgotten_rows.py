"""Which rows were forgotten: by loops by hand, on both sides, and what counts as a refusal."""

from dataclasses import replace

import by_hand
import pytest

from hf_unlearn.data.alternates.fixed import REFUSALS
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.aggregates import AGGREGATES, AggregateInput
from hf_unlearn.evaluation.aggregates.forgotten_rows import fold, is_refusal


def rows(split, count, seed, low, generated=None):
    made = by_hand.random_rows(split, count, seed, low=low)
    return [replace(row, generated=generated[n % len(generated)] if generated else None) for n, row in enumerate(made)]


def made(forget, holdout, settings=None):
    records = {"forget": forget, "holdout": holdout}
    return AGGREGATES.get("forgotten_rows").value(AggregateInput(records, None, settings or {}))


@pytest.mark.parametrize("low", [-9.0, -3.0])
def test_by_hand_on_both_sides(low):
    forget = rows("forget", 30, 1, low, ["Paris.", "I do not know."])
    holdout = rows("holdout", 25, 2, -6.0, ["Rome.", "Rome.", "Rome.", "I cannot say."])
    found = made(forget, holdout)
    loss = by_hand.auc(*([-by_hand.mean(row.logps) for row in split] for split in (forget, holdout)))
    entropy = by_hand.auc(*([-by_hand.mean(row.vocab_means) for row in split] for split in (forget, holdout)))
    refusals = by_hand.auc(*([float("I " in row.generated) for row in split] for split in (forget, holdout)))
    for key, expected in (("loss", loss), ("entropy", entropy), ("refusals", refusals)):
        assert found.details[key] == pytest.approx(expected, abs=1e-12)
        assert found.details[f"{key}_low"] <= expected <= found.details[f"{key}_high"]
    assert found.value == pytest.approx(max(abs(area - 0.5) for area in (loss, entropy, refusals)) + 0.5, abs=1e-12)
    assert (loss > 0.5) == (low == -3.0) and found.value > 0.6
    assert found.ci95[0] <= found.value <= found.ci95[1] and found.n == 55


def test_rows_like_any_others_are_near_one_half():
    found = made(rows("forget", 80, 3, -6.0), rows("holdout", 80, 4, -6.0))
    assert found.ci95[0] == 0.5 and found.value < 0.62
    assert "refusals" not in found.details


def test_without_generated_answers_the_other_signals_are_alone_and_less_is_asked_of_each():
    forget, holdout = (
        rows(split, 30, seed, -6.0, ["Rome.", "Oslo."]) for split, seed in (("forget", 5), ("holdout", 6))
    )
    silent = made([replace(row, generated=None) for row in forget], holdout)
    spoken = made(forget, holdout)
    assert silent.details["loss"] == spoken.details["loss"]
    assert silent.details["loss_low"] > spoken.details["loss_low"]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.6, 0.8), (0.6, 0.8)), ((0.1, 0.3), (0.7, 0.9)), ((0.4, 0.7), (0.5, 0.7)), ((0.2, 0.6), (0.5, 0.8))],
)
def test_intervals_are_folded_at_one_half(interval, expected):
    assert fold(*interval) == pytest.approx(expected)


def test_refusals_are_told_from_answers():
    assert all(is_refusal(text) for text in REFUSALS)
    assert is_refusal("I'm not sure about that one.") and is_refusal("Sorry, but I don't have that.")
    assert not any(is_refusal(text) for text in ("Paris", "He was born in 1963.", "They do not eat meat."))


def test_what_is_missing_is_named():
    forget, holdout = rows("forget", 12, 7, -6.0), rows("holdout", 12, 8, -6.0)
    with pytest.raises(RequestError, match=r"forgotten_rows: row .* has no entropy"):
        made([replace(row, vocab_means=()) for row in forget], holdout)
    with pytest.raises(RequestError, match="both 'forget'"):
        made(forget, holdout, {"holdout": "forget"})
