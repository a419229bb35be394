"""Training, scoring and generation on the device of this machine: its GPU where it has one, or the processor.

What comes out is held against plain float64 loops on the processor, so that a wrong kernel of one device shows.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_run import logged, tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer, weights

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.evaluation.generation import generate_greedy
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models import fast_bf16
from hf_unlearn.models.loading import run_device

ON_A_PROCESSOR = not torch.cuda.is_available()
RATE = 0.5
RUN = {
    **{"loss_type": "npo", "beta": 0.1, "retain_loss_type": "nll", "optim": "sgd", "learning_rate": RATE},
    **{"max_steps": 1, "max_grad_norm": 0.0, "logging_steps": 1, "lr_scheduler_type": "constant"},
    **{"train_sampling_strategy": "sequential", "per_device_train_batch_size": 4, "use_cpu": ON_A_PROCESSOR},
}


def answer_logps(model, row, ended: bool) -> torch.Tensor:
    """Log-probability of every label of a row, with the end of the text or without, one row at a time."""
    encoded = encode_row(row, tiny_tokenizer(), TextFormat(), eos=ended)
    ids = torch.tensor([encoded.input_ids])
    logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return logps[encoded.n_prompt - 1 :]


def step_in_float64() -> tuple[float, dict[str, torch.Tensor]]:
    """Loss, and weights after one plain step of NPO + NLL: arXiv 2404.05868, equation 3, with answers' sums."""
    model = tiny_model().double()
    before = copy.deepcopy(model)
    forget, retain = tiny_rows("forget", 4), tiny_rows("retain", 4)
    terms = []
    for row in forget:
        ratio = answer_logps(model, row, True).sum() - answer_logps(before, row, True).sum().detach()
        terms.append(-2 / 0.1 * F.logsigmoid(-0.1 * ratio))
    kept = torch.cat([answer_logps(model, row, True) for row in retain])
    loss = torch.stack(terms).mean() - kept.mean()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= RATE * weight.grad
    return loss.item(), weights(model)


@pytest.mark.parametrize(("bf16", "close"), [(False, 1e-5), (True, 2e-2)])
def test_a_step_is_that_of_float64(tmp_path, bf16, close):
    loss, stepped = step_in_float64()
    start = weights(tiny_model())
    sets = {f"{name}_dataset": tiny_rows(name, 4) for name in ("forget", "retain")}
    trainer = tiny_trainer(tmp_path, **RUN, **sets, bf16=bf16)
    trainer.train()
    assert next(trainer.model.parameters()).device.type == run_device().type
    assert logged(trainer)[0]["loss"] == pytest.approx(loss, rel=close)
    for name, value in weights(trainer.model).items():
        moved, wanted = value.cpu().double() - start[name].double(), stepped[name] - start[name].double()
        assert float((moved - wanted).norm()) <= max(close, 1e-4) * float(wanted.norm()) * (10 if bf16 else 1)


METHODS = {
    "npo-nll": {"loss_type": "npo", "retain_loss_type": "nll"},
    "npo-kl": {"loss_type": "npo", "retain_loss_type": "kl"},
    "simnpo": {"loss_type": "simnpo", "retain_loss_type": "nll"},
    "graddiff": {"loss_type": "ga", "retain_loss_type": "nll"},
    "sure": {"loss_type": "ga", "retain_loss_type": "nll", "robust": ["sure-rows"]},
}


@pytest.mark.parametrize("name", list(METHODS))
def test_bfloat16_makes_nearly_the_same_steps(tmp_path, name):
    """Three steps of each, computed in both types; weights and their steps stay in float32."""
    ends, losses = [], []
    for bf16 in (False, True):
        settings = {**RUN, **METHODS[name], "learning_rate": 0.01, "max_steps": 3, "bf16": bf16}
        trainer = tiny_trainer(tmp_path / str(bf16), **settings)
        trainer.train()
        assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
        ends.append(torch.cat([value.cpu().flatten() for value in weights(trainer.model).values()]))
        losses.append([entry["loss"] for entry in logged(trainer)])
    start = torch.cat([value.flatten() for value in weights(tiny_model()).values()])
    assert 0 < float((ends[1] - ends[0]).norm()) <= 0.15 * float((ends[0] - start).norm())
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("text", "bf16", "warned"),
    [
        ("flags\t\t: fpu avx512f\n", True, True),
        ("flags\t\t: fpu avx512f\n", False, False),
        ("flags\t\t: fpu avx512f avx512_bf16\n", True, False),
        ("Features\t: fp asimd bf16\n", True, False),
        ("processor\t: 0\n", True, False),
        (None, True, False),
    ],
)
def test_a_processor_that_is_slower_in_bfloat16_is_named(tmp_path, monkeypatch, caplog, text, bf16, warned):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(fast_bf16, "_CPUINFO", file)
    tiny_trainer(tmp_path, use_cpu=True, bf16=bf16)
    assert ("this processor has no instructions for bfloat16" in caplog.text) is warned


def test_scores_are_those_of_float64():
    rows = tiny_rows("scored", 6)
    model = tiny_model().to(run_device()).eval()
    found = score_rows(model, tiny_tokenizer(), {"forget": rows}, TextFormat())
    exact = tiny_model().double().eval()
    for record, row in zip(found, rows, strict=True):
        wanted = answer_logps(exact, row, False)
        assert math.fsum(record.logps) == pytest.approx(wanted.sum().item(), rel=1e-4)


def test_continuations_are_those_of_one_token_at_a_time():
    tokenizer = tiny_tokenizer()
    prompts = [tokenizer(row.prompt)["input_ids"] for row in tiny_rows("asked", 5)]
    model = tiny_model(seed=1).eval()
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + 10:
            with torch.no_grad():
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        expected.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))
    assert len(set(expected)) > 1
    assert generate_greedy(model.to(run_device()), tokenizer, prompts, 10) == expected
