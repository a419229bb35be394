"""What is asked of a set: its own metrics and settings, and rows that cannot give what they need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.run import EvalSpec, Sampling, SetScoring, evaluate_folder
from hf_unlearn.evaluation.spec import NEEDS, set_requests
from hf_unlearn.models.memory import batch_budget

SPEC = EvalSpec(metrics=("probability",))


def test_the_needs_of_all_metrics_are_words_that_the_engine_knows():
    for entry in METRICS.entries():
        assert set(entry.needs) <= NEEDS, entry.name


def test_settings_of_one_set_leave_the_others_alone(folder, sets, tmp_path):
    scoring = {
        "retain": SetScoring(
            metrics=("exact_match",),
            max_new_tokens=3,
            generate_limit=1,
            needs=("samples", "text", "gradient"),
            sampling=Sampling(count=2, temperature=1.0),
        )
    }
    rows = {"forget": sets["forget"], "retain": sets["retain"][:2]}
    evaluate_folder(folder, rows, (), None, TextFormat(), SPEC, tmp_path, scoring=scoring)
    records = {record.id: record for record in read_records(tmp_path / "records.jsonl")}
    assert set(records["f0"].values) == {"probability"} and set(records["r0"].values) == {"exact_match"}
    assert records["f0"].generated is None and records["f0"].grad_norm is None and not records["f0"].text
    assert records["r0"].generated is not None and len(records["r0"].samples) == 2
    assert records["r1"].generated is None and not records["r1"].samples, "beyond the first fact"
    assert records["r1"].grad_norm is not None and records["r1"].text == rows["retain"][1].text


def test_a_metric_for_all_sets_is_left_out_where_it_does_not_apply(folder, sets, tmp_path):
    spec = EvalSpec(metrics=("probability", "mc_accuracy"))
    evaluate_folder(folder, sets, (), None, TextFormat(), spec, tmp_path)
    records = {record.id: record for record in read_records(tmp_path / "records.jsonl")}
    assert "mc_accuracy" in records["r0"].values and "mc_accuracy" not in records["r1"].values


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"retain": SetScoring(metrics=("mc_accuracy",))}, r"rows\.jsonl:r1: the metric mc_accuracy .* needs choices"),
        ({"retain": SetScoring(metrics=("rouge_l",))}, r"rows\.jsonl:r2: .* needs a prompt to continue"),
        ({"retian": SetScoring()}, "'retian' has settings and is not scored: did you mean 'retain'"),
        ({"forget": SetScoring(metrics=("probabilty",))}, "did you mean 'probability'"),
        ({"forget": SetScoring(needs=("samples",))}, "forget needs samples, but no sampling is set"),
    ],
)
def test_what_cannot_be_given_is_refused_before_anything_is_loaded(scoring, message, sets, tmp_path):
    with pytest.raises(RequestError, match=message):
        evaluate_folder(tmp_path / "absent", sets, (), None, TextFormat(), SPEC, tmp_path, scoring=scoring)


@pytest.mark.parametrize(
    ("need", "lacking", "message"),
    [
        ("variants:paraphrased", {"variants": (("perturbed", (" b",)),)}, "paraphrased answers"),
        ("variants:perturbed", {"variants": (("paraphrased", (" a",)), ("perturbed", ()))}, "perturbed answers"),
        ("prior", {"prior_prompt": ""}, "without the question"),
        ("options", {"choices": ()}, "choices"),
        ("samples", {"prompt": ""}, "a prompt to continue"),
    ],
)
def test_each_need_names_the_row_that_lacks_it(need, lacking, message, sets):
    name = next(entry.name for entry in METRICS.entries() if need in entry.needs)
    settings = {"a": SetScoring(metrics=(name,), sampling=Sampling(1, 1.0))}
    variants = (("paraphrased", (" a",)), ("perturbed", (" b",)))
    full = replace(sets["forget"][0], variants=variants, prior_prompt="Answer:")
    assert need in set_requests({"a": [full]}, SPEC, settings)["a"].needs
    lacks = replace(full, origin="rows.jsonl:7", **lacking)
    with pytest.raises(RequestError, match=rf"rows\.jsonl:7: .*{message}"):
        set_requests({"a": [full, lacks]}, SPEC, settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampling(0, 1.0), "sampling.count"),
        (lambda: Sampling(1, 0.0), "sampling.temperature"),
        (lambda: Sampling(1, float("nan")), "sampling.temperature"),
        (lambda: Sampling(1, 1.0, top_p=0.0), "sampling.top_p"),
        (lambda: SetScoring(stop=("a", "")), "empty string"),
        (lambda: SetScoring(max_new_tokens=0), "max_new_tokens"),
        (lambda: SetScoring(generate_limit=-1), "generate_limit"),
        (lambda: SetScoring(needs=("variants:wrong",)), "'variants:wrong'"),
    ],
)
def test_senseless_settings_are_refused(make, message):
    with pytest.raises(RequestError, match=message):
        make()


def test_conversations_need_a_chat_template(folder, make_row, tmp_path):
    chat = replace(make_row("c7", "Who was it?", " Ada"), conversational=True)
    with pytest.raises(RequestError, match=r"rows\.jsonl:c7 needs a chat template"):
        evaluate_folder(folder, {"forget": [chat]}, (), None, TextFormat(), SPEC, tmp_path)
    plain = make_row("c8", "Who was it?", " Ada")
    with pytest.raises(RequestError, match=r"rows\.jsonl:c8 needs a chat template"):
        evaluate_folder(folder, {"forget": [plain]}, (), None, TextFormat(kind="chat"), SPEC, tmp_path)


def test_automatic_batches_depend_on_the_device_only():
    import torch

    assert batch_budget("auto", torch.device("cpu")) == 4096 < batch_budget("auto", torch.device("cuda"))
    assert batch_budget(7, torch.device("cuda")) == 7
