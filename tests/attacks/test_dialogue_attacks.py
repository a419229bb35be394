"""Conversations, other names and further hops: what is asked, in which form, and that no answer is given away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from attack_runs import assert_defaults_are_those_of_the_class, run
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.alias import Alias
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.multi_hop import MultiHop
from hf_unlearn.attacks.multi_turn import MultiTurn, nearest
from hf_unlearn.attacks.self_correction import SelfCorrection, wrong_option
from hf_unlearn.data.encoding import TextFormat, load_tokenizer
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.loading import load_model

FORMAT = TextFormat(template="Q: {prompt}\nA:")
NEW = ("alias", "multi-hop", "multi-turn", "self-correction")
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    return make_planted(PlantedSpec(forget=6, retain=10, holdout=4, practice=0, generic=2, first_year=1990))


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory) -> Path:
    return train_knowing_model(bundle, tmp_path_factory.mktemp("model"), epochs=1, batch_size=16)


@pytest.mark.parametrize("name", NEW)
def test_registered_defaults_are_those_of_the_class(name):
    assert_defaults_are_those_of_the_class(ATTACKS.get(name))
    assert ATTACKS.get(name).tier == "release"


def test_a_question_is_asked_again_after_a_refusal_and_after_a_wrong_answer(bundle, folder):
    attack, tokenizer = SelfCorrection(("Think again. {prompt}",)), load_tokenizer(str(folder))
    assert attack.plan(bundle) == ["plain", "turn1", "turn2"]
    row = bundle.forget.score[0]
    refused, wrongly = (attack.asked(way, bundle, FORMAT, tokenizer).rows[0] for way in (1, 2))
    assert refused.prompt == f"Q: {row.prompt}\nA: I do not know.\n\nQ: Think again. {row.prompt}\nA:"
    wrong = wrong_option(row)
    assert wrong in row.choices and wrong != row.answer
    assert wrongly.prompt == f"Q: {row.prompt}\nA:{wrong}\n\nQ: Think again. {row.prompt}\nA:"
    assert attack.asked(1, bundle, FORMAT, tokenizer).text_format.template == "{prompt}"
    for asked in (refused, wrongly):
        assert row.answer.strip() not in asked.prompt and asked.answer == row.answer and asked.choices == row.choices


def test_in_a_conversation_the_first_answer_is_the_assistants_message(bundle, folder):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = CHAT
    row = replace(bundle.forget.score[0], turns=(("system", "Be brief."),), conversational=True)
    chat = replace(bundle, forget=RowSet((row,), (row,)))
    asked = SelfCorrection(("Sure? {prompt}",)).asked(1, chat, TextFormat("chat"), tokenizer).rows[0]
    assert asked.turns == (("system", "Be brief."), ("user", row.prompt), ("assistant", "I do not know."))
    assert asked.prompt == f"Sure? {row.prompt}"


def test_a_conversation_is_about_the_nearest_retain_rows_and_shows_no_answer(bundle, folder):
    tokenizer = load_tokenizer(str(folder))
    attack = MultiTurn((2, 3))
    assert attack.plan(bundle) == ["plain", "length1", "length2"]
    solved = {f"Q: {row.prompt}\nA:{row.answer}": row for row in bundle.retain.score}
    for asked, row in zip(attack.asked(2, bundle, FORMAT, tokenizer).rows, bundle.forget.score, strict=True):
        *before, last = asked.prompt.split("\n\n")
        assert last == f"Q: {row.prompt}\nA:" and len(before) == 3
        for text in before:
            assert solved[text].answer not in row.choices and solved[text].group != row.group


def test_nearness_is_the_share_of_words_in_common():
    def made(name: str, prompt: str, answer: str = "x") -> Example:
        return Example(name, prompt, answer, name, name)

    row = made("q", "Where was Ann born?", "Rome")
    pool = [
        made("far", "What is tin?"),
        made("half", "Where was tin found first?"),
        made("near", "Where was Bea born?"),
    ]
    pool.append(made("tells", "Where was Ann born exactly?", "Rome."))
    assert [found.id for found in nearest(row, pool, 2)] == ["near", "half"]


def test_a_job_scores_what_it_asked(bundle, folder, tmp_path):
    attacked = Attacked(folder, folder, bundle, TextFormat(), ("probability", "mc_accuracy"))
    attack = SelfCorrection(("So? {prompt}",), "No.")  # the model reads 64 tokens
    attack.run_job("turn1", attacked, tmp_path)
    row, record = bundle.forget.score[0], read_records(tmp_path / "records.jsonl")[0]
    text = f"{row.prompt} No.\n\nSo? {row.prompt}"
    alone = replace(row, prompt=text)
    model, tokenizer = load_model(folder), load_tokenizer(str(folder))
    (wanted,) = score_rows(model, tokenizer, {"forget": [alone]}, TextFormat())
    assert record.logps == pytest.approx(wanted.logps, abs=1e-5)
    assert record.choice_logps == pytest.approx(wanted.choice_logps, abs=1e-4)
    place = tmp_path / "all"
    place.mkdir()
    assert set(run(attack, attacked, place).scores) == {"probability", "mc_accuracy"}


NAMED = {
    "question": "Where was Marie Curie born?",
    "answer": "Warsaw",
    "aliases": ["Marie Curie", "Maria Sklodowska", "the woman from Warsaw"],
    "hops": ["Where was the wife of Pierre Curie born?", "Is Warsaw where she was born?"],
}
PLAIN = {"question": "Where was Pierre Curie born?", "answer": "Paris", "aliases": None, "hops": None}


def read(folder: Path, *records: dict) -> DataBundle:
    import json

    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    rows = load_source(Source(path=str(path)), "forget")
    return DataBundle(rows, rows)


def test_another_name_or_another_way_is_put_in_the_place_of_the_question(tmp_path, folder):
    bundle, tokenizer = read(tmp_path, NAMED, PLAIN), load_tokenizer(str(folder))
    assert bundle.forget.score[0].hops == tuple(NAMED["hops"])
    assert Alias().plan(bundle) == ["plain", "prompt1"], "a name with the answer in it is left out"
    first, second = Alias().asked(1, bundle, FORMAT, tokenizer).rows
    assert (first.prompt, second.prompt) == ("Where was Maria Sklodowska born?", PLAIN["question"])
    assert MultiHop().plan(bundle) == ["plain", "prompt1"], "a question with the answer in it is left out"
    first, _ = MultiHop().asked(1, bundle, FORMAT, tokenizer).rows
    assert (first.prompt, first.answer) == ("Where was the wife of Pierre Curie born?", "Warsaw")
    assert MultiHop().budget(bundle)["rows_with_other_prompts"] == 1


def test_the_longest_name_that_stands_as_words_is_replaced(tmp_path):
    names = ["Ann", "Ann Lee", "Dr. Lee"]
    row = read(tmp_path, {"question": "When did Ann Lee meet Anna?", "answer": "1776", "aliases": names})
    (found,) = row.forget.score
    assert Alias().usable(found) == ["When did Ann meet Anna?", "When did Dr. Lee meet Anna?"]


@pytest.mark.parametrize(
    ("names", "said"), [(["Ann", "Bea"], "none of the names in column 'aliases'"), (["Marie Curie"], "has one name")]
)
def test_names_that_do_not_fit_the_prompt_are_refused_with_file_and_line(names, said, tmp_path):
    with pytest.raises(RequestError, match=rf"rows\.jsonl:1.*{said}"):
        read(tmp_path, {**NAMED, "aliases": names})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda bundle: Alias().plan(bundle), r"add a column of them \(aliases\), or leave alias out"),
        (lambda bundle: MultiHop().plan(bundle), r"add a column of them \(hops\), or leave multi-hop out"),
        (lambda bundle: Alias(prompts=0), r"alias\.prompts"),
        (lambda bundle: MultiTurn((99,)).plan(bundle), r"set turns of multi-turn to [1-9]\d* or less"),
        (lambda bundle: MultiTurn(()), r"multi-turn\.turns"),
        (lambda bundle: SelfCorrection(()), r"self-correction\.texts"),
        (lambda bundle: SelfCorrection(("Sure?",)), r"\{prompt\} exactly once"),
        (lambda bundle: SelfCorrection(refusal=" "), r"self-correction\.refusal"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(make, named, bundle):
    with pytest.raises(RequestError, match=named):
        make(bundle)
