"""Passes without padding give the gradients of the padded ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_run import logged, tiny_model, tiny_trainer
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import pad_rows
from hf_unlearn.errors import RequestError
from hf_unlearn.trainer import UnlearnTrainer
from hf_unlearn.trainer.forward import forward_labels
from hf_unlearn.trainer.microbatch import cut_by_tokens
from hf_unlearn.trainer.padding_free import check_same, pack, row_by_row

ROOT = Path(__file__).parents[2]
METHODS: dict[str, dict[str, Any]] = {
    "npo-nll": {"loss_type": "npo", "retain_loss_type": "nll"},
    "npo-kl": {"loss_type": "npo", "retain_loss_type": "kl"},
}


@pytest.fixture
def packed_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("packed_steps")


@pytest.fixture
def _float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's own normalization rounds to float32 on the way, whatever its weights are."""

    def normalized(norm: Any, states: Tensor) -> Tensor:
        return norm.weight * states * torch.rsqrt(states.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", normalized)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return found


def packed_gradients(
    attention: AbstractContextManager[None], trainer: UnlearnTrainer, packed_steps: ModuleType
) -> Any:
    objective, model = trainer.objective, trainer.objective.model()
    (batch,) = objective.batches
    slices = cut_by_tokens(dict(batch), 30)
    assert len(slices) > 1
    with attention:
        packed_steps.backward_in_slices(objective, model, slices, objective.counts)
    return gradients(model)


@pytest.mark.usefixtures("_float64_throughout")
@pytest.mark.parametrize("method", list(METHODS))
def test_gradients_are_those_of_padded_rows(tmp_path: Path, packed_steps: ModuleType, method: str) -> None:
    model = tiny_model().double()
    trainer = tiny_trainer(tmp_path, model, max_steps=1, **METHODS[method])
    trainer.train()  # the model leaves its reference, so that KL has a gradient
    packed_steps.backward_in_slices(trainer.objective, model, trainer.objective.batches, trainer.objective.counts)
    expected = gradients(model)
    assert all(gradient.dtype == torch.float64 and gradient.abs().max() > 1e-6 for gradient in expected.values())
    for attention in (row_by_row(model), packed_steps.block_masks(trainer.objective, model)):
        found = packed_gradients(attention, trainer, packed_steps)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        METHODS["npo-kl"],
        {"loss_type": "dpo", "retain_loss_type": "nll", "alternates": {"name": "fixed-text", "text": " w1 w2 w3"}},
        {"loss_type": "rmu", "loss_kwargs": {"layer": 1}, "retain_loss_type": "hidden",
         "retain_loss_kwargs": {"layer": 1}},
        {"loss_type": "npo", "retain_loss_type": "nll", "gradient_checkpointing": True},
        {"loss_type": "npo", "retain_loss_type": "nll", "robust": ["sam"]},
    ],
)  # fmt: skip
def test_a_run_without_padding_is_the_same_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    runs = [
        tiny_trainer(tmp_path, max_steps=2, logging_steps=1, pass_tokens=30, padding_free=free, **settings)
        for free in (False, True)
    ]
    seen: list[bool | None] = []
    for run in runs:
        hook = run.model.model.register_forward_pre_hook(
            lambda module, args, given: seen.append("row_lengths" in given), with_kwargs=True
        )
        run.train()
        hook.remove()
        seen.append(None)
    padded, free = seen[: seen.index(None)], seen[seen.index(None) + 1 : -1]
    assert not any(padded)
    assert sum(free) > 2
    for one, two in zip(*(logged(run) for run in runs), strict=True):
        for key in ("loss", "loss/forget", "loss/retain", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6)
    assert runs[1].model.config._attn_implementation == "sdpa"


def test_a_window_is_that_of_padded_rows(tmp_path: Path) -> None:
    """Rows of up to twelve tokens, of which each sees three."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=44, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=3, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    rows = [EncodedRow(str(length), tuple(range(4, 4 + length)), 1) for length in (12, 5, 2)]
    batch = pad_rows(rows, range(3), 0)
    padded = forward_labels(model, model, batch).logits
    with row_by_row(model):
        packed = forward_labels(model, model, pack([batch])).logits
    assert padded is not None and packed is not None
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


def test_attention_that_cannot_be_taken_apart_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    with pytest.raises(RequestError, match="'eager', which cannot be computed row by row: leave padding_free out"):
        tiny_trainer(tmp_path, model, padding_free=True).train()
    with pytest.raises(RequestError, match="rows of Leaky are not computed apart"):
        check_same("Leaky", torch.ones(3, 4), torch.ones(3, 4) * 1.01)


def test_slices_hold_every_row_once_and_are_about_equally_full() -> None:
    lengths = {"forget": [3, 9, 4, 7], "retain": [8, 2, 6, 5]}
    splits = {
        split: pad_rows([EncodedRow(split, tuple(range(1, n + 1)), 1) for n in each], range(len(each)), 0)
        for split, each in lengths.items()
    }
    slices = cut_by_tokens(splits, 15)
    filled = [sum(int(rows["attention_mask"].sum()) for rows in one.values()) for one in slices]
    assert len(slices) == 3
    assert sum(filled) == 44
    assert max(filled) - min(filled) <= 3  # the shortest row has two tokens
    seen = sorted((split, number) for one in slices for split, rows in one.items() for number in rows["row"].tolist())
    assert seen == sorted((split, number) for split in lengths for number in range(4))


def test_rows_lie_end_to_end(packed_steps: ModuleType) -> None:
    packed = pack([pad_rows([EncodedRow("a", (5, 6), 1), EncodedRow("b", (7, 8, 9), 2)], range(2), 0)])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.labels.tolist() == [[-100, 6, -100, -100, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert packed_steps.Masked(**vars(packed)).inputs["attention_mask"][0, 0].int().tolist() == expected
