"""Fused label log-probabilities against their formula in float64, and what they hold in memory."""

import pytest
import torch

from hf_unlearn.losses import fused
from hf_unlearn.losses.fused import label_logps


@pytest.mark.parametrize("chunk", [1, 23, 10**9])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_formula(monkeypatch, chunk, kind):
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    logits = (torch.randn(9, 11, dtype=torch.float64) * 5).to(kind).requires_grad_()
    labels = torch.randint(0, 11, (9,))
    outer = torch.randn(9, dtype=torch.float64)
    made = label_logps(logits, labels)
    (made.double() * outer).sum().backward()

    exact = logits.detach().double()
    expected = torch.stack([row[label] - row.exp().sum().log() for row, label in zip(exact, labels, strict=True)])
    one_hot = torch.zeros(9, 11, dtype=torch.float64)
    one_hot[range(9), labels] = 1
    gradient = outer.unsqueeze(1) * (one_hot - exact.exp() / exact.exp().sum(1, keepdim=True))
    exactness = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[kind]
    assert made.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5 if kind != torch.float64 else 1e-12)
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=exactness, atol=exactness)


def test_no_labels_give_no_values():
    logits = torch.zeros(0, 7, requires_grad=True)
    label_logps(logits, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert logits.grad.shape == (0, 7)


def test_autograd_keeps_nothing_of_the_vocabularys_size_but_the_logits():
    kept = []
    logits = torch.randn(64, 1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        label_logps(logits, torch.zeros(64, dtype=torch.int64))
    assert [tensor.shape for tensor in kept if tensor.numel() >= 64_000] == [logits.shape]
    assert all(tensor.data_ptr() == logits.data_ptr() for tensor in kept if tensor.numel() >= 64_000)
