"""Refusals of attacks name a mend that helps, and that somebody without a recipe can follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.attacks.few_shot import FewShot
from hf_unlearn.attacks.multi_turn import MultiTurn
from hf_unlearn.attacks.probe import LinearProbe
from hf_unlearn.data.example import EMPTY_SET, DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=6, retain=8, holdout=0, practice=0, generic=0, first_year=1960))


@pytest.mark.parametrize("attack", [FewShot(), MultiTurn(), LinearProbe()], ids=lambda attack: type(attack).__name__)
def test_without_retain_rows_the_mend_is_to_give_some(attack, bundle):
    with pytest.raises(RequestError) as refusal:
        attack.plan(replace(bundle, retain=EMPTY_SET))
    told = str(refusal.value)
    assert "give the retain set" in told and told.endswith("out")
    assert "set shots" not in told and "set turns" not in told and "attack." not in told and "data." not in told


def test_with_some_retain_rows_fewer_shots_are_named(bundle):
    with pytest.raises(RequestError, match=r"has \d+ examples .* set shots of few-shot to [1-9]\d* or less"):
        FewShot(shots=50).plan(bundle)
