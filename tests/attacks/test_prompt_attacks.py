"""Asking otherwise: what each attack may say, what it scores, and that it finds what only other words bring out."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_runs import assert_defaults_are_those_of_the_class, detail, run
from knowing_model import train_knowing_model

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.few_shot import FewShot
from hf_unlearn.attacks.other_form import OtherForm
from hf_unlearn.attacks.paraphrase import Paraphrase, other_prompts
from hf_unlearn.attacks.prefix import Prefix
from hf_unlearn.attacks.sampling import LeakAtK, expected_best
from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.scoring import encode_prefilled
from hf_unlearn.models.loading import load_model

METRICS = ("probability", "mc_accuracy", "exact_match", "rouge_l")
FORMAT = TextFormat()
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def bundle() -> DataBundle:
    """Planted facts asked for by the bare name, which no model here was trained on."""
    planted = make_planted(PlantedSpec(forget=12, retain=16, holdout=0, practice=0, generic=4, first_year=1960))
    asked = tuple(replace(row, prompt=row.group) for row in planted.forget.score if "-s0-" in row.id)
    return replace(planted, forget=RowSet(planted.forget.train, asked))


@pytest.fixture(scope="module")
def knowing_model(bundle, tmp_path_factory) -> Path:
    return train_knowing_model(bundle, tmp_path_factory.mktemp("knowing"), epochs=20, batch_size=8)


@pytest.fixture
def attacked(knowing_model, bundle) -> Attacked:
    return Attacked(knowing_model, knowing_model, bundle, FORMAT, METRICS)


def answer_logps(folder: Path, text: str, answer: str) -> list[float]:
    """Log-probabilities of the tokens of ``answer`` after ``text``, one softmax at a time in float64."""
    model, tokenizer = load_model(folder), load_tokenizer(str(folder))
    before = len(tokenizer(text)["input_ids"])
    ids = tokenizer(text + answer)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [float(logits[place - 1].log_softmax(-1)[ids[place]]) for place in range(before, len(ids))]


@pytest.mark.parametrize(
    ("name", "tier"),
    [*((name, "release") for name in ("few-shot", "prefix", "paraphrase", "leak-at-k")), ("other-form", "quick")],
)
def test_registered_defaults_are_those_of_the_prompt_attacks(name, tier):
    entry = ATTACKS.get(name)
    assert_defaults_are_those_of_the_class(entry)
    assert entry.tier == tier


def test_the_answer_is_asked_for_in_words_it_was_learned_with(attacked, tmp_path):
    """By the bare name nothing comes; put around it, or before the answer, the learned words bring it out."""
    around = run(Prefix(("{prompt} was born in the year",)), attacked, tmp_path)
    found = detail(around, "probability")
    assert found["before"] < 0.3
    assert found["after"] > 0.8
    assert found["text"] == 1
    place = tmp_path / "begun"
    place.mkdir()
    begun = run(Prefix(("It may rain.", "was born in the year")), attacked, place)
    assert detail(begun, "probability")["text"] == 2
    assert detail(begun, "probability")["after"] == pytest.approx(found["after"], abs=1e-6)
    assert set(begun.scores) == {"probability", "mc_accuracy", "exact_match"}
    assert begun.scores["mc_accuracy"].mean > 0.8


def test_a_led_answer_is_scored_after_the_lead_and_without_it(attacked, tmp_path):
    attack = Prefix(("was born in the year",))
    attack.run_job("text1", attacked, tmp_path)
    record = read_records(tmp_path / "records.jsonl")[0]
    row = attacked.bundle.forget.score[0]
    wanted = answer_logps(attacked.folder, f"{row.prompt} was born in the year", row.answer)
    assert record.logps == pytest.approx(wanted, abs=1e-4)
    options = [sum(answer_logps(attacked.folder, f"{row.prompt} was born in the year", text)) for text in row.choices]
    assert record.choice_logps == pytest.approx(options, abs=1e-4)


@pytest.mark.parametrize(
    ("separator", "answer", "text"), [("", " 1987", "Q: X S: 1987"), (" ", "1987", "Q: X S: 1987")]
)
def test_a_lead_stands_where_the_answer_would(separator, answer, text, knowing_model):
    tokenizer = load_tokenizer(str(knowing_model))
    fmt = TextFormat(template="Q: {prompt}", separator=separator)
    row = Example("r", "X", answer, "f", "g")
    led = encode_prefilled(row, answer, "S:", tokenizer, fmt)
    assert tokenizer.decode(led.input_ids, skip_special_tokens=True) == text
    assert tokenizer.decode(led.input_ids[led.n_prompt :]) == " 1987"


def test_in_a_conversation_the_lead_begins_the_assistants_message(knowing_model):
    tokenizer = load_tokenizer(str(knowing_model))
    tokenizer.chat_template = CHAT
    led = encode_prefilled(Example("r", "X?", "1987", "f", "g"), "1987", "Sure:", tokenizer, TextFormat("chat"))
    assert tokenizer.decode(led.input_ids) == "<|user|>X?<|end|><|assistant|>Sure: 1987"
    assert tokenizer.decode(led.input_ids[led.n_prompt :]) == " 1987"


def test_few_shot_shows_solved_retain_rows_and_nothing_of_the_answer(bundle, knowing_model):
    fmt = TextFormat(template="Q: {prompt}\nA:")
    tokenizer = load_tokenizer(str(knowing_model))
    attack = FewShot(shots=3, draws=2)
    assert attack.plan(bundle) == ["plain", "draw1", "draw2"]
    asked = attack.asked(1, bundle, fmt, tokenizer)
    solved = {f"Q: {row.prompt}\nA:{row.answer}": row for row in bundle.retain.score}
    for row, question in zip(asked.rows, bundle.forget.score, strict=True):
        *examples, last = row.prompt.split("\n\n")
        assert last == f"Q: {question.prompt}\nA:"
        assert len(examples) == len(set(examples)) == 3
        for example in examples:
            assert solved[example].answer not in question.choices
        assert asked.text_format.template.format(prompt=row.prompt) == row.prompt
    other = attack.asked(2, bundle, fmt, tokenizer)
    assert [row.prompt for row in other.rows] != [row.prompt for row in asked.rows]
    assert [row.prompt for row in attack.asked(1, bundle, fmt, tokenizer).rows] == [row.prompt for row in asked.rows]


def test_few_shot_scores_the_answer_after_its_examples(attacked, tmp_path):
    attack = FewShot(shots=1, draws=1)
    result = run(attack, attacked, tmp_path)
    tokenizer = load_tokenizer(str(attacked.folder))
    row = attack.asked(1, attacked.bundle, FORMAT, tokenizer).rows[0]
    record = read_records(tmp_path / "draw1" / "records.jsonl")[0]
    assert record.logps == pytest.approx(answer_logps(attacked.folder, row.prompt, row.answer), abs=1e-4)
    assert detail(result, "probability")["after"] >= detail(result, "probability")["before"]


def test_few_shot_in_a_conversation_is_earlier_turns(bundle):
    row = replace(bundle.forget.score[0], turns=(("system", "Be brief."),), conversational=True)
    changed = replace(bundle, forget=RowSet(bundle.forget.train, (row,)))
    asked = FewShot(shots=2).asked(1, changed, FORMAT, None)  # type: ignore[arg-type]
    roles = [role for role, _ in asked.rows[0].turns]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert asked.rows[0].prompt == row.prompt
    shown = {(row.prompt, row.answer.strip()) for row in bundle.retain.score}
    turns = [content for _, content in asked.rows[0].turns[1:]]
    assert {(turns[0], turns[1]), (turns[2], turns[3])} <= shown


def test_few_shot_shows_letters_where_all_rows_have_the_same(bundle):
    def lettered(row: Example) -> Example:
        return replace(row, answer=" B", choices=(" A", " B"))

    forget = tuple(map(lettered, bundle.forget.score))
    retain = tuple(map(lettered, bundle.retain.score))
    FewShot().plan(replace(bundle, forget=RowSet(forget, forget), retain=RowSet(retain, retain)))
    own = tuple(replace(row, choices=(" B", " C")) for row in retain)
    with pytest.raises(RequestError, match="has 0 examples"):
        FewShot().plan(replace(bundle, forget=RowSet(forget, forget), retain=RowSet(own, own)))


def test_few_shot_never_shows_a_group_that_holds_a_forgotten_fact(bundle):
    shared = tuple(replace(row, group=bundle.forget.score[0].group) for row in bundle.retain.score)
    with pytest.raises(RequestError, match=r"few-shot\.shots is 5, but the retain set has 0 examples"):
        FewShot().plan(replace(bundle, retain=RowSet(shared, shared)))


def test_examples_that_do_not_fit_the_context_are_refused_with_the_way_out(attacked, tmp_path):
    attack = FewShot(shots=8)
    with pytest.raises(RequestError, match=r"few-shot: .* more than the 64 of the model: lower the shots of few-shot"):
        attack.run_job("draw1", attacked, tmp_path)


@pytest.mark.parametrize("attack", [FewShot(), Prefix(), LeakAtK(), OtherForm()])
def test_texts_without_questions_are_refused_by_line(attack, bundle):
    text = Example("t", "", "Some text.", "f", "g", origin="facts.txt:3")
    with pytest.raises(RequestError, match=r"facts\.txt:3: .*has no prompt.*or leave .* out$"):
        attack.plan(replace(bundle, forget=RowSet((text,), (text,))))


def test_the_other_form_brings_out_what_the_recipes_own_form_hides(attacked, tmp_path):
    result = run(OtherForm(template="{prompt} was born in the year"), attacked, tmp_path)
    found = detail(result, "probability")
    assert (found["before"] < 0.3, found["after"] > 0.8, found["form"]) == (True, True, 2)
    record = read_records(tmp_path / "form2" / "records.jsonl")[0]
    row = attacked.bundle.forget.score[0]
    wanted = answer_logps(attacked.folder, f"{row.prompt} was born in the year", f" {row.answer.strip()}")
    assert record.logps == pytest.approx(wanted, abs=1e-4)


def test_plain_questions_go_through_the_chat_template_and_chat_rows_become_text(bundle, knowing_model):
    tokenizer = load_tokenizer(str(knowing_model))

    def texts(way: int, row: Example, fmt: TextFormat) -> list[str]:
        forget = RowSet((row,), (row,))
        asked = OtherForm().asked(way, replace(bundle, forget=forget), fmt, tokenizer)
        encoded = [encode_row(each, tokenizer, asked.text_format, eos=False) for each in asked.rows]
        answers = [tokenizer.decode(each.input_ids[each.n_prompt :]).strip() for each in encoded]
        assert answers == ["1987"] * len(asked.rows)
        return [tokenizer.decode(each.input_ids, skip_special_tokens=True) for each in encoded]

    plain = Example("r", "Who?", " 1987", "f", "g", choices=(" 1987", " 1990"))
    chat = replace(plain, answer="1987", turns=(("user", "Hi"),), conversational=True)
    assert texts(1, plain, FORMAT) == ["User: Who?\nAssistant: 1987"]
    tokenizer.chat_template = CHAT
    assert texts(1, plain, FORMAT) == ["<|user|>Who?<|end|><|assistant|>1987"]
    assert texts(2, plain, FORMAT) == ["Question: Who?\nAnswer: 1987"]
    assert texts(1, plain, TextFormat("chat")) == ["Who? 1987"]
    assert texts(1, chat, FORMAT) == ["Hi\n\nWho? 1987"]
    assert texts(2, chat, FORMAT) == ["Question: Hi\n\nWho?\nAnswer: 1987"]


def test_paraphrases_are_the_prompts_the_fact_was_learned_with(attacked, bundle, tmp_path):
    row = bundle.forget.score[0]
    wanted = [other.prompt for other in bundle.forget.train if other.fact == row.fact]
    assert len(wanted) == 3
    assert list(other_prompts(bundle)[row.id]) == wanted
    result = run(Paraphrase(prompts=1), attacked, tmp_path)
    found = detail(result, "probability")
    assert found["before"] < 0.3
    assert found["after"] > 0.8
    budget = Paraphrase().budget(bundle)
    assert (budget["other_prompts"], budget["rows_with_other_prompts"]) == (3, 12)


def test_a_prompt_that_holds_the_answer_or_asks_for_another_is_no_paraphrase(bundle):
    row = replace(bundle.forget.score[0], answer=" 1987", other_prompts=("In 1987 who", "The year of Ada is", ""))
    reverse = replace(row, id="reverse", prompt="Who was born in the year?", answer=" Ada")
    changed = replace(bundle, forget=RowSet((reverse,), (row,)))
    assert other_prompts(changed)[row.id] == ("The year of Ada is",)


def test_paraphrase_without_other_prompts_names_the_way_out(bundle):
    rows = bundle.forget.score
    with pytest.raises(RequestError, match=r"\(paraphrased_prompt\).*\(fact\), or leave paraphrase out"):
        Paraphrase().plan(replace(bundle, forget=RowSet(rows, rows)))


def test_other_prompts_come_from_a_column(tmp_path):
    file = tmp_path / "facts.jsonl"
    rows = [
        {"question": "When?", "answer": "1987", "again": ["What year?", "Which year?"]},
        {"question": "Where?", "answer": "Ulm", "again": "In what town?"},
        {"question": "Who?", "answer": "Ada", "again": None},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_source(Source(path=str(file), paraphrased_prompt="again"), "forget").score
    assert [row.other_prompts for row in found] == [("What year?", "Which year?"), ("In what town?",), ()]
    assert all(not row.other_prompts for row in load_source(Source(path=str(file)), "forget").score)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_draws(k):
    values = [0.2, 0.9, 0.2, 0.0, 0.6]
    draws = [max(draw) for draw in itertools.combinations(values, k)]
    assert expected_best(values, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)
    right = [1.0, 0.0, 0.0, 1.0, 0.0]
    assert expected_best(right, k) == pytest.approx(1 - math.comb(3, k) / math.comb(5, k), abs=1e-12)


def test_sampled_answers_are_right_as_often_as_their_probability_says(attacked, bundle, tmp_path):
    """At a high temperature, against the probability of the answer's tokens computed by hand."""
    temperature, samples = 2.0, 96
    rows = tuple(replace(row, prompt=f"{row.prompt} was born in the year") for row in bundle.forget.score[:6])
    facts = replace(attacked, bundle=replace(bundle, forget=RowSet(rows, rows)))
    attack = LeakAtK(k=4, samples=samples, temperature=temperature, max_new_tokens=2)
    result = run(attack, facts, tmp_path)
    model, tokenizer = load_model(attacked.folder), load_tokenizer(str(attacked.folder))
    expected = []
    for row in rows:
        encoded = encode_row(row, tokenizer, FORMAT, eos=False)
        assert len(encoded.input_ids) - encoded.n_prompt <= 2
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([encoded.input_ids])).logits[0].double() / temperature
        places = range(encoded.n_prompt, len(encoded.input_ids))
        logp = sum(float(logits[place - 1].log_softmax(-1)[encoded.input_ids[place]]) for place in places)
        expected.append(math.exp(logp))
    mean = sum(expected) / len(expected)
    assert 0.02 < mean < 0.98
    error = math.sqrt(sum(p * (1 - p) / samples for p in expected)) / len(expected)
    assert detail(result, "exact_match")["leak_at_1"] == pytest.approx(mean, abs=4 * error)
    found = result.scores["exact_match"].values
    best_of_four = sum(1 - (1 - p) ** 4 for p in expected) / len(expected)
    assert sum(found.values()) / len(found) == pytest.approx(best_of_four, abs=0.12)
    assert detail(result, "exact_match")["after"] > detail(result, "exact_match")["before"]


