"""The right tokens are scored whatever the script, and where the tokenizer merges prompt and answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.generation import Prompt, generate
from hf_unlearn.evaluation.scoring import score_rows

PLAIN = TextFormat()
CHAT = TextFormat(kind="chat")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def by_characters(model, tokenizer, text: str, border: int) -> list[float]:
    """Log-probabilities of the tokens of the whole text whose characters end after the border."""
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids = [tokenizer.bos_token_id, *found["input_ids"]]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [
        float(logps[place, ids[place + 1]]) for place, (_, end) in enumerate(found["offset_mapping"]) if end > border
    ]


@pytest.mark.parametrize(
    ("prompt", "answer", "options"),
    [
        ("born in the year 19", "34", ("34", "01", "77")),  # " 1934" is one token: the border lies inside
        ("Ada was bo", "rn in the old town", ("rn in the old town", "ld")),
        ("سنة الميلاد هي", " ١٩٣٤", (" ١٩٣٤", " ١٩٠١")),
        ("שנת הלידה", " היא 1934", (" היא 1934", " היא 1901")),
        ("他出生于", "一九三四", ("一九三四", "一九〇一")),
        ("e", "\u0301 1934", ("\u0301 1934", "\u0300 1901")),
        ("🙂", "🙂 1934", ("🙂 1934", "🙃")),
    ],
)
def test_the_scored_tokens_are_those_that_end_in_the_answer(prompt, answer, options, model, tokenizer, make_row):
    row = replace(
        make_row("a", prompt, answer, options), variants=(("perturbed", options[1:]), ("paraphrased", (answer,)))
    )
    needs = {"options", "variants:perturbed", "variants:paraphrased"}
    record = score_rows(model, tokenizer, {"a": [row]}, PLAIN, needs={"a": needs})[0]
    expected = by_characters(model, tokenizer, prompt + answer, len(prompt))
    assert record.logps == pytest.approx(expected, abs=1e-5)
    for option, logp, length in zip(options, record.choice_logps, record.choice_lengths, strict=True):
        expected = by_characters(model, tokenizer, prompt + option, len(prompt))
        assert length == len(expected) and logp == pytest.approx(sum(expected), abs=1e-4)
    assert [score.logp for score in record.variants["perturbed"]] == list(record.choice_logps[1:])


def test_a_merge_across_the_border_is_in_this_data(tokenizer, make_row):
    encoded = encode_row(make_row("a", "born in the year 19", "34"), tokenizer, PLAIN, eos=False)
    assert tokenizer.decode(encoded.input_ids[encoded.n_prompt :]) == " 1934"


def test_chats_in_other_scripts(model, tokenizer, make_row):
    chatty = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    chatty.chat_template = TEMPLATE
    row = make_row("a", "מתי?", " 1934")
    record = score_rows(model, chatty, {"a": [row]}, CHAT)[0]
    text = "[user]מתי?[assistant]1934"
    ids = chatty(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    count = len(record.logps)
    expected = [float(logps[place - 1, ids[place]]) for place in range(len(ids) - count, len(ids))]
    assert record.logps == pytest.approx(expected, abs=1e-5)
    assert chatty.decode(ids[-count:]) == "1934"


def test_continuations_of_other_scripts_are_not_cut_between_bytes(model, tokenizer):
    """Text of a byte-level vocabulary may hold halves of letters; the same ones in batches as alone."""
    texts = ("سنة الميلاد", "שנת", "他出生于", "🙂", "Ada was")
    prompts = [Prompt(tuple(tokenizer(text)["input_ids"]), text, 10) for text in texts]
    together = generate(model, tokenizer, prompts, Passes(4096))
    assert together == [generate(model, tokenizer, [prompt], Passes(4096))[0] for prompt in prompts]
