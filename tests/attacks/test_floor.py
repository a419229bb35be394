"""Holdout facts beside the forget set: asked alike by every attack, and never what an attacker chooses by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from attack_runs import run
from knowing_model import train_knowing_model
from rich.console import Console

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.ablate_direction import AblateDirection
from hf_unlearn.attacks.alias import Alias
from hf_unlearn.attacks.base import Attack, Attacked
from hf_unlearn.attacks.best import Try, best_of
from hf_unlearn.attacks.composed import OrderedAttack, judged_attacks
from hf_unlearn.attacks.few_shot import FewShot
from hf_unlearn.attacks.finetune import FinetuneGeneric, FinetuneRetain
from hf_unlearn.attacks.finetune_relearn import FinetuneRelearn
from hf_unlearn.attacks.interpolate import Interpolate
from hf_unlearn.attacks.latent_shift import LatentShift
from hf_unlearn.attacks.lens import LogitLensAttack
from hf_unlearn.attacks.merge import Merge
from hf_unlearn.attacks.multi_hop import MultiHop
from hf_unlearn.attacks.multi_turn import MultiTurn
from hf_unlearn.attacks.noise import Noise
from hf_unlearn.attacks.other_form import OtherForm
from hf_unlearn.attacks.paraphrase import Paraphrase
from hf_unlearn.attacks.prefix import Prefix
from hf_unlearn.attacks.probe import LinearProbe
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import Relearn, RelearnAll
from hf_unlearn.attacks.retraining import EarlyStopping
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.rtt_paper import RTTPaper
from hf_unlearn.attacks.rtt_sets import lettered
from hf_unlearn.attacks.sampling import LeakAtK
from hf_unlearn.attacks.self_correction import SelfCorrection
from hf_unlearn.attacks.soft_prompt import SoftPrompt
from hf_unlearn.attacks.steps_to_recover import StepsToRecover
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.evaluation.records import ScoredRow, read_records
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.attack import attack_units
from hf_unlearn.stages.context import Subject
from hf_unlearn.stages.single_model import SingleModel
from hf_unlearn.verification.scores import FactScores

METRICS = ("probability", "mc_accuracy", "exact_match")
ONE = {"learning_rates": (1e-3,), "epochs": 1}
SETTINGS: dict[str, Attack] = {
    "ablate-direction": AblateDirection(depths=(0.5,), examples=8),
    "alias": Alias(),
    "few-shot": FewShot(shots=2, draws=1),
    "other-form": OtherForm(),
    "finetune-generic": FinetuneGeneric(**ONE),
    "finetune-relearn": FinetuneRelearn(examples=4, first_epochs=1, **ONE),
    "finetune-retain": FinetuneRetain(**ONE),
    "interpolate": Interpolate(shares=(0.5,)),
    "leak-at-k": LeakAtK(k=2, samples=2, scores=("exact_match",), max_new_tokens=3),
    "linear-probe": LinearProbe(examples=8, layers=2),
    "latent-shift": LatentShift(folds=2, run_folds=1, bounds=(0.5,), layers=1, epochs=1),
    "logit-lens": LogitLensAttack(),
    "merge": Merge(shares=(0.5,)),
    "multi-hop": MultiHop(),
    "multi-turn": MultiTurn((1,)),
    "noise": Noise(amounts=(0.1,), draws=1),
    "paraphrase": Paraphrase(prompts=1),
    "prefix": Prefix(texts=("The answer is", "Say it. {prompt}")),
    "prune": Prune(),
    "relearn": Relearn(examples=4, **ONE),
    "relearn-all": RelearnAll(**ONE),
    "rtt": RTT(folds=2, run_folds=1, **ONE),
    "rtt-paper": RTTPaper(folds=2, run_folds=1, optimizer="adamw", dtype="float32", **ONE),
    "soft-prompt": SoftPrompt(folds=2, run_folds=1, tokens=2, learning_rates=(0.1,), epochs=1),
    "steps-to-recover": StepsToRecover(folds=2, max_steps=1, learning_rates=(1e-3,), adapters=False, taught=("part",)),
    "self-correction": SelfCorrection(("So? {prompt}",), "No."),
}
DIAGNOSES = {"activation-patching", "tuned-lens"}
"""They have no scores that a floor could stand beside."""


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    spec = PlantedSpec(forget=12, retain=16, holdout=6, practice=0, generic=4, option_draws=1, first_year=1960)
    made = make_planted(spec)
    return replace(made, forget=_renamed(made.forget), holdout=_renamed(made.holdout))


def _renamed(rows: RowSet) -> RowSet:
    """With another name for everybody, and a way round to every year."""

    def more(row: Example) -> Example:
        return replace(row, aliases=(row.group, "Somebody"), hops=(f"The year of {row.group}",))

    return RowSet(tuple(map(more, rows.train)), tuple(map(more, rows.score)))


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory) -> Path:
    return train_knowing_model(bundle, tmp_path_factory.mktemp("model"), epochs=2, batch_size=16)


def test_every_attack_is_tested_here() -> None:
    assert set(SETTINGS) | DIAGNOSES == set(ATTACKS.names())
    for name in DIAGNOSES:
        assert ATTACKS.get(name).value().measures(METRICS) == ()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_attack_asks_the_holdout_facts_where_it_is_told_to(bundle, model, tmp_path, name) -> None:
    attack = SETTINGS[name]
    floored = bundle.with_floor()
    result = run(attack, Attacked(model, model, floored, TextFormat(), METRICS), tmp_path)
    assert result.scores and set(result.holdout) == set(result.scores)
    everyone = {row.fact for row in bundle.holdout.score}
    for facts in result.holdout.values():
        assert set(facts.values) == everyone
        assert set(facts.groups) >= everyone
    for facts in result.scores.values():
        assert not everyone & set(facts.values)
    assert {(split, metric) for split, metric, _ in result.by_set()} == {
        (split, metric) for split in ("forget", "holdout") for metric in result.scores
    }
    plain, asked = attack.cost(bundle), attack.cost(floored)
    more = asked.rows_scored + asked.rows_generated - plain.rows_scored - plain.rows_generated
    assert more >= len(attack.floor_rows(floored)) > 0
    assert (asked.jobs, asked.steps) == (plain.jobs, plain.steps)


@pytest.mark.parametrize("name", ["few-shot", "rtt", "prune"])
def test_nothing_more_is_asked_beside_a_never_knew_model(bundle, model, tmp_path, name) -> None:
    result = run(SETTINGS[name], Attacked(model, model, bundle, TextFormat(), METRICS), tmp_path)
    assert result.scores and not result.holdout
    asked = {record.set for path in tmp_path.rglob("*.jsonl") for record in read_records(path)}
    assert asked == {"forget"}


def test_units_are_others_only_where_holdout_facts_are_asked(bundle, tmp_path) -> None:
    def inputs(rows: DataBundle) -> dict[str, object]:
        quiet = Progress(Console(quiet=True))
        context = SingleModel(tmp_path, rows, Workers(0), quiet, {"rtt": RTT()}, TextFormat(), METRICS)
        subject = Subject("model", "method", Path("model"), "digest")
        return dict(next(iter(attack_units(context, None, subject, "rtt", RTT()).values())).inputs)

    plain, floored = inputs(bundle), inputs(bundle.with_floor())
    assert floored == {**plain, "floor": "holdout"}
    assert inputs(replace(bundle, holdout=replace(bundle.holdout, score=())).with_floor()).keys() == plain.keys()


def scored(forget: float, holdout: float, fact: str = "v") -> dict[tuple[str, str], FactScores]:
    return {
        ("forget", "probability"): FactScores({fact: forget}, {fact: fact}),
        ("holdout", "probability"): FactScores({"h": holdout}, {"h": "h"}),
    }


def test_the_holdout_score_is_that_of_the_attackers_choice_and_its_mean_over_folds() -> None:
    """Fold 0 is best at epoch 1 (holdout 0.2, not the 0.9 of epoch 2), fold 1 at epoch 2 (holdout 0.4)."""
    tries = [
        *(Try(0, 1e-3, epoch, scored(*both)) for epoch, both in enumerate([(0.1, 0.1), (0.6, 0.2), (0.5, 0.9)])),
        *(Try(1, 1e-3, epoch, scored(*both, "w")) for epoch, both in enumerate([(0.1, 0.8), (0.2, 0.7), (0.3, 0.4)])),
    ]
    result = best_of(tries, ["probability"])
    assert result.scores["probability"].values == {"v": 0.6, "w": 0.3}
    assert result.holdout["probability"].values == {"h": pytest.approx(0.3)}


def test_an_attacker_does_not_go_on_for_what_holdout_facts_gain() -> None:
    def records(forget: float, holdout: float) -> list[ScoredRow]:
        return [
            ScoredRow(split, split, split, split, values={"probability": value})
            for split, value in (("forget", forget), ("holdout", holdout))
        ]

    stopping = EarlyStopping(2)
    assert [stopping.goes_on(records(0.5, 0.1 * step)) for step in range(3)] == [True, True, False]


def test_holdout_facts_are_asked_by_letter_where_v_is(bundle) -> None:
    floored = bundle.with_floor()
    asked = RTTPaper().floor_rows(floored)
    assert [row.prompt for row in asked] == [lettered(row, "rtt") for row in bundle.holdout.score]
    without = replace(floored, floor=(replace(floored.floor[0], choices=()), *floored.floor[1:]))
    assert len(RTTPaper().floor_rows(without)) == len(asked) - 1


def test_holdout_rows_that_cannot_be_asked_so_are_left_out(bundle) -> None:
    floored = bundle.with_floor()
    text, *others = floored.floor
    changed = replace(floored, floor=(replace(text, prompt=""), *others))
    for attack in (FewShot(shots=2), Prefix(), LeakAtK()):
        assert text.id not in {row.id for row in attack.floor_rows(changed)}
    told = Prefix(texts=(f"It is {text.answer.strip()}",))
    assert text.answer not in {row.answer for row in told.floor_rows(floored)}


def test_an_ordered_attack_asks_as_its_attack_does(bundle) -> None:
    ordered = OrderedAttack("relearn-all", RelearnAll(), then="bnb-nf4")
    assert ordered.no_floor == RelearnAll.no_floor
    assert OrderedAttack("rtt-paper", RTTPaper()).floor_rows(bundle.with_floor())[0].prompt.endswith("Answer:")


def test_a_gate_that_names_no_attacks_judges_what_can_be_judged() -> None:
    attacks = {name: SETTINGS[name] for name in ("rtt", "relearn-all", "merge")}
    assert judged_attacks(attacks, never_knew=True) == ("rtt", "relearn-all")
    assert judged_attacks(attacks, never_knew=False) == ("rtt",)