def test_samples_are_drawn_in_jobs_once_per_question_and_no_text_is_kept(attacked, bundle, tmp_path):
    doubled = tuple(replace(row, id=f"{row.id}-again", choices=()) for row in bundle.forget.score)
    rows = bundle.forget.score + doubled
    facts = replace(attacked, bundle=replace(bundle, forget=RowSet(rows, rows)))
    attack = LeakAtK(k=2, samples=18, max_new_tokens=2)
    assert attack.plan(facts.bundle) == ["samples0", "samples16"]
    assert attack.cost(facts.bundle).rows_generated == 18 * 12
    attack.run_job("samples16", facts, tmp_path)
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12
    for line in lines:
        found = json.loads(line)
        assert set(found) == {"id", "fact", "group", "values"}
        assert [len(values) for values in found["values"].values()] == [2, 2]
    again = tmp_path / "again"
    again.mkdir()
    attack.run_job("samples16", attacked, again)
    assert (again / "samples.jsonl").read_text(encoding="utf-8").splitlines() == lines


def test_what_prompt_attacks_cost_is_rows_scored(bundle):
    assert FewShot(draws=2).cost(bundle).rows_scored == 3 * 12
    assert Prefix(("a", "b")).cost(bundle).jobs == 3
    for attack in (FewShot(), Prefix(), Paraphrase(), LeakAtK(), OtherForm()):
        budget = attack.budget(bundle)
        assert budget["trained"] == "nothing"
        assert budget["facts_asked_for"] == 12
        assert attack.cost(bundle).steps == 0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FewShot(shots=0), r"few-shot\.shots"),
        (lambda: FewShot(draws=0), r"few-shot\.draws"),
        (lambda: Prefix(()), r"prefix\.texts is empty"),
        (lambda: Prefix((" ",)), r"prefix\.texts\.0 is empty"),
        (lambda: Prefix(("a", "a ")), r"prefix\.texts\.1 is a duplicate"),
        (lambda: Prefix(("{prompt} {prompt}",)), r"prefix\.texts\.0 .*more than once"),
        (lambda: OtherForm(template="Question:"), r"other-form\.template"),
        (lambda: Paraphrase(prompts=0), r"paraphrase\.prompts"),
        (lambda: LeakAtK(k=5, samples=4), r"leak-at-k\.k is 5"),
        (lambda: LeakAtK(temperature=0.0), r"leak-at-k\.temperature"),
        (lambda: LeakAtK(top_p=0.0), r"leak-at-k\.top_p"),
        (lambda: LeakAtK(max_new_tokens=0), r"leak-at-k\.max_new_tokens"),
        (lambda: LeakAtK(scores=()), r"leak-at-k\.scores is empty"),
        (lambda: LeakAtK(scores=("probability",)), r"leak-at-k\.scores names probability"),
        (lambda: LeakAtK(scores=("rouge_X",)), r"no metric called 'rouge_X'"),
    ],
)
def test_prompt_settings_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()


def test_a_prefix_that_tells_an_answer_is_refused(bundle):
    told = f"It was in {bundle.forget.score[0].answer.strip()}, or not:"
    with pytest.raises(RequestError, match=r"prefix\.texts\.1 holds the answer of"):
        Prefix(("Sure:", told)).plan(bundle)
