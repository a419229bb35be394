"""Activation patching: by hand, layer by layer; and the depth of models whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class
from transformers import LlamaConfig, LlamaForCausalLM

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.activation_patching import ActivationPatching, PatchedRow, depth_entry, row_depth
from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.patching import patched_logps

ROWS = [EncodedRow("a", (1, 5, 9, 3, 7), 3), EncodedRow("b", (1, 4, 8), 2), EncodedRow("c", (1, 6, 2, 11, 3, 9, 4), 4)]


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval().double()


def states_after(model: LlamaForCausalLM, ids: torch.Tensor) -> list[torch.Tensor]:
    """The output of every layer, by calling one layer after the other."""
    hidden, found = model.model.embed_tokens(ids), []
    for layer in model.model.layers:
        hidden = one_layer(model, layer, hidden)
        found.append(hidden)
    return found


def one_layer(model: LlamaForCausalLM, layer, hidden: torch.Tensor) -> torch.Tensor:
    places = torch.arange(hidden.shape[1])[None]
    turned = model.model.rotary_emb(hidden, places)
    output = layer(hidden, attention_mask=None, position_ids=places, position_embeddings=turned)
    return output[0] if isinstance(output, tuple) else output


def by_hand(target: LlamaForCausalLM, source: LlamaForCausalLM, row: EncodedRow) -> list[float]:
    ids = torch.tensor([row.input_ids])
    theirs, found = states_after(source, ids), []
    for patched in (None, 0, 1, 2):
        hidden = target.model.embed_tokens(ids)
        for number, layer in enumerate(target.model.layers):
            hidden = one_layer(target, layer, hidden)
            if number == patched:
                for place in range(row.n_prompt - 1, len(row.input_ids) - 1):
                    hidden[0, place] = theirs[number][0, place]
        logps = target.lm_head(target.model.norm(hidden))[0].log_softmax(-1)
        labels = range(row.n_prompt, len(row.input_ids))
        found.append(sum(float(logps[place - 1, row.input_ids[place]]) for place in labels) / len(labels))
    return found


@torch.no_grad()
def test_states_are_replaced_where_the_answer_is_predicted_one_layer_at_a_time():
    target, source = tiny(0), tiny(1)
    for budget in (1, 4096):  # one by one, and padded together
        found = patched_logps(target, source, ROWS, Passes(budget))
        for row, values in zip(ROWS, found, strict=True):
            assert values == pytest.approx(by_hand(target, source, row), abs=1e-5)
    assert len({round(value, 6) for value in found[0]}) == 4, "every layer says something else"


def test_a_model_put_into_itself_changes_nothing():
    target = tiny(0)
    for own, *patched in patched_logps(target, tiny(0), ROWS, Passes(4096)):
        assert patched == pytest.approx([own] * 3, abs=1e-6)


def row(name: str, patched: list[float], own: float = -0.1) -> PatchedRow:
    return PatchedRow(name, name, name, own, tuple(patched))


def test_the_depth_of_a_row_by_hand():
    never = row("a", [-0.12, -1.1, -3.1])  # the first layer costs 0.02, and does not count
    model = row("a", [-5.0, -0.6, -4.0])  # half of the second, and more than all of the third
    assert row_depth(model, never, 0.05) == pytest.approx((1.0 * 0.5 + 3.0 * 1.0) / 4.0)
    assert row_depth(never, never, 0.05) == pytest.approx(1.0)
    assert row_depth(row("a", [-0.1, -0.1, 0.0]), never, 0.05) == 0.0
    assert row_depth(model, row("a", [-0.1, -0.1, -0.12]), 0.05) is None


def test_facts_are_averaged_and_those_without_a_layer_are_left_out():
    never = [row(f"f{number}", [-1.1, -2.1]) for number in range(12)] + [row("nothing", [-0.1, -0.1])]
    half = [row(f"f{number}", [-0.6, -1.1]) for number in range(12)] + [row("nothing", [-9.0, -9.0])]
    entry = depth_entry(half, never, 0.05)
    assert entry["metric"] == "unlearning_depth" and entry["facts"] == 12
    assert entry["value"] == pytest.approx(0.5) and entry["ci95"][0] <= 0.5 <= entry["ci95"][1]
    assert depth_entry(never[-1:], never[-1:], 0.05) is None


def test_it_is_a_diagnosis_and_measures_nothing_that_a_gate_could_judge(tmp_path: Path):
    assert_defaults_are_those_of_the_class(ATTACKS.get("activation-patching"))
    attack = ActivationPatching()
    assert attack.measures(("probability", "mc_accuracy")) == () and not attack.judged
    lines = [{"id": "a", "fact": "a", "group": "a", "own": -0.5, "patched": [-0.5, -1.5]}]
    (tmp_path / "patched.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = attack.collect({"layers": tmp_path}, ("probability",))
    assert result.scores == {} and result.details == [{"metric": "patched_logp", "value": -0.5, "lost": [0.0, 1.0]}]
    wanted = {"metric": "unlearning_depth", "value": 1.0, "ci95": None, "facts": 1}
    assert attack.depth(tmp_path, tmp_path) == wanted
    with pytest.raises(RequestError, match=r"activation-patching\.threshold"):
        ActivationPatching(-1.0)
