"""Noise beside formats, and retention and recovered share at the same precision."""

import pytest

from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.report_sections import fragility_rows
from hf_unlearn.verification.verdict import judge

NOISE = ("noise-nf4-1", "noise-nf4-2", "noise-int4-g128-1")
GATE = Gate(metrics=("probability",), formats=("bnb-nf4", "rtn-int4-g128"), attacks=(), draws=300)


@pytest.fixture
def judgement(scenario):
    made = scenario(("identity", "bnb-nf4", "rtn-int4-g128", *NOISE), metrics=("probability",))
    made.model("target", 0.95).model("never_knew", 0.05)
    made.model("hider", 0.05, bnb_nf4=0.95, noise_nf4_1=0.14, noise_nf4_2=0.23, noise_int4_g128_1=0.5)
    return judge(made.table, "hider", GATE)


def test_formats_beside_noise_of_their_own_grid(judgement):
    rows = fragility_rows(judgement.recovered, {"bnb-nf4": "nf4", "rtn-int4-g128": "int4-g128", "bnb-fp4": "fp4"})
    found = {row.format: row for row in rows}
    assert found.keys() == {"bnb-nf4", "rtn-int4-g128"}
    nf4 = found["bnb-nf4"]
    assert nf4.recovered_share == pytest.approx(1.0, abs=0.05)
    assert nf4.noise_share == pytest.approx(0.15, abs=0.03)
    assert nf4.noise_range == pytest.approx([0.1, 0.2], abs=0.03)
    assert nf4.draws == 2
    assert found["rtn-int4-g128"].noise_share == pytest.approx(0.5, abs=0.03)


def test_noise_that_the_gate_does_not_name_does_not_judge(judgement):
    noise = [row for row in judgement.recovered if row.transform in NOISE]
    assert {row.transform for row in noise} == set(NOISE)
    assert {row.status for row in noise} == {"reported"}
    assert judgement.caught_by == ("bnb-nf4",)


def test_a_model_without_noise_has_no_rows(judgement):
    formats_only = [row for row in judgement.recovered if row.transform not in NOISE]
    assert fragility_rows(formats_only, {"bnb-nf4": "nf4"}) == []


def test_all_models_of_a_share_are_taken_at_the_same_precision(scenario):
    """A format that halves every model's score changes no share: each is compared with its own kind."""
    made = scenario(("identity", "bnb-nf4"), metrics=("probability",))
    made.model("target", 0.9, bnb_nf4=0.5).model("never_knew", 0.1, bnb_nf4=0.1).model("half", 0.5, bnb_nf4=0.3)
    rows = {row.transform: row for row in judge(made.table, "half", GATE).recovered}
    assert rows["identity"].retention_ratio == pytest.approx(0.5 / 0.9, abs=0.03)
    assert rows["bnb-nf4"].retention_ratio == pytest.approx(0.3 / 0.5, abs=0.03)
    assert rows["identity"].recovered_share == pytest.approx(0.5, abs=0.04)
    assert rows["bnb-nf4"].recovered_share == pytest.approx(0.5, abs=0.06)
