"""What training changed, cut to its largest directions."""

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.low_rank import LowRank, largest_directions


def test_the_nearest_matrix_of_a_rank():
    torch.manual_seed(0)
    left, right = torch.randn(7, 2, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(largest_directions(left @ right, 2), left @ right)
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(largest_directions(matrix, 1), torch.diag(torch.tensor([3.0, 0, 0]).double()))
    stacked = torch.randn(4, 6, 5)
    for one, other in zip(largest_directions(stacked, 2), stacked, strict=True):
        torch.testing.assert_close(one, largest_directions(other, 2))


@pytest.mark.parametrize("keep_norm", [True, False])
def test_changes_are_of_the_rank_and_of_the_norm(tmp_path, keep_norm):
    start = weights(tiny_model())
    plain = tiny_trainer(tmp_path / "plain")
    plain.train()
    cut = tiny_trainer(tmp_path / "cut", robust=[{"name": "low-rank", "rank": 3, "keep_norm": keep_norm}])
    cut.train()
    whole, kept = 0.0, 0.0
    for name, value in weights(plain.model).items():
        delta, found = (value - start[name]).double(), (weights(cut.model)[name] - start[name]).double()
        if delta.ndim == 1:
            torch.testing.assert_close(found, delta, rtol=0, atol=1e-6)
            continue
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        by_hand = u[:, :3] * s[:3] @ v[:3]
        whole, kept = whole + float((s**2).sum()), kept + float((s[:3] ** 2).sum())
        factor = float(s.norm() / s[:3].norm()) if keep_norm else 1.0
        torch.testing.assert_close(found, by_hand * factor, rtol=0, atol=2e-6)
    assert cut.parts[0].outcome() == {"share_kept": pytest.approx(kept / whole, abs=1e-3)}


def test_full_rank_changes_nothing_but_rounding(tmp_path):
    plain = tiny_trainer(tmp_path / "plain")
    plain.train()
    cut = tiny_trainer(tmp_path / "cut", robust=[{"name": "low-rank", "rank": 64}])
    cut.train()
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(cut.model)[name], value, rtol=0, atol=1e-6)
    assert cut.parts[0].outcome()["share_kept"] == pytest.approx(1.0, abs=1e-4)


def test_bad_requests_are_refused(tmp_path):
    from peft import LoraConfig

    with pytest.raises(RequestError, match="rank is 0"):
        LowRank(rank=0)
    model = tiny_model()
    before = weights(model)
    with pytest.raises(RequestError, match="only adapters are trained"):
        tiny_trainer(
            tmp_path, model, peft_config=LoraConfig(r=2, target_modules=["q_proj"]), robust=["low-rank"]
        ).train()
    assert all(any(torch.equal(v, o) for o in weights(model).values()) for v in before.values())


def test_two_parts_act_in_the_order_given(tmp_path):
    parts = [{"name": "low-rank", "rank": 2}, {"name": "delta-scaling", "grids": ["nf4"], "max_recovered": 0.99}]
    both = tiny_trainer(tmp_path / "both", robust=parts)
    both.train()
    alone = tiny_trainer(tmp_path / "alone", robust=parts[:1])
    alone.train()
    assert both.parts[1].outcome()["scale"] == 1.0
    assert_same(weights(alone.model), weights(both.model))
