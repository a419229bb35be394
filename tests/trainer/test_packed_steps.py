"""Packed passes give the gradients of the padded ones, or their costs could not be compared."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_run import tiny_model, tiny_trainer
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import pad_rows

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


@pytest.mark.usefixtures("_float64_throughout")
@pytest.mark.parametrize("method", list(METHODS))
def test_gradients_are_those_of_padded_rows(tmp_path: Path, packed_steps: ModuleType, method: str) -> None:
    model = tiny_model().double()
    trainer = tiny_trainer(tmp_path, model, max_steps=1, **METHODS[method])
    trainer.train()  # the model leaves its reference, so that KL has a gradient
    objective = trainer.objective
    (batch,) = objective.batches
    counts = objective.count([batch], torch.device("cpu"))
    packed_steps.backward_in_slices(objective, model, [batch], counts)
    expected = gradients(model)
    slices = packed_steps.cut_by_tokens(batch, 30)
    assert len(slices) > 1
    for row_by_row in (False, True):
        with packed_steps.packing(objective, model, row_by_row):
            packed_steps.backward_in_slices(objective, model, slices, counts)
        found = gradients(model)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert gradient.dtype == torch.float64
            assert gradient.abs().max() > 1e-6
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_slices_hold_every_row_once_and_are_about_equally_full(packed_steps: ModuleType) -> None:
    lengths = {"forget": [3, 9, 4, 7], "retain": [8, 2, 6, 5]}
    splits = {
        split: pad_rows([EncodedRow(split, tuple(range(1, n + 1)), 1) for n in each], range(len(each)), 0)
        for split, each in lengths.items()
    }
    slices = packed_steps.cut_by_tokens(splits, 15)
    filled = [sum(int(rows["attention_mask"].sum()) for rows in one.values()) for one in slices]
    assert len(slices) == 3
    assert sum(filled) == 44
    assert max(filled) - min(filled) <= 3  # the shortest row has two tokens
    seen = sorted((split, number) for one in slices for split, rows in one.items() for number in rows["row"].tolist())
    assert seen == sorted((split, number) for split in lengths for number in range(4))


def test_a_row_attends_to_itself_alone(packed_steps: ModuleType) -> None:
    packed = packed_steps.pack([pad_rows([EncodedRow("a", (5, 6), 1), EncodedRow("b", (7, 8, 9), 2)], range(2), 0)])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.labels.tolist() == [[-100, 6, -100, -100, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert packed.block_mask()[0, 0].int().tolist() == expected
