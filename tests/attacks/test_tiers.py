"""Tiers: what is in them, what is left out where the data does not fit, and what they say they will take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from small_recipe import SMALL, recipe_of

from hf_unlearn.attacks import ATTACKS, TIERS, tier_names
from hf_unlearn.attacks.composed import OrderedAttack
from hf_unlearn.attacks.cost import AttackCost, UnitCosts, added, cost_lines, duration
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import RelearnAll
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.example import EMPTY_SET, DataBundle, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError, SeveralErrors
from hf_unlearn.recipe.attacks import fit_to_data

GATE = "gate: {max_recovered_share_formats: 0.2}\n"


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=40, retain=20, holdout=0, practice=4, generic=4))


def test_each_tier_holds_the_one_before_it_and_every_attack_is_in_one():
    quick, release, deep = (set(tier_names(tier)) for tier in TIERS)
    assert {"prune", "noise"} <= quick < release < deep
    assert "rtt" in release - quick
    assert "interpolate" in deep - release
    assert deep == set(ATTACKS.names())
    assert all(entry.to_dict()["tier"] == entry.tier for entry in ATTACKS.entries())


def test_quick_trains_nothing(bundle):
    for name in tier_names("quick"):
        try:
            cost = ATTACKS.get(name).value().cost(bundle)
        except RequestError:
            continue  # planted facts lack what it asks by
        assert (cost.steps, cost.rows_trained) == (0, 0)
        assert cost.jobs > 0


def test_a_tier_is_its_attacks_with_default_settings(tmp_path):
    recipe = recipe_of(tmp_path, SMALL + "attack: quick\n")
    assert recipe.attack_tier == "quick"
    assert recipe.attack == {name: ATTACKS.get(name).value() for name in tier_names("quick")}
    judged = [name for name in tier_names("quick") if ATTACKS.get(name).value.judged]
    assert list(recipe.gate.attacks) == judged


def test_attacks_of_a_tier_can_be_set_left_out_and_added_to(tmp_path):
    text = SMALL + "attack: {tier: quick, prune: {shares: [0.4]}, noise: false, relearn-all: }\n"
    recipe = recipe_of(tmp_path, text)
    assert recipe.attack["prune"] == Prune(shares=(0.4,))
    assert recipe.attack["relearn-all"] == RelearnAll()
    assert set(recipe.attack) == {*tier_names("quick"), "relearn-all"} - {"noise"}
    assert recipe_of(tmp_path, yaml.safe_dump(recipe.to_dict())) == recipe


def test_what_only_tells_more_is_not_judged_unless_named(tmp_path):
    text = SMALL + "attack: {interpolate: , prune: }\n"
    assert recipe_of(tmp_path, text).gate.attacks == ("prune",)
    assert recipe_of(tmp_path, text + "gate: {attacks: [interpolate]}\n").gate.attacks == ("interpolate",)


def test_of_a_tier_what_does_not_fit_the_data_is_left_out_and_said(tmp_path, bundle):
    recipe = recipe_of(tmp_path, SMALL + "attack: {tier: release}\n")
    fitted, reasons = fit_to_data(recipe, replace(bundle, generic=EMPTY_SET))
    assert "name data.generic" in reasons["finetune-generic"]
    assert {*fitted.attack, *reasons} == set(recipe.attack)
    assert not {*fitted.attack, *fitted.gate.attacks} & reasons.keys()
    assert recipe_of(tmp_path, yaml.safe_dump(fitted.to_dict())) == fitted


def test_what_a_recipe_names_itself_must_fit(tmp_path, bundle):
    recipe = recipe_of(tmp_path, SMALL + "attack: {finetune-generic: }\n")
    with pytest.raises(RequestError, match=r"name data\.generic"):
        fit_to_data(recipe, replace(bundle, generic=EMPTY_SET))


@pytest.fixture(scope="module")
def by_author(bundle) -> DataBundle:
    """Twenty groups of two facts: as in TOFU, a fold holds few groups."""
    score = tuple(replace(row, group=f"author-{int(row.fact.split('-')[-1]) // 2}") for row in bundle.forget.score)
    train = tuple(replace(row, group=f"author-{int(row.fact.split('-')[-1]) // 2}") for row in bundle.forget.train)
    return replace(bundle, forget=RowSet(train, score))


def test_an_attack_that_asks_for_too_few_groups_to_be_judged_is_refused_before_anything_is_trained(
    tmp_path, by_author
):
    recipe = recipe_of(tmp_path, SMALL + GATE + "attack: {rtt: {folds: 5, run_folds: 4}}\n")
    with pytest.raises(RequestError) as refused:
        fit_to_data(recipe, by_author)
    assert str(refused.value) == (
        "attack.rtt asks for facts of 16 groups of 20, and 17 are the least that can show a recovered share of at "
        "most 0.2 (gate.max_recovered_share_attacks): no model could pass; raise attack.rtt.run_folds, or set "
        "gate.max_recovered_share_attacks to 0.21 or more, or set gate.attacks to []"
    )
    for enough, overrides in (
        ("{rtt: {folds: 5}}", ()),
        ("{rtt: {folds: 5, run_folds: 4}}", ("gate.max_recovered_share_attacks=0.21",)),
        ("{rtt: {folds: 5, run_folds: 2}, prune: }", ("gate.attacks=[prune]",)),
    ):
        recipe = recipe_of(tmp_path, f"{SMALL}{GATE}attack: {enough}\n", *overrides)
        assert fit_to_data(recipe, by_author) == (recipe, {})


def test_of_fewer_than_ten_groups_no_limit_would_do(tmp_path, by_author):
    recipe = recipe_of(tmp_path, SMALL + GATE + "attack: {rtt: {folds: 5, run_folds: 2}}\n")
    with pytest.raises(RequestError, match=r"8 groups of 20.*run_folds, or set gate\.attacks to \[\]$"):
        fit_to_data(recipe, by_author)


def test_of_too_few_groups_an_attack_says_what_the_forget_set_lacks_only_where_it_lacks_more(tmp_path, by_author):
    """What it says can be done as it is written: the recipe has no gate.attacks."""
    few = {f"author-{number}" for number in range(12)}
    rows = (
        tuple(row for row in part if row.group in few) for part in (by_author.forget.train, by_author.forget.score)
    )
    small = replace(by_author, forget=RowSet(*rows))
    attack = "attack: {prune: , rtt: {folds: 4}}\n"
    same = SMALL + "gate: {max_recovered_share_formats: 0.2, max_recovered_share_attacks: 0.2}\n" + attack
    with pytest.raises(RequestError) as refused:
        fit_to_data(recipe_of(tmp_path, same), small)
    assert not isinstance(refused.value, SeveralErrors)
    assert "add 5 groups to the forget set, or set it to 0.27 or more" in str(refused.value)

    loose = SMALL + "gate: {max_recovered_share_formats: 0.3, max_recovered_share_attacks: 0.2}\n" + attack
    with pytest.raises(SeveralErrors) as refused:
        fit_to_data(recipe_of(tmp_path, loose), small)
    assert [str(error).split("no model could pass; ")[1] for error in refused.value.errors] == [
        "add 5 groups to the forget set, or set gate.max_recovered_share_attacks to 0.27 or more, or set gate.attacks "
        f"to [{other}]"
        for other in ("rtt", "prune")
    ]
    assert fit_to_data(recipe_of(tmp_path, loose, "gate.attacks=[]"), small)[1] == {}

    part = same.replace("folds: 4", "folds: 4, run_folds: 1").replace("prune: , ", "")
    with pytest.raises(SeveralErrors, match=r"rtt asks for facts of 3 groups of 12, and 17 are the least"):
        fit_to_data(recipe_of(tmp_path, part), small)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            "",
            "gate.max_recovered_share_formats is 0.1, but the forget set asks about 20 independent groups of facts, "
            "and 36 are the least that can show so small a share: no model could pass; add 16 groups to the forget "
            "set, or set it to 0.17 or more",
        ),
        ("gate: {max_recovered_share_formats: 0.16}\n", "22 are the least .* add 2 groups .* set it to 0.17 or more"),
        ("gate: {max_recovered_share_formats: 0}\n", "is 0, and no number of facts .* set it to 0.17 or more"),
        ("gate: {confidence: 0.99, max_recovered_share_formats: 0.2}\n", "24 are the least .* to 0.24 or more"),
    ],
)
def test_a_limit_that_the_forget_set_can_never_show_is_refused(tmp_path, by_author, gate, message):
    recipe = recipe_of(tmp_path, SMALL + gate)
    with pytest.raises(RequestError, match=message):
        fit_to_data(recipe, by_author)
    assert fit_to_data(recipe_of(tmp_path, SMALL + GATE), by_author)[1] == {}


def test_of_a_tier_it_is_left_out_and_said(tmp_path, by_author):
    fitted, reasons = fit_to_data(recipe_of(tmp_path, SMALL + GATE + "attack: deep\n"), by_author)
    assert "rtt-paper asks for facts of 8 groups" in reasons["rtt-paper"]
    assert "rtt" in fitted.gate.attacks and "rtt-paper" not in {*fitted.attack, *fitted.gate.attacks}


def test_of_a_tier_what_the_recipe_sets_itself_is_refused(tmp_path, by_author):
    text = SMALL + GATE + "attack: {tier: release, rtt: {folds: 5, run_folds: 2}}\n"
    with pytest.raises(RequestError, match=r"attack\.rtt asks for facts of 8 groups"):
        fit_to_data(recipe_of(tmp_path, text), by_author)


def test_quantized_before_or_after_an_attack_asks_for_as_many(tmp_path, by_author):
    text = SMALL + GATE + "attack: {rtt-then: {attack: rtt, then: bnb-nf4, folds: 5, run_folds: 2}}\n"
    with pytest.raises(RequestError, match="rtt-then asks for facts of 8 groups"):
        fit_to_data(recipe_of(tmp_path, text), by_author)


def test_a_forget_set_without_an_interval_is_refused_whatever_the_limit(tmp_path, bundle):
    one = {row.fact: f"group-{number // 2 % 6}" for number, row in enumerate(bundle.forget.score)}
    rows = [
        tuple(replace(row, group=one[row.fact]) for row in part) for part in (bundle.forget.train, bundle.forget.score)
    ]
    recipe = recipe_of(tmp_path, SMALL + "gate: {max_recovered_share_formats: 1}\n")
    with pytest.raises(
        RequestError,
        match=r"6 independent groups of facts, and 10 are the least that an interval needs: .* add 4 groups to",
    ):
        fit_to_data(recipe, replace(bundle, forget=RowSet(*rows)))


def test_a_control_that_needs_an_attack_that_does_not_fit_is_refused(tmp_path, bundle):
    control = "controls: [{name: one, kind: method, method: one, expected: failed, caught_by: [finetune-generic]}]\n"
    recipe = recipe_of(tmp_path, SMALL + "attack: release\n" + control)
    with pytest.raises(RequestError, match=r"control one must be caught by finetune-generic, but .*data\.generic"):
        fit_to_data(recipe, replace(bundle, generic=EMPTY_SET))


FORMATS = "export: {formats: [bf16, bnb-nf4, rtn-int4-g32]}\n"


def test_a_tier_that_retrains_does_so_once_after_each_quantized_format(tmp_path):
    recipe = recipe_of(tmp_path, SMALL + FORMATS + "attack: {tier: release, rtt: {folds: 4, leaks: report}}\n")
    after = {name: attack for name, attack in recipe.attack.items() if name.startswith("rtt-after-")}
    once = RTT(folds=2, learning_rates=(3e-4,), leaks="report")
    assert after == {
        "rtt-after-bnb-nf4": OrderedAttack("rtt", once, after="bnb-nf4"),
        "rtt-after-rtn-int4-g32": OrderedAttack("rtt", once, after="rtn-int4-g32"),
    }
    assert set(after) <= set(recipe.gate.attacks)
    assert recipe_of(tmp_path, yaml.safe_dump(recipe.to_dict())) == recipe
    for section in ("{tier: quick}", "{rtt: }", "{tier: release, rtt: false}"):
        assert not [
            name
            for name in recipe_of(tmp_path, SMALL + FORMATS + f"attack: {section}\n").attack
            if name.startswith("rtt-after-")
        ]


def test_retraining_after_a_format_asks_for_every_fact_at_a_twelfth_of_the_steps(tmp_path, bundle):
    recipe = recipe_of(tmp_path, SMALL + FORMATS + "attack: release\n")
    once, whole = recipe.attack["rtt-after-bnb-nf4"], recipe.attack["rtt"]
    assert once.asked_groups(bundle) == whole.asked_groups(bundle) == 40
    ratio = once.cost(bundle).steps / whole.cost(bundle).steps
    assert ratio == pytest.approx(1 / 12, rel=0.1)


def test_retraining_after_a_format_is_left_out_with_false_or_where_the_data_does_not_fit(tmp_path, bundle):
    text = SMALL + FORMATS + "attack: {tier: release, rtt-after-bnb-nf4: false}\n"
    recipe = recipe_of(tmp_path, text)
    assert "rtt-after-bnb-nf4" not in recipe.attack and "rtt-after-rtn-int4-g32" in recipe.attack
    assert recipe_of(tmp_path, yaml.safe_dump(recipe.to_dict())) == recipe
    part = {row.group: f"part{number % 3}" for number, row in enumerate(bundle.forget.score)}
    rows = RowSet(
        *(tuple(replace(row, fold=part[row.group]) for row in of) for of in (bundle.forget.train, bundle.forget.score))
    )
    fitted, reasons = fit_to_data(recipe, replace(bundle, forget=rows))
    assert "came in 3 folds and attack.rtt.folds is 2" in reasons["rtt-after-rtn-int4-g32"]
    assert "rtt-after-rtn-int4-g32" not in {*fitted.attack, *fitted.gate.attacks}
    assert recipe_of(tmp_path, yaml.safe_dump(fitted.to_dict())) == fitted


def test_retraining_after_a_format_that_the_recipe_sets_itself_is_refused_where_it_does_not_fit(tmp_path, bundle):
    own = "attack: {tier: release, rtt-after-bnb-nf4: {attack: rtt, after: bnb-nf4, folds: 50}}\n"
    recipe = recipe_of(tmp_path, SMALL + FORMATS + own)
    assert recipe.attack["rtt-after-bnb-nf4"].settings.folds == 50
    with pytest.raises(RequestError, match="50 folds"):
        fit_to_data(recipe, bundle)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("attack: {tier: quick, rtt-after-bnb-nf4: false}", r"the tier quick does not include it: remove the line"),
        ("attack: {tier: release, rtt-after-nf9: false}", r"the tier release does not include it: remove the line"),
        ("attack: relase", r"r\.yaml:6: attack\.tier: there is no tier called 'relase': did you mean 'release'\?"),
        ("attack: {tier: slow}", r"there is no tier called 'slow': there are quick, release, deep"),
        ("attack: {prune: false}", r"attack\.prune is left out with false, and no tier is set"),
        (
            "attack: {tier: quick, rtt: false}",
            r"attack\.rtt is left out with false, and the tier quick does not include",
        ),
        ("attack: [rtt]", r"attack must be a mapping .* or the name of a tier"),
    ],
)
def test_bad_tiers_are_refused(tmp_path, section, message):
    with pytest.raises(RequestError, match=message):
        recipe_of(tmp_path, SMALL + section + "\n")


def test_costs_are_counted_by_hand(bundle):
    assert len(bundle.forget.score) % 40 == 0
    rows, asked = len(bundle.forget.train), len(bundle.forget.score)
    settings = RelearnAll(learning_rates=(1e-5, 1e-4, 1e-3), epochs=2, batch_size=7)
    steps = 3 * 2 * -(-rows // 7)
    cost = settings.cost(bundle)
    assert (cost.jobs, cost.steps) == (3, steps)
    assert cost.rows_scored == 3 * asked * (1 + 2)
    assert Prune(shares=(0.1, 0.2)).cost(bundle) == AttackCost(2, rows_scored=3 * asked)


def test_seconds_are_counts_times_what_one_takes():
    units = UnitCosts(load=2.0, train=0.5, score=0.25, generate=1.0)
    costs = {"a": AttackCost(1, 3, 8, 4), "b": AttackCost(2, rows_generated=5)}
    assert units.seconds(costs["a"]) == 2 + 8 * 0.5 + 4 * 0.25
    assert added(list(costs.values())) == AttackCost(3, 3, 8, 4, 5)
    lines = cost_lines(costs, 2, units)
    assert lines == [
        "a         2 jobs, 6 steps, 8 rows scored, about 14 s",
        "b         4 jobs, 10 answers generated, about 18 s",
        "together  6 jobs, 6 steps, 8 rows scored, 10 answers generated, about 32 s",
    ]
    assert cost_lines({"a": costs["a"]}, 1, None) == ["a  1 job, 3 steps, 4 rows scored"]
    assert [duration(seconds) for seconds in (0.01, 99, 600, 36_000)] == ["1 s", "99 s", "10 min", "10.0 h"]
