"""Models from scratch: they learn what they are given, and the same arguments give the same weights."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import TextFormat, encode_prompt, encode_row
from hf_unlearn.data.example import Example
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.models.scratch import (
    ARCHITECTURES,
    ScratchSpec,
    _backward,
    _batches,
    _by_length,
    build_tokenizer,
    knows,
    new_model,
    scratch_cache_key,
    scratch_tokenizer,
    train_scratch_model,
)

FMT = TextFormat()
SPEC = ScratchSpec(
    hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1, vocab_size=512, max_positions=64, epochs=60
)
SHORT = dataclasses.replace(SPEC, epochs=2)
KEY_OF_0_4 = "987bdc4c511edfa3c5eb52487b406147574d604b03d55d4adb2ebe9906539086"


@pytest.fixture(scope="module")
def bundle():
    return make_planted(PlantedSpec(forget=6, retain=6, holdout=6, practice=0, generic=8))


@pytest.fixture(scope="module")
def texts(bundle):
    sets = (bundle.forget, bundle.retain, bundle.holdout, bundle.generic)
    return [row.text for rows in sets for row in (*rows.train, *rows.score)] + [
        f" {y}" for y in range(1900, 2000)
    ] * 99


@pytest.fixture(scope="module")
def tokenizer(texts):
    return build_tokenizer(texts, SPEC)


@pytest.fixture(scope="module")
def rows(bundle):
    return (*bundle.forget.train, *bundle.generic.train)


@pytest.fixture(scope="module")
def trained(rows, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train_scratch_model(dataclasses.replace(SPEC, batch_size=13), rows, tokenizer, FMT, folder, progress="test")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def train(spec, rows, tokenizer, folder):
    train_scratch_model(spec, rows, tokenizer, FMT, folder, progress="")
    return weights(folder)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_tokenizer_is_the_same_each_time_and_knows_every_byte(texts, tokenizer):
    again = build_tokenizer(texts, SPEC)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    text = "Ünseen שלום 🙂 1234"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]) == text
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert len(tokenizer) <= SPEC.vocab_size and tokenizer.model_max_length == SPEC.max_positions


def test_frequent_years_are_single_tokens(tokenizer):
    assert all(len(tokenizer.tokenize(f" {year}")) == 1 for year in range(1900, 2000))


def test_learns_what_it_is_given_and_nothing_else(trained, bundle):
    assert knows(trained, bundle.forget.train, FMT) >= 0.95
    assert knows(trained, bundle.holdout.train, FMT) <= 0.25


def test_knows_is_greedy_decoding(trained, bundle):
    model = AutoModelForCausalLM.from_pretrained(trained).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    rows = (*bundle.forget.score, *bundle.forget.train[:6])
    hits = 0
    for row in rows:
        prompt = torch.tensor([encode_prompt(row, tokenizer, FMT)])
        encoded = encode_row(row, tokenizer, FMT, eos=False)
        answer = list(encoded.input_ids[encoded.n_prompt :])
        written = model.generate(prompt, max_new_tokens=len(answer), do_sample=False, eos_token_id=None)
        hits += written[0, prompt.shape[1] :].tolist() == answer
    assert knows(trained, rows, FMT, batch_size=5) == hits / len(rows)


def test_saved_folder_is_whole(trained, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.float32 and model.config.hidden_size == 64
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert AutoTokenizer.from_pretrained(trained)("a")["input_ids"] == tokenizer("a")["input_ids"]


def test_same_arguments_give_the_same_bits_and_other_seeds_do_not(rows, tokenizer, tmp_path):
    first = train(SHORT, rows, tokenizer, tmp_path / "a")
    torch.manual_seed(1234)  # what happened before must not matter
    assert same(first, train(SHORT, rows, tokenizer, tmp_path / "b"))
    assert not same(first, train(dataclasses.replace(SHORT, seed=1), rows, tokenizer, tmp_path / "c"))


def test_a_child_process_gives_the_same_bits(rows, tokenizer, tmp_path):
    here = train(SHORT, rows, tokenizer, tmp_path / "here")
    context = multiprocessing.get_context("spawn")
    arguments = (SHORT, rows, tokenizer, FMT, tmp_path / "there")
    child = context.Process(target=train_scratch_model, args=arguments, kwargs={"progress": "child"})
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert same(here, weights(tmp_path / "there"))


def test_leaves_threads_and_random_state_alone(rows, tokenizer, tmp_path):
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(dataclasses.replace(SHORT, epochs=1, threads=threads + 1), rows, tokenizer, tmp_path)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_padding_and_splitting_by_length_change_nothing(rows, tokenizer):
    """Gradient and loss are those of the mean over all labels, computed row by row without padding."""
    encoded = [encode_row(row, tokenizer, FMT, eos=True) for row in rows]
    assert len(_by_length(encoded)) > 1
    model = new_model(SPEC, tokenizer).double()
    loss = _backward(model, encoded, tokenizer.pad_token_id)
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    labels, expected = sum(len(row.input_ids) - row.n_prompt for row in encoded), 0.0
    for row in encoded:
        ids = torch.tensor([row.input_ids])
        logps = model(input_ids=ids).logits[0, row.n_prompt - 1 : -1].log_softmax(-1)
        share = -logps.gather(1, ids[0, row.n_prompt :, None]).sum() / labels
        share.backward()
        expected += share.item()
    # The library computes the loss itself in fp32.
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-8)


def test_answer_labels_leave_prompts_unlearned(rows, tokenizer, tmp_path, trained):
    spec = dataclasses.replace(SPEC, epochs=25, batch_size=13)

    def prompt_loss(folder):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = torch.tensor([encode_prompt(rows[0], tokenizer, FMT)])
        with torch.no_grad():
            return model(input_ids=ids, labels=ids).loss.item()

    train(spec, rows, tokenizer, tmp_path / "all")
    train(dataclasses.replace(spec, labels="answer"), rows[:18], tokenizer, tmp_path / "answer")
    assert prompt_loss(tmp_path / "answer") > prompt_loss(tmp_path / "all") + 1


def test_every_epoch_sees_every_row_once_in_a_new_order(rows, tokenizer):
    encoded = [encode_row(row, tokenizer, FMT, eos=True) for row in rows]
    spec = dataclasses.replace(SPEC, epochs=2, batch_size=10)
    seen = [row.id for batch in _batches(encoded, spec) for row in batch]
    first, second = seen[: len(rows)], seen[len(rows) :]
    assert sorted(first) == sorted(second) == sorted(row.id for row in rows)
    assert first != second


def test_cache_key_sees_content_and_nothing_else(rows, texts):
    key = scratch_cache_key(SPEC, rows, texts, FMT)
    renamed = [dataclasses.replace(row, id=f"other-{row.id}", origin="elsewhere") for row in rows]
    assert scratch_cache_key(SPEC, renamed, iter(texts), FMT) == key
    changed = [dataclasses.replace(rows[0], answer=" 1900."), *rows[1:]]
    others = [
        scratch_cache_key(dataclasses.replace(SPEC, seed=1), rows, texts, FMT),
        scratch_cache_key(SPEC, changed, texts, FMT),
        scratch_cache_key(SPEC, rows[::-1], texts, FMT),
        scratch_cache_key(SPEC, rows, texts[1:], FMT),
        scratch_cache_key(SPEC, rows, texts, TextFormat(separator=" ")),
    ]
    assert len({key, *others}) == 6 and len(key) == 64


def test_no_bar_outside_a_terminal(rows, tokenizer, tmp_path, capsys):
    train_scratch_model(dataclasses.replace(SHORT, epochs=1), rows, tokenizer, FMT, tmp_path, progress="my bar")
    assert "my bar" not in "".join(capsys.readouterr())


def test_a_loss_that_is_not_finite_stops(rows, tokenizer, tmp_path):
    wild = dataclasses.replace(SPEC, learning_rate=1e30, batch_size=4)
    with pytest.raises(RequestError, match=r"loss is .* at step .*learning_rate"):
        train(wild, rows, tokenizer, tmp_path / "wild")
    assert not (tmp_path / "wild").exists()


def test_rows_that_cannot_be_trained(rows, tokenizer, tmp_path):
    with pytest.raises(RequestError, match=r"longest row has \d+ tokens.*max_positions"):
        train(dataclasses.replace(SPEC, max_positions=4), rows, tokenizer, tmp_path)
    with pytest.raises(RequestError, match="no rows"):
        train(SPEC, [], tokenizer, tmp_path)
    with pytest.raises(RequestError, match="no rows"):
        knows(tmp_path, [], FMT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 65},
        {"heads": 3},
        {"kv_heads": 3},
        {"epochs": 0},
        {"vocab_size": 100},
        {"warmup": 1.0},
        {"labels": "some"},
        {"threads": 0},
        {"architecture": "gpt-neox"},
        {"architecture": "gpt_neox", "heads": 4, "kv_heads": 2},
        {"base": "a-model", "layers": 2},
        {"base_gguf_file": "a.gguf"},
    ],
)
def test_specs_that_cannot_be(wrong):
    with pytest.raises(RequestError, match="scratch model"):
        ScratchSpec(**wrong)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_sizes_asked_for(architecture, tokenizer):
    spec = dataclasses.replace(SPEC, architecture=architecture, kv_heads=SPEC.heads, tie_embeddings=True)
    config = new_model(spec, tokenizer).config
    assert config.model_type == architecture
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (64, 128, 2)
    assert config.num_attention_heads == 2 and config.tie_word_embeddings and config.max_position_embeddings == 64
    assert (config.vocab_size, config.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)


def test_another_architecture_learns_too(rows, bundle, tokenizer, tmp_path):
    spec = dataclasses.replace(SPEC, architecture="gpt_neox", kv_heads=2, batch_size=13)
    train_scratch_model(spec, rows, tokenizer, FMT, tmp_path, progress="")
    assert knows(tmp_path, bundle.forget.train, FMT) >= 0.95


def test_a_model_computed_in_bfloat16_learns_too_and_is_another_one(rows, bundle, texts, tokenizer, tmp_path):
    spec = dataclasses.replace(SPEC, bf16=True, batch_size=13)
    train_scratch_model(spec, rows, tokenizer, FMT, tmp_path, progress="")
    assert knows(tmp_path, bundle.forget.train, FMT) >= 0.95
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}
    same_but = dataclasses.replace(spec, bf16=False)
    assert scratch_cache_key(spec, rows, texts, FMT) != scratch_cache_key(same_but, rows, texts, FMT)


def test_models_built_by_earlier_versions_are_still_found():
    row = Example("a", "When was Ada Kwon born?", " In 1962.", "ada", "ada")
    spec = ScratchSpec(kv_heads=4)
    assert scratch_cache_key(ScratchSpec(), [row], [row.text], FMT) == KEY_OF_0_4
    other = dataclasses.replace(spec, architecture="gpt_neox")
    assert scratch_cache_key(other, [row], [row.text], FMT) != scratch_cache_key(spec, [row], [row.text], FMT)


def test_a_base_is_where_training_starts(rows, bundle, trained, tokenizer, tmp_path):
    spec = ScratchSpec(base=str(trained), epochs=1, batch_size=13, learning_rate=1e-6, max_positions=64)
    assert scratch_tokenizer([], spec).get_vocab() == tokenizer.get_vocab()
    train_scratch_model(spec, rows, tokenizer, FMT, tmp_path / "near", progress="")
    before, after = weights(trained), weights(tmp_path / "near")
    assert before.keys() == after.keys()
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 1e-4
    assert knows(tmp_path / "near", bundle.forget.train, FMT) >= 0.95


def test_a_base_is_known_by_its_content(rows, texts, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    spec = ScratchSpec(base=str(trained))
    key = scratch_cache_key(spec, rows, texts, FMT)
    assert scratch_cache_key(dataclasses.replace(spec, base=str(copy)), rows, texts, FMT) == key
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert scratch_cache_key(dataclasses.replace(spec, base=str(copy)), rows, texts, FMT) != key
    assert scratch_cache_key(ScratchSpec(), rows, texts, FMT) != key
