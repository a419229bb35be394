"""The loss of attackers: the model's own, with the output head at the labels only."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_unlearn.attacks.label_loss import mean_label_loss
from hf_unlearn.attacks.tuning import Tuning

SIZES = {
    "vocab_size": 23,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}


def small_model(kind: str):
    torch.manual_seed(0)
    if kind == "capped":  # logits are capped after the head, at a value that matters here
        config = Gemma2Config(**SIZES, head_dim=4, final_logit_softcapping=0.05, attn_implementation="eager")
        return Gemma2ForCausalLM(config).double()
    return LlamaForCausalLM(LlamaConfig(**SIZES)).double()


def three_rows() -> dict[str, torch.Tensor]:
    """Of 7, 4 and 6 tokens; one label of the first row is masked, and the third has one label."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 23, (3, 7), generator=generator)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    labels = torch.full((3, 7), -100)
    labels[0, 3:], labels[1, 1:4], labels[2, 5] = ids[0, 3:], ids[1, 1:4], ids[2, 5]
    labels[0, 4] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", ["llama", "capped", "adapters"])
def test_it_is_the_model_s_own_loss_with_its_gradients_and_the_head_sees_labels_only(kind):
    model, batch, seen = small_model(kind), three_rows(), []
    with Tuning("lora" if kind == "adapters" else "full", 2).applied("rtt", model, 0) as trained:
        weights = {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}
        if kind == "adapters":
            for name, weight in weights.items():
                if "lora_B" in name:  # zeros have no effect, and so nothing before them has a gradient
                    torch.nn.init.normal_(weight, std=0.1)
        own = trained(**batch, use_cache=False).loss
        expected = torch.autograd.grad(own, list(weights.values()))
        hook = model.get_output_embeddings().register_forward_hook(lambda *given: seen.append(given[-1].shape))
        loss = mean_label_loss(trained, batch)
        found = torch.autograd.grad(loss, list(weights.values()))
        hook.remove()
        # transformers takes its own loss in float32
        assert loss.item() == pytest.approx(own.item(), rel=1e-6)
        for name, one, other in zip(weights, found, expected, strict=True):
            assert one.abs().max() > 0
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-7 * other.abs().max()), name
    assert seen == [(7, 23)]


def test_it_is_the_mean_over_labels_by_hand():
    model, batch = small_model("llama"), three_rows()
    found = []
    for ids, mask, labels in zip(*batch.values(), strict=True):
        length = int(mask.sum())
        logps = model(ids[None, :length]).logits[0].double().log_softmax(-1)
        found += [logps[place - 1, labels[place]] for place in range(1, length) if labels[place] != -100]
    assert len(found) == 7
    assert mean_label_loss(model, batch).item() == pytest.approx(-sum(found).item() / 7, rel=1e-12)


def test_rows_without_labels_have_no_loss():
    batch = three_rows()
    batch["labels"][:] = -100
    assert torch.isnan(mean_label_loss(small_model("llama"), batch))
