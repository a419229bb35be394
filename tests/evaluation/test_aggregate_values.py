"""Aggregates: agreement with loops by hand, limits, intervals, and what is refused."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import by_hand
import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.aggregates import AGGREGATES, AggregateInput, AggregateValue
from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.records import AnswerScore, ScoredRow
from hf_unlearn.evaluation.spec import NEEDS

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "grad_norm")


def made(name: str, records, reference=None, **settings) -> AggregateValue:
    return AGGREGATES.get(name).value(AggregateInput(records, reference, settings))


def sets(seed: int, forget: int = 40, holdout: int = 30) -> dict[str, list[ScoredRow]]:
    return {
        "forget": by_hand.random_rows("forget", forget, seed, low=-5.0),
        "holdout": by_hand.random_rows("holdout", holdout, seed),
    }


def losses(split: str, values, **fields) -> list[ScoredRow]:
    """Rows of one token whose loss is known."""
    return [
        ScoredRow(f"{split}{n}", f"{split}{n}", f"{split}{n}", split, logps=(-value,), answer="a", **fields)
        for n, value in enumerate(values)
    ]


def test_entries():
    for entry in AGGREGATES.entries():
        assert entry.version == 1 and entry.summary and entry.paper and entry.value.__doc__
        named = [need for need in entry.needs if need.startswith("sets:")]
        assert len(named) == 1
        # A setting of the name of a set says which set it is.
        assert all(entry.defaults[word] == word for word in named[0].removeprefix("sets:").split(","))
        assert set(entry.needs) - set(named) <= NEEDS | {"reference"}
    assert not set(AGGREGATES.names()) & set(METRICS.names())


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_agree_with_loops_by_hand(attack):
    records = sets(1)
    found = made(f"mia_{attack}", records)
    metric = METRICS.get({"zlib": "zlib_ratio"}.get(attack, attack)).value
    members, others = ([metric(row) for row in records[split]] for split in ("forget", "holdout"))
    assert found.value == pytest.approx(by_hand.auc(members, others), abs=1e-12)
    for level in (0.01, 0.05):
        assert found.details[f"tpr_at_{level}"] == pytest.approx(by_hand.tpr(members, others, level), abs=1e-12)
        low, high = found.details[f"tpr_at_{level}_low"], found.details[f"tpr_at_{level}_high"]
        assert 0 <= low <= found.details[f"tpr_at_{level}"] <= high <= 1
    assert found.n == 70
    low, high = found.ci95
    assert 0 < low < found.value < high <= 1


def test_reference_attack_takes_the_difference_of_losses():
    records, other = sets(1), sets(2)
    reference = {
        split: [replace(row, logps=known.logps) for row, known in zip(rows, other[split], strict=True)][::-1]
        for split, rows in records.items()
    }
    differences = {
        split: [
            by_hand.mean(known.logps) - by_hand.mean(row.logps)
            for row, known in zip(records[split], other[split], strict=True)
        ]
        for split in records
    }
    expected = by_hand.auc(differences["forget"], differences["holdout"])
    assert made("mia_reference", records, reference).value == pytest.approx(expected, abs=1e-12)


def test_min_k_takes_another_share():
    records = sets(1)
    scores = {split: [by_hand.min_k(row.logps, 0.2) for row in rows] for split, rows in records.items()}
    expected = by_hand.auc(scores["forget"], scores["holdout"])
    assert made("mia_min_k", records, k=0.2).value == pytest.approx(expected, abs=1e-12)
    assert made("mia_min_k", records).value != expected
    for wrong in (0, 1.5, "much", True):
        with pytest.raises(RequestError, match=r"mia_min_k.k is .*share of tokens above 0 and at most 1"):
            made("mia_min_k", records, k=wrong)


def test_ties_and_sets_that_do_not_overlap():
    same = made("mia_loss", {"forget": losses("forget", [1.0] * 12), "holdout": losses("holdout", [1.0] * 12)})
    assert same.value == 0.5 and same.ci95 == (0.5, 0.5)
    assert same.details["tpr_at_0.05"] == 0.0  # one threshold: nobody or everybody
    apart = {"forget": losses("forget", range(12)), "holdout": losses("holdout", range(12, 24))}
    found = made("mia_loss", apart)
    assert found.value == 1.0 and found.details["tpr_at_0.01"] == 1.0
    assert found.ci95 == (pytest.approx(0.025 ** (1 / 12)), 1.0)  # twelve pairs in order prove no more
    turned = made("mia_loss", apart, forget="holdout", holdout="forget")
    assert turned.value == 0.0 and turned.details["tpr_at_0.05"] == 0.0
    assert turned.ci95 == (0.0, pytest.approx(1 - 0.025 ** (1 / 12)))


def test_few_groups_have_no_interval():
    found = made("mia_loss", {"forget": losses("forget", [1.0, 2.0]), "holdout": losses("holdout", [3.0])})
    assert (found.value, found.n, found.ci95) == (1.0, 3, None)
    assert "tpr_at_0.01_low" not in found.details


def test_repeated_rows_of_one_fact_change_nothing():
    records = sets(3)
    doubled = {split: rows + [replace(row, id=f"{row.id} again") for row in rows] for split, rows in records.items()}
    for name in ("mia_loss", "mia_min_k_plus_plus"):
        assert made(name, doubled) == made(name, records)


def test_the_interval_resamples_groups():
    """Facts that all say the same thing as nine others count as one."""
    records = sets(4, forget=20, holdout=20)
    grouped = {
        split: [replace(row, id=f"{row.id}/{n}", fact=f"{row.fact}/{n}") for row in rows for n in range(9)]
        for split, rows in records.items()
    }
    assert made("mia_loss", grouped).ci95 == pytest.approx(made("mia_loss", records).ci95)
    assert made("mia_loss", grouped).n == 9 * made("mia_loss", records).n


def test_the_interval_of_the_auc_is_near_that_of_delong():
    records = sets(5, forget=120, holdout=100)
    members, others = ([-by_hand.mean(row.logps) for row in records[split]] for split in ("forget", "holdout"))
    wins = [[float(one < other) for other in others] for one in members]
    area = by_hand.mean([by_hand.mean(row) for row in wins])
    of_members = [by_hand.mean(row) - area for row in wins]
    of_others = [by_hand.mean([row[n] for row in wins]) - area for n in range(len(others))]
    variance = sum(v * v for v in of_members) / (120 * 119) + sum(v * v for v in of_others) / (100 * 99)
    found = made("mia_loss", records)
    low, high = found.ci95
    assert low == pytest.approx(area - 1.96 * math.sqrt(variance), abs=0.01)
    assert high == pytest.approx(area + 1.96 * math.sqrt(variance), abs=0.01)


def test_privleak_is_turned_round_as_published():
    records = sets(1)
    scores = {split: [by_hand.min_k(row.logps, 0.4) for row in rows] for split, rows in records.items()}
    area = 1 - by_hand.auc(scores["forget"], scores["holdout"])
    found = made("privleak", records, reference_auc=0.4772)
    assert found.value == pytest.approx(100 * (area - 0.4772) / 0.4772, abs=1e-9)
    assert found.details == {"auc": pytest.approx(area), "reference_auc": 0.4772, "measured": 0.0}
    low, high = found.ci95
    assert low < found.value < high
    # A model that still knows every forget row by heart is at -100, one that shuns them above 0.
    knows = {"forget": losses("forget", [0.1] * 12), "holdout": losses("holdout", [2.0] * 12)}
    assert made("privleak", knows, reference_auc=0.5).value == -100.0
    shuns = {"forget": losses("forget", [9.0] * 12), "holdout": losses("holdout", [2.0] * 12)}
    assert made("privleak", shuns, reference_auc=0.5).value == 100.0


def test_privleak_measures_the_reference():
    records, reference = sets(1), sets(2)
    scores = {split: [by_hand.min_k(row.logps, 0.4) for row in rows] for split, rows in reference.items()}
    area = 1 - by_hand.auc(scores["forget"], scores["holdout"])
    found = made("privleak", records, reference, reference_auc=0.9)
    assert found.details["reference_auc"] == pytest.approx(area) and found.details["measured"] == 1.0
    assert found.value == pytest.approx(made("privleak", records, reference_auc=area).value)
    assert found.ci95[0] < found.value < found.ci95[1]
    same = made("privleak", records, records)
    assert same.value == 0.0 and same.ci95 == (0.0, 0.0)
    knows = {"forget": losses("forget", [0.1] * 12), "holdout": losses("holdout", [2.0] * 12)}
    with pytest.raises(RequestError, match="reference model's AUC is 0, so it recognizes every row of the set 'for"):
        made("privleak", knows, knows)
    spread = {
        "forget": losses("forget", [0.1 * n for n in range(12)]),
        "holdout": losses("holdout", [0.1 * n + 0.05 for n in range(12)]),
    }
    low, high = made("privleak", knows, spread).ci95
    assert low == -100.0 and high > -60.0, "twelve pairs in order prove no more"


def test_privleak_without_a_reference_says_what_to_give():
    with pytest.raises(RequestError, match=r"setting reference_auc .MUSE publishes 0.4772 for news"):
        made("privleak", sets(1))
    for wrong in (0, 1.2, "0.5", True):
        with pytest.raises(RequestError, match=r"privleak.reference_auc is .* above 0 and at most 1"):
            made("privleak", sets(1), reference_auc=wrong)


def test_forget_quality_is_the_test_on_truth_ratios():
    from scipy.stats import ks_2samp

    records = {"forget": by_hand.random_rows("forget", 50, 1)}
    reference = {
        "forget": [
            replace(row, variants=known.variants)
            for row, known in zip(records["forget"], by_hand.random_rows("forget", 50, 2), strict=True)
        ]
    }
    ratios = []
    for rows in (records["forget"], reference["forget"]):
        of_rows = []
        for row in rows:
            wrong = by_hand.mean([score.logp / score.tokens for score in row.variants["perturbed"]])
            right = by_hand.mean([score.logp / score.tokens for score in row.variants["paraphrased"]])
            of_rows.append(math.exp(wrong) / math.exp(right))
        ratios.append(of_rows)
    found = made("forget_quality", records, reference)
    assert found.details["statistic"] == pytest.approx(by_hand.ks_statistic(*ratios), abs=1e-12)
    assert found.value == pytest.approx(ks_2samp(*ratios).pvalue, rel=1e-12)
    assert found.details["log10_p"] == pytest.approx(math.log10(found.value))
    assert (found.n, found.ci95) == (50, None)
    same = made("forget_quality", records, records)
    assert (same.value, same.details["log10_p"], same.details["statistic"]) == (1.0, 0.0, 0.0)


def test_forget_quality_of_distributions_far_apart_is_a_number():
    def rows(wrong: float) -> list[ScoredRow]:
        variants = {"paraphrased": (AnswerScore(-1.0, 1),), "perturbed": (AnswerScore(wrong, 1),)}
        return losses("forget", [1.0] * 3000, variants=variants)

    found = made("forget_quality", {"forget": rows(-2.0)}, {"forget": rows(-3.0)})
    assert found.details["statistic"] == 1.0
    assert 0 < found.value < 1e-300 and math.isfinite(found.details["log10_p"])


def utility_sets() -> dict[str, list[ScoredRow]]:
    return {split: by_hand.random_rows(split, 25, 3) for split in ("retain", "real_authors", "world_facts")}


def test_model_utility_is_the_harmonic_mean_of_nine():
    records = utility_sets()
    parts = []
    for split, rows in records.items():
        probability = "probability" if split == "retain" else "probability_normalized"
        for metric in (probability, "rouge_l_stem", "truth_ratio_preference"):
            parts.append(by_hand.mean([METRICS.get(metric).value(row) for row in rows]))
    found = made("model_utility", records)
    assert found.value == pytest.approx(9 / sum(1 / part for part in parts), rel=1e-12)
    assert list(found.details.values()) == pytest.approx(parts)
    assert found.details.keys() >= {"retain.probability", "world_facts.probability_normalized"}
    assert found.n == 75
    assert found.ci95[0] < found.value < found.ci95[1]


def test_model_utility_is_zero_where_a_part_is():
    records = utility_sets()
    records["retain"] = [replace(row, generated="") for row in records["retain"]]
    found = made("model_utility", records)
    assert found.value == 0.0 and found.ci95 == (0.0, 0.0)


def test_rows_without_a_continuation_are_left_out_of_rouge_alone():
    records = utility_sets()
    full = made("model_utility", records).details
    records["retain"] = [
        replace(row, generated=row.generated if n < 20 else None) for n, row in enumerate(records["retain"])
    ]
    found = made("model_utility", records)
    rouge = METRICS.get("rouge_l_stem").value
    expected = by_hand.mean([rouge(row) for row in records["retain"][:20]])
    assert found.details["retain.rouge_l_stem"] == pytest.approx(expected)
    assert found.details["retain.probability"] == full["retain.probability"]
    assert found.ci95 is not None
    records["retain"] = [replace(row, generated=None) for row in records["retain"]]
    with pytest.raises(RequestError, match="no row of the set 'retain' has rouge_l_stem: it needs generation"):
        made("model_utility", records)


def test_values_of_a_log_stand_in_for_what_it_lacks():
    records = utility_sets()
    as_log = {
        split: [
            replace(
                row,
                logps=(),
                generated=None,
                values={name: METRICS.get(name).value(row) for name in ("probability", "rouge_l_stem")},
            )
            for row in rows
        ]
        for split, rows in records.items()
    }
    assert made("model_utility", as_log).value == pytest.approx(made("model_utility", records).value, rel=1e-12)


def test_logit_lens_takes_the_layer_that_says_most():
    rows = by_hand.random_rows("forget", 20, 1)
    found = made("logit_lens", {"forget": rows})
    layers = [by_hand.mean([math.exp(row.layer_logps[n]) for row in rows]) for n in range(3)]
    assert found.value == pytest.approx(max(layers))
    assert [found.details[f"layer_{n + 1}"] for n in range(3)] == pytest.approx(layers)
    assert found.details["best_layer"] == layers.index(max(layers)) + 1
    assert found.ci95[0] < found.value < found.ci95[1]
    rows[4] = replace(rows[4], layer_logps=(-1.0,))
    with pytest.raises(RequestError, match="row 'forget-4' of the set 'forget' has 1 numbers per layer and the first"):
        made("logit_lens", {"forget": rows})
    with pytest.raises(RequestError, match=r"has 0 numbers per layer.*the need 'layers'"):
        made("logit_lens", {"forget": losses("forget", [1.0])})


def test_centering_takes_off_the_preference_for_a_letter():
    def row(n: int, right: int, logps) -> ScoredRow:
        return ScoredRow(f"f{n}", f"f{n}", f"f{n}", "forget", choice_logps=logps, right_choice=right)

    # Always A, yet each question raises its own right letter.
    rows = [row(0, 0, (-0.5, -5.0)), row(1, 1, (-1.0, -4.0))]
    letter = METRICS.get("mc_accuracy_letter").value
    assert [letter(one) for one in rows] == [1.0, 0.0]
    assert made("mc_accuracy_centered", {"forget": rows}).value == 1.0
    assert made("mc_accuracy_centered", {"forget": [row(n, 0, (-1.0, -2.0)) for n in range(3)]}).value == 0.0
    with pytest.raises(RequestError, match="row 'f1' of the set 'forget' has 3 options and the first row has 2"):
        made("mc_accuracy_centered", {"forget": [rows[0], row(1, 1, (-1.0, -4.0, -5.0))]})


def test_centered_log_probabilities_rank_as_centered_logits():
    generator = random.Random(0)
    logits = [[generator.gauss(bias, 1) for bias in (2.0, 0.0, 0.0, 1.0)] for _ in range(40)]
    right = [generator.randrange(4) for _ in logits]
    rows = []
    for n, scores in enumerate(logits):
        total = math.log(sum(map(math.exp, scores)) + generator.uniform(0, 50))  # the rest of the vocabulary
        logps = tuple(score - total for score in scores)
        rows.append(ScoredRow(f"f{n}", f"f{n}", f"f{n}", "forget", choice_logps=logps, right_choice=right[n]))
    bias = [by_hand.mean([scores[letter] for scores in logits]) for letter in range(4)]
    picked = [max(range(4), key=lambda letter: scores[letter] - bias[letter]) for scores in logits]
    expected = by_hand.mean([float(one == other) for one, other in zip(picked, right, strict=True)])
    assert made("mc_accuracy_centered", {"forget": rows}).value == expected


@pytest.mark.parametrize("name", AGGREGATES.names())
def test_a_missing_set_is_named(name):
    wanted = AGGREGATES.get(name).needs[0].removeprefix("sets:").split(",")[-1]
    everything = {**sets(1), **utility_sets()}
    records = {split: rows for split, rows in everything.items() if split != wanted}
    with pytest.raises(RequestError, match=f"{name} needs the set '{wanted}', which is not among the scored sets"):
        made(name, records, everything)
    made(name, everything, everything, **({"reference_auc": 0.5} if name == "privleak" else {}))


def test_an_unknown_setting_is_named():
    with pytest.raises(RequestError, match="mia_loss has no setting 'holdot': did you mean 'holdout'"):
        made("mia_loss", sets(1), holdot="other")
    with pytest.raises(RequestError, match="there is no aggregate called 'privlek': did you mean 'privleak'"):
        AGGREGATES.get("privlek")


@pytest.mark.parametrize("name", ["mia_loss", "privleak"])
def test_two_sets_must_be_two(name):
    with pytest.raises(RequestError, match=f"{name}.forget and {name}.holdout are both 'forget': name two sets"):
        made(name, sets(1), holdout="forget")


@pytest.mark.parametrize("name", ["forget_quality", "mia_reference"])
def test_a_reference_that_does_not_line_up(name):
    records = sets(1)
    with pytest.raises(RequestError, match=f"{name} needs records of a reference model over the set 'forget'"):
        made(name, records)
    with pytest.raises(RequestError, match=r"'forget', which is not among the reference's sets .'holdout'."):
        made(name, records, {"holdout": records["holdout"]})
    short = {**records, "forget": [row for row in records["forget"] if row.id != "forget-3"]}
    with pytest.raises(RequestError, match="the model has 'forget-3' and the reference does not: score both on"):
        made(name, records, short)
    with pytest.raises(RequestError, match="the reference has 'forget-3' and the model does not"):
        made(name, short, records)
    twice = {**records, "forget": [*records["forget"], records["forget"][7]]}
    with pytest.raises(RequestError, match="the set 'forget' has two rows with the id 'forget-7'"):
        made(name, records, twice)


def test_rows_that_lack_something_are_named():
    records = sets(1)
    records["holdout"][2] = replace(records["holdout"][2], vocab_means=(), vocab_variances=())
    message = "row 'holdout-2' of the set 'holdout' has no min_k_plus_plus, for which its record must hold vocabulary"
    with pytest.raises(RequestError, match=message):
        made("mia_min_k_plus_plus", records)
    records["forget"][5] = replace(records["forget"][5], logps=(-1.0, math.nan))
    with pytest.raises(RequestError, match="the loss of row 'forget-5' of the set 'forget' is nan, not a finite"):
        made("mia_loss", records)


def test_as_summaries_hold_it():
    value = AggregateValue(0.5, 7, (0.25, 0.75), {"log10_p": -1.0})
    assert value.to_dict() == {"value": 0.5, "n": 7, "ci95": [0.25, 0.75], "details": {"log10_p": -1.0}}
    assert AggregateValue(0.5, 7).to_dict() == {"value": 0.5, "n": 7, "ci95": None, "details": {}}
