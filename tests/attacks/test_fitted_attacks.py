"""Soft prompts and latent shifts: what they add and nothing else, their bounds, what they find beside the floor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class, detail, run
from knowing_model import THIRTY, train_three

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.latent_shift import LatentShift, Shifts, usual_lengths
from hf_unlearn.attacks.model_cache import borrowed
from hf_unlearn.attacks.soft_prompt import SoftPrompt, SoftTokens
from hf_unlearn.data.encoding import EncodedRow, TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.scoring import LabelledText, score_rows, score_texts
from hf_unlearn.models.decoder import decoder_layers
from hf_unlearn.models.loading import load_model

METRICS = ("probability", "mc_accuracy")
FORMAT = TextFormat()


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(THIRTY)


@pytest.fixture(scope="module")
def models(made_once) -> Path:
    return made_once("three-models", train_three)


def attacked(folder: Path, bundle: DataBundle) -> Attacked:
    return Attacked(folder, folder, bundle, FORMAT, METRICS)


@pytest.mark.parametrize("name", ["soft-prompt", "latent-shift"])
def test_registered_defaults_are_those_of_the_dataclass(name):
    assert_defaults_are_those_of_the_class(ATTACKS.get(name))


def test_soft_tokens_are_read_as_if_they_were_embeddings(models):
    """Logits with fillers and vectors are those of the same embeddings given directly, in float64."""
    model = load_model(models / "knowing").double()
    tokens = SoftTokens(model, [5, 6, 7])
    with torch.no_grad():
        tokens.weights[0].add_(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
    row = EncodedRow("r", (10, 11, 12, 13), 2)
    given = tokens.text(row)
    assert (given.input_ids, given.n_prompt) == ((5, 6, 7, 10, 11, 12, 13), 5)
    table = model.get_input_embeddings().weight
    unit = table[[5, 6, 7]].float().square().mean().sqrt().item()
    wanted_vectors = table[[5, 6, 7]].float() + unit * tokens.weights[0]
    assert torch.allclose(tokens.vectors, wanted_vectors)
    with torch.no_grad():
        together = torch.cat([wanted_vectors.double(), table[[10, 11, 12, 13]]])[None]
        wanted = model(inputs_embeds=together).logits
        with tokens.applied():
            found = model(input_ids=torch.tensor([given.input_ids])).logits
        assert torch.allclose(found, wanted, atol=1e-10)
        assert not torch.allclose(model(input_ids=torch.tensor([given.input_ids])).logits, wanted, atol=1e-3)


def test_soft_tokens_stand_after_a_special_first_token(models):
    model = load_model(models / "knowing")
    tokens = SoftTokens(model, [5, 6], after=1)
    assert tokens.text(EncodedRow("r", (1, 10, 11), 2)).input_ids == (1, 5, 6, 10, 11)
    embedding = model.get_input_embeddings()
    with torch.no_grad(), tokens.applied():
        found = embedding(torch.tensor([[1, 9, 9, 10]]))
        assert torch.equal(found[0, 0], embedding.weight[1]) and torch.equal(found[0, 3], embedding.weight[10])
        assert torch.allclose(found[0, 1:3], tokens.vectors)
        assert embedding(torch.tensor([[1, 9]])).shape == (1, 2, 64)  # shorter than they are


def test_options_of_a_question_are_scored_with_the_same_vectors_as_alone(models, bundle):
    """Texts that share a prompt are scored as a tree of tokens; each has the numbers it has by itself."""
    model, tokenizer = load_model(models / "knowing"), load_tokenizer(str(models / "knowing"))
    tokens = SoftTokens(model, [5, 6, 7])
    with torch.no_grad():
        tokens.weights[0].add_(1.0)
    row = next(row for row in bundle.forget.score if len(row.choices) > 2)
    options = [replace(row, answer=choice) for choice in row.choices]
    texts = [LabelledText(tokens.text(encode_row(option, tokenizer, FORMAT, eos=False))) for option in options]
    with tokens.applied():
        together = score_texts(model, texts, Passes(4096))
        alone = [score_texts(model, [text], Passes(4096))[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_gradients_are_those_of_finite_differences(models):
    """Of soft tokens and of shifts. Norms of these models compute in float32 whatever the weights are, so that a step
    is as large as that allows."""
    model = load_model(models / "knowing").double().requires_grad_(False)
    ids = torch.tensor([[5, 6, 10, 11, 12]])
    for lent in (SoftTokens(model, [5, 6]), Shifts(model, {1: 0.7, 2: 1.3})):
        lent_weights = lent.weights[0]
        lent_weights.data = lent_weights.data.double()

        def loss(lent=lent) -> torch.Tensor:
            with lent.applied():
                logits = model(input_ids=ids).logits  # the model's own loss is computed in float32
            return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])

        loss().backward()
        place = (0, 3) if lent_weights.ndim == 2 else (3,)
        found, step = lent_weights.grad[place].item(), 1e-2
        with torch.no_grad():
            lent_weights[place] += step
            above = loss().item()
            lent_weights[place] -= 2 * step
            below = loss().item()
        assert found == pytest.approx((above - below) / (2 * step), rel=5e-3, abs=1e-6)
        assert all(weight.grad is None for weight in model.parameters())


def test_shifts_are_added_after_their_layers_and_stay_within_their_bounds(models):
    model = load_model(models / "knowing")
    shifts = Shifts(model, {2: 1.5})
    generator = torch.Generator().manual_seed(3)
    (unit,) = shifts.weights
    with torch.no_grad():
        unit.copy_(torch.randn(64, generator=generator))
    wide = unit.detach().clone()
    shifts.keep_bound()
    assert shifts.vectors[2].norm().item() == pytest.approx(1.5, rel=1e-6)
    assert torch.allclose(shifts.vectors[2], 1.5 * wide / wide.norm())
    with torch.no_grad():
        unit.mul_(0.5)
    short = unit.detach().clone()
    shifts.keep_bound()
    assert torch.equal(unit.detach(), short)
    ids, caught = torch.tensor([[3, 4, 5]]), []
    hook = decoder_layers(model)[1].register_forward_hook(lambda *given: caught.append(_hidden(given[2])))
    with torch.no_grad():
        model(input_ids=ids)
        with shifts.applied():
            # Registered after the one above, so that what is caught is the state before the shift: caught again below.
            after = decoder_layers(model)[1].register_forward_hook(lambda *given: caught.append(_hidden(given[2])))
            model(input_ids=ids)
            after.remove()
    hook.remove()
    assert torch.allclose(caught[2] - caught[0], shifts.vectors[2].expand_as(caught[0]), atol=1e-5)


def _hidden(output):
    return (output[0] if isinstance(output, tuple) else output).detach().clone()


def test_usual_lengths_are_medians_over_tokens(models):
    model = load_model(models / "knowing")
    rows = [EncodedRow("a", (3, 4, 5), 1), EncodedRow("b", (6, 7), 1)]
    found = usual_lengths(model, rows, 2)
    lengths: dict[int, list[float]] = {1: [], 2: []}
    for row in rows:
        for number in (1, 2):
            hook = decoder_layers(model)[number - 1].register_forward_hook(
                lambda *given, number=number: lengths[number].extend(_hidden(given[2])[0].norm(dim=-1).tolist())
            )
            with torch.no_grad():
                model(input_ids=torch.tensor([row.input_ids]))
            hook.remove()
    assert found == {number: pytest.approx(sorted(values)[2], rel=1e-5) for number, values in lengths.items()}


SETTINGS = {
    "soft-prompt": SoftPrompt(folds=3, run_folds=1, learning_rates=(0.1, 0.3), epochs=10, batch_size=8),
    "latent-shift": LatentShift(folds=3, run_folds=1, bounds=(0.5, 1.0), layers=2, epochs=10, batch_size=8),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_hidden_comes_back_on_v_above_the_model_that_never_knew(name, models, bundle, tmp_path):
    attack, found = SETTINGS[name], {}
    for folder in ("hiding", "never"):
        place = tmp_path / folder
        place.mkdir()
        found[folder] = run(attack, attacked(models / folder, bundle), place)
    hiding, never = (detail(found[folder]) for folder in ("hiding", "never"))
    assert hiding["before"] < 0.1
    assert hiding["after"] > never["after"] + 0.2
    assert set(found["hiding"].scores["probability"].values) == {
        row.fact for row in attack.lesson(bundle, FORMAT).asked
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_the_model_is_left_as_it_was_and_v_is_never_fitted_on(name, models, bundle, tmp_path):
    attack = replace(SETTINGS[name], epochs=1)
    job = attack.plan(bundle)[0]
    folder = models / "knowing"
    with borrowed(folder, edits=False) as cached:
        before = [weight.detach().clone() for weight in cached.model.parameters()]
    attack.run_job(job, attacked(folder, bundle.with_floor()), tmp_path)
    with borrowed(folder, edits=False) as cached:
        assert all(torch.equal(a, b) for a, b in zip(before, cached.model.parameters(), strict=True))
        rows = score_rows(cached.model, cached.tokenizer, {"forget": bundle.forget.score}, FORMAT)
    plain = {row.id: row.logps for row in rows}
    untouched = [row for row in read_records(tmp_path / "epoch0.jsonl") if row.set == "forget"]
    for row in untouched:
        assert row.logps == pytest.approx(plain[row.id], abs=1e-5)
    lesson = attack.lesson(bundle, FORMAT)
    assert not {row.group for row in lesson.texts.rows} & {row.group for row in lesson.asked}
    asked = {row.set for row in read_records(tmp_path / "epoch1.jsonl")}
    assert asked == {"forget", "holdout"}


def test_costs_and_budgets_are_counted_by_hand(bundle):
    attack = SoftPrompt(folds=3, run_folds=2, learning_rates=(0.1,), epochs=4, batch_size=7)
    lessons = [attack.lesson(bundle, FORMAT, fold) for fold in (0, 1)]
    cost = attack.cost(bundle)
    assert attack.plan(bundle) == ["fold0-learning_rate0.1", "fold1-learning_rate0.1"]
    assert cost.steps == sum(4 * -(-len(lesson.texts.rows) // 7) for lesson in lessons)
    assert cost.rows_trained == sum(4 * len(lesson.texts.rows) for lesson in lessons)
    assert cost.rows_scored == sum(5 * len(lesson.asked) for lesson in lessons)
    budget = attack.budget(bundle)
    assert (budget["run_folds"], budget["groups_in_T"], budget["groups_in_V"]) == (2, 20, 10)
    assert budget["judged_as"] == "difference to the floor"
    assert LatentShift(bounds=(0.2,)).budget(bundle)["bounds"] == [0.2]
    assert not SoftPrompt.judged and not LatentShift.judged


def test_vectors_that_break_the_model_are_a_result(models, bundle, tmp_path):
    attack = SoftPrompt(folds=3, run_folds=1, learning_rates=(1e39,), epochs=2)
    (job,) = attack.plan(bundle)
    attack.run_job(job, attacked(models / "knowing", bundle), tmp_path)
    assert json.loads((tmp_path / "diverged.json").read_text())["epoch"] == 1
    found = detail(attack.collect({job: tmp_path}, METRICS))
    assert (found["epoch"], found["after"]) == (0, found["before"])
    assert found["diverged"] == [1e39]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SoftPrompt(tokens=0), r"soft-prompt\.tokens is 0"),
        (lambda: SoftPrompt(learning_rates=()), r"soft-prompt\.learning_rates"),
        (lambda: SoftPrompt(learning_rates=(0.1, 0.1)), r"soft-prompt\.learning_rates names a rate twice"),
        (lambda: SoftPrompt(folds=1), r"soft-prompt\.folds is 1"),
        (lambda: SoftPrompt(run_folds=6), r"soft-prompt\.run_folds is 6"),
        (lambda: SoftPrompt(epochs=0), r"soft-prompt\.epochs"),
        (lambda: LatentShift(bounds=(0.0,)), r"latent-shift\.bounds"),
        (lambda: LatentShift(bounds=(0.1, 0.1)), r"latent-shift\.bounds names one twice"),
        (lambda: LatentShift(layers=0), r"latent-shift\.layers is 0"),
        (lambda: LatentShift(step=1.5), r"latent-shift\.step is 1\.5"),
        (lambda: LatentShift(batch_size=0), r"latent-shift\.batch_size"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()


def test_vectors_that_do_not_fit_into_the_context_are_refused_before_anything_runs(models, bundle):
    known = attacked(models / "knowing", bundle)
    SoftPrompt(folds=3, run_folds=1, tokens=8).check(known)
    LatentShift(folds=3).check(known)
    with pytest.raises(RequestError, match=r"soft-prompt: the longest row of T has \d+ tokens and gets 64 more, and"):
        SoftPrompt(folds=3, run_folds=1, tokens=64).check(known)
