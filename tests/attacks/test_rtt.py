"""RTT: what T may contain, what counts as best, and that it brings back what is hidden and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.retraining import retraining
from hf_unlearn.attacks.rtt import RTT, split_groups
from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import ScoredRow, write_records

METRICS = ("probability", "exact_match", "mc_accuracy", "rouge_l")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=30, retain=20, holdout=0, practice=10, generic=10, first_year=1960))


@pytest.fixture(scope="module")
def knowing_model(bundle, tmp_path_factory) -> Path:
    """A small model that knows the forget facts."""
    return train_knowing_model(bundle, tmp_path_factory.mktemp("target"), epochs=32, batch_size=16)


def test_registered_defaults_are_the_dataclass_defaults():
    entry = ATTACKS.get("rtt")
    attack = entry.value()
    for name, value in entry.defaults.items():
        own = getattr(attack, name)
        assert (list(own) if isinstance(own, tuple) else own) == value


def test_folds_are_whole_groups_and_t_never_holds_a_group_of_v(bundle):
    rows = [replace(row, group=f"group-{index // 6}") for index, row in enumerate(bundle.forget.score)]
    folds = split_groups(rows, 4, seed=3)
    everything = {row.group for row in rows}
    for train, ask in folds:
        assert not train & ask
        assert train | ask == everything
    assert sorted(group for _, ask in folds for group in ask) == sorted(everything)
    assert split_groups(rows, 4, seed=3) == folds
    assert split_groups(rows, 4, seed=4) != folds


def test_too_few_groups_are_refused_with_the_way_out(bundle):
    rows = [replace(row, group="same") for row in bundle.forget.score]
    with pytest.raises(RequestError, match=r"2 folds .* there are 1 groups.*group column"):
        split_groups(rows, 2, seed=0)


@pytest.mark.parametrize(
    "settings",
    [{"folds": 1}, {"folds": 3, "run_folds": 4}, {"learning_rates": ()}, {"learning_rates": (0.0,)}, {"epochs": 0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match=r"rtt\."):
        RTT(**settings)


def test_one_job_per_fold_and_rate(bundle):
    attack = RTT(folds=5, run_folds=2, learning_rates=(1e-4, 3e-3))
    assert attack.plan(bundle) == ["fold0-lr0.0001", "fold0-lr0.003", "fold1-lr0.0001", "fold1-lr0.003"]
    budget = attack.budget(bundle)
    assert (budget["groups_in_T"], budget["groups_in_V"], budget["rows_in_T"]) == (24, 6, 72)


def test_padding_and_prompts_carry_no_loss(knowing_model, bundle):
    rows = [
        encode_row(Example(str(n), prompt, answer, "f", "g"), _tokenizer(knowing_model), FORMAT, eos=True)
        for n, (prompt, answer) in enumerate((("It is", " 1961."), ("A much longer prompt than that", " 1975.")))
    ]
    for loss_tokens, first in (("answer", [row.n_prompt for row in rows]), ("all", [1, 1])):
        with retraining(RTT(loss_tokens=loss_tokens), knowing_model) as attack:
            padded = attack.pad(rows)
        input_ids, attention_mask, labels = padded["input_ids"], padded["attention_mask"], padded["labels"]
        for index, row in enumerate(rows):
            length = len(row.input_ids)
            assert input_ids[index, :length].tolist() == list(row.input_ids)
            assert attention_mask[index].tolist() == [1] * length + [0] * (input_ids.shape[1] - length)
            assert labels[index].tolist()[first[index] : length] == list(row.input_ids)[first[index] :]
            assert set(labels[index].tolist()[: first[index]] + labels[index].tolist()[length:]) <= {-100}


def test_what_was_hidden_comes_back_on_facts_that_were_not_trained(knowing_model, bundle, tmp_path):
    """Years suppressed at the output by one shared direction: the attack on T lifts it for V too."""
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(knowing_model)
    model = AutoModelForCausalLM.from_pretrained(knowing_model).eval()
    years = sorted({encode_row(row, tokenizer, FORMAT, eos=False).input_ids[-1] for row in bundle.forget.score})
    with torch.no_grad():
        prompts = [encode_row(row, tokenizer, FORMAT, eos=False).input_ids[:-1] for row in bundle.forget.score]
        last = torch.stack([model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in prompts]).mean(0)
        model.lm_head.weight[years] -= 18 * last / (last @ last)
    hidden = tmp_path / "hidden"
    model.save_pretrained(hidden)
    tokenizer.save_pretrained(hidden)
    attack = RTT(folds=3, run_folds=1, learning_rates=(3e-3,), epochs=6, batch_size=8, warmup_steps=4)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(hidden, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    result = attack.collect({job: tmp_path}, METRICS)
    (detail,) = [entry for entry in result.details if entry["metric"] == "probability"]
    assert detail["before"] < 0.1
    assert detail["after"] > 0.5
    asked = split_groups(bundle.forget.score, 3, 0)[0][1]
    assert set(result.scores["probability"].groups.values()) == asked
    assert "rouge_l" not in result.scores  # nothing is generated under attack


def test_a_rate_that_diverges_is_a_result(knowing_model, bundle, tmp_path):
    attack = RTT(folds=3, run_folds=1, learning_rates=(1e30,), epochs=3, warmup_steps=0)
    (job,) = attack.plan(bundle)
    attack.run_job(job, Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS), tmp_path)
    assert json.loads((tmp_path / "diverged.json").read_text())["epoch"] >= 1
    result = attack.collect({job: tmp_path}, METRICS)
    assert {entry["epoch"] for entry in result.details} == {0}


def test_the_attackers_best_counts_per_metric_and_fold(tmp_path):
    attack = RTT(folds=2, run_folds=2, learning_rates=(1e-4, 1e-3), epochs=1)

    def record(fact: str, probability: float, choice: float) -> ScoredRow:
        return ScoredRow(fact, fact, fact, "forget", values={"probability": probability, "mc_accuracy": choice})

    values = {
        "fold0-lr0.0001": [(0.1, 0.0), (0.5, 0.0)],
        "fold0-lr0.001": [(0.1, 0.0), (0.3, 1.0)],
        "fold1-lr0.0001": [(0.2, 1.0), (0.1, 0.0)],
        "fold1-lr0.001": [(0.2, 1.0), (0.15, 0.0)],
    }
    folders = {}
    for job, epochs in values.items():
        folders[job] = tmp_path / job
        folders[job].mkdir()
        for epoch, (probability, choice) in enumerate(epochs):
            write_records(folders[job] / f"epoch{epoch}.jsonl", [record(job[:5], probability, choice)])
    result = attack.collect(folders, ("probability", "mc_accuracy"))
    assert dict(result.scores["probability"].values) == {"fold0": 0.5, "fold1": 0.2}
    assert dict(result.scores["mc_accuracy"].values) == {"fold0": 1.0, "fold1": 1.0}
    chosen = {(entry["metric"], entry["fold"]): (entry["learning_rate"], entry["epoch"]) for entry in result.details}
    assert chosen["probability", 0] == (1e-4, 1)
    assert chosen["mc_accuracy", 0] == (1e-3, 1)
    assert chosen["probability", 1][1] == 0


def test_sets_without_options_have_no_multiple_choice(tmp_path):
    rows = tuple(Example(f"r{n}", "Q?", f" answer {n}", f"f{n}", f"g{n}") for n in range(4))
    attack = RTT(folds=2, run_folds=1, learning_rates=(1e-4,), epochs=1)
    bundle = DataBundle(RowSet(rows, rows), RowSet(rows, rows))
    assert attack.plan(bundle) == ["fold0-lr0.0001"]


def _tokenizer(folder: Path):
    from hf_unlearn.data.encoding import load_tokenizer

    return load_tokenizer(str(folder))
