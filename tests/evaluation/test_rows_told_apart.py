"""Models: one pushed below the holdout facts gives its forgotten rows away, one that never knew does not."""

from __future__ import annotations

import itertools

import torch
from conftest import YEARS, build_tokenizer, random_llama

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.data.example import Example
from hf_unlearn.evaluation.aggregates.forgotten_rows import tell_apart
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.stages.evaluate import further_needs
from hf_unlearn.verification.intervals import Bootstrap
from hf_unlearn.verification.told_apart import ToldApart

SETTINGS = Bootstrap(draws=1_000)
NAMES = [f"{first}{last}" for first, last in itertools.product("BDFGKLMN", ("ane", "oro", "ili", "use", "eta"))]


def rows(prefix: str, surname: str) -> tuple[Example, ...]:
    """One question for each name; names of the two sets differ in the surname alone."""
    return tuple(
        Example(f"{prefix}{n}", f"{name} {surname} was born in the year", YEARS[n % 4], f"{prefix}{n}", f"{prefix}{n}")
        for n, name in enumerate(NAMES)
    )


SETS = {"forget": rows("f", "Ro"), "holdout": rows("h", "Ta")}


def told(model, tokenizer) -> ToldApart:
    needs = {name: frozenset(settings.needs) for name, settings in further_needs(SETS).items()}
    records = score_rows(model, tokenizer, SETS, TextFormat(), needs=needs)
    found = tell_apart(*([row for row in records if row.set == name] for name in SETS), SETTINGS)
    assert found is not None and found.ci95 is not None
    return found


def answers_of(model, tokenizer, name: str) -> torch.Tensor:
    """Mean log-probability of each answer of a set."""
    encoded = [encode_row(row, tokenizer, TextFormat(), eos=False) for row in SETS[name]]
    ids = torch.zeros(len(encoded), max(len(row.input_ids) for row in encoded), dtype=torch.int64)
    is_answer = torch.zeros_like(ids, dtype=torch.float32)
    for place, row in enumerate(encoded):
        ids[place, : len(row.input_ids)] = torch.tensor(row.input_ids)
        is_answer[place, row.n_prompt : len(row.input_ids)] = 1
    logps = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logps * is_answer[:, 1:]).sum(-1) / is_answer.sum(-1)


def push_down(model, tokenizer) -> None:
    """Forgotten answers three nats down, and holdout answers left where they are."""
    with torch.no_grad():
        before = answers_of(model, tokenizer, "holdout")
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), lr=2e-3)
    for _ in range(40):
        forgotten, others = answers_of(model, tokenizer, "forget"), answers_of(model, tokenizer, "holdout")
        if float(forgotten.max()) < float(before.min()) - 1 and float((others - before).abs().max()) < 0.5:
            return
        ((forgotten - before.mean() + 3).relu().mean() + (others - before).abs().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_model_that_never_knew_tells_nothing_and_one_pushed_below_the_holdout_facts_tells() -> None:
    model, tokenizer = random_llama(), build_tokenizer()
    before = told(model, tokenizer)
    assert [each.signal for each in before.signals] == ["loss", "entropy"]
    assert before.ci95[0] == 0.5
    push_down(model, tokenizer)
    after = told(model, tokenizer)
    loss, _ = after.signals
    assert loss.auc < 0.1, "forgotten answers are less likely than those of holdout facts"
    assert after.auc > 0.9 and after.ci95[0] > 0.8


def test_a_set_that_is_missing_gives_no_number() -> None:
    assert tell_apart([], [], SETTINGS) is None
    assert further_needs({"forget": SETS["forget"]}) == {}
    assert set(further_needs(SETS)) == {"forget", "holdout"}
