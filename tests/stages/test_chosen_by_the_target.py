"""Sets that are chosen by what the target knows. The target here is a table, so that what it knows is known."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from hf_unlearn.data.checks import check_bundle
from hf_unlearn.data.example import Example, RowSet
from hf_unlearn.data.world import KINDS, WorldSpec
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.known_rows import only_known
from hf_unlearn.stages.target_answers import _kept
from hf_unlearn.stages.units import fingerprint
from hf_unlearn.stages.world import Asked, make_world, without_surplus

SPEC = WorldSpec(forget=30, retain=20, holdout=12, others=10, generic=12)


class Table:
    """Knows the answers to some questions; all other answers are likely by their letters alone."""

    def __init__(self, knows: dict[str, str]) -> None:
        self.knows = knows

    def logps(self, rows):
        return [self._logp(row) for row in rows]

    def _logp(self, row):
        if self.knows.get(row.prompt) == row.answer:
            return math.log(0.4)
        return -6 - zlib.crc32(row.answer.encode()) % 97 / 100


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """All questions but those about every third subject, and only every other subject in the second direction."""
    pytest.importorskip("countryinfo", reason="countryinfo is not installed: pip install 'hf_unlearn[real]'")
    found = {}
    for kind in ("capitals", "symbols"):
        facts = [fact.row("asked") for fact in KINDS[kind].facts()]
        found |= {row.prompt: row.answer for number, row in enumerate(facts) if number % 3}
    return found


@pytest.fixture(scope="module")
def bundle(known):
    from hf_unlearn.data.world import FURTHER

    further = {row.prompt: row.answer for make in FURTHER.values() for row in (fact.row("asked") for fact in make())}
    return make_world(SPEC, Table(known | further))


def test_only_known_facts_are_in_the_sets(bundle, known):
    check_bundle(bundle)
    for rows in (bundle.forget, bundle.retain):
        assert all(known[row.prompt] == row.answer for row in rows.score)
    assert len({row.group for row in bundle.forget.score}) == SPEC.forget
    assert len({row.group for row in bundle.retain.score}) == SPEC.retain
    assert len(bundle.forget.score) > SPEC.forget  # subjects have a second direction where it is known
    assert not any(row.prompt in known for row in bundle.holdout.score)
    assert {name: len(rows.score) for name, rows in bundle.extra.items()} == dict.fromkeys(SPEC.further_sets, 10)


def test_options_are_blind_by_chance_and_printed(bundle):
    for name in ("forget", "retain", "holdout"):
        (told,) = [note for note in bundle.notes if note.startswith(f"{name}: ")]
        blind = float(told.split("without the question ")[1].split()[0])
        assert blind == pytest.approx(0.25, abs=0.1)
    assert all(len(row.choices) == 4 and row.answer in row.choices for row in bundle.forget.score)


def test_other_wordings_are_only_asked(bundle):
    prompts = {row.prompt for row in bundle.forget.train}
    others = {prompt for row in bundle.forget.score for prompt in row.other_prompts}
    assert len(others) == 2 * len(bundle.forget.score) and not others & prompts
    assert not any(row.other_prompts for row in bundle.retain.score)


def test_the_seed_decides(bundle, known):
    again = make_world(WorldSpec(forget=30, retain=20, holdout=12, others=0, generic=12, seed=1), Table(known))
    assert {row.group for row in again.forget.score} != {row.group for row in bundle.forget.score}
    assert not again.extra


def test_symbols_that_follow_a_rule_have_the_same_share_in_both_sets(known):
    spec = WorldSpec(kind="symbols", forget=20, retain=20, holdout=5, others=0, generic=0)
    made = make_world(spec, Table(known))
    kinds = {fact.id.split("-", 1)[1]: fact.kind for fact in KINDS["symbols"].facts()}
    shares = []
    for name, rows in (("forget", made.forget), ("retain", made.retain)):
        groups = {row.group.removeprefix(f"{name}-") for row in rows.score}
        shares.append(sum(kinds[group] == "by rule" for group in groups) / len(groups))
    assert shares[0] == pytest.approx(shares[1], abs=0.06)


def test_a_target_that_knows_too_little_is_refused(known):
    spec = WorldSpec(forget=90, retain=60, others=0)
    with pytest.raises(RequestError, match=r"of \d+ capitals the target knows \d+ by the rules, and 90 to forget"):
        make_world(spec, Table(known))


def test_options_that_leak_are_refused():
    """A target that thinks every right answer likely without any question."""
    facts = KINDS["symbols"].facts()
    right = {row.prompt: row.answer for row in (fact.row("asked") for fact in facts)}

    class Leaky(Table):
        def _logp(self, row):
            if row.prompt in self.knows:
                return math.log(0.9) if self.knows[row.prompt] == row.answer else -9.0
            return -1.0 if row.answer in (" H", " He", " Fe") else -7 - len(row.answer)

    spec = WorldSpec(kind="symbols", forget=3, retain=90, holdout=5, others=0, generic=0, max_blind=0.25)
    with pytest.raises(RequestError, match=r"can be picked without the question .*the options leak"):
        make_world(spec, Leaky(right))


@pytest.mark.parametrize(("blind", "other", "most"), [(9, 3, 8), (1, 9, 8), (20, 60, 40), (8, 0, 4)])
def test_further_sets_are_not_picked_without_the_question_more_often_than_by_chance(blind, other, most):
    facts = KINDS["symbols"].facts()
    members = [Asked(fact, (), 0.5, True, number < blind) for number, fact in enumerate(facts[: blind + other])]
    kept = without_surplus(members, most)
    assert len(kept) == {(9, 3, 8): 4, (1, 9, 8): 8, (20, 60, 40): 40, (8, 0, 4): 0}[blind, other, most]
    assert sum(item.blind for item in kept) <= len(kept) / 4


def rows(count: int) -> tuple[Example, ...]:
    return tuple(
        Example(f"r{n}", f"Question {n}?", f" answer {n}", f"f{n}", f"g{n}", origin=f"rows:{n}") for n in range(count)
    )


def test_rows_that_the_target_does_not_know_are_left_out_and_counted():
    asked = rows(8)
    table = Table({row.prompt: row.answer for row in asked[:5]})
    kept, told = only_known(RowSet(asked, asked[:6]), 2.0, table, "forget")
    assert [row.id for row in kept.train] == ["r0", "r1", "r2", "r3", "r4"] == [row.id for row in kept.score]
    assert told.startswith("3 of the 8 rows of the forget set are left out, because the target does not know them")


def test_a_prompt_without_the_question_is_what_a_row_is_compared_with():
    row = Example("a", "What?", " this", "a", "a", prior_prompt="Answer:")
    kept, _ = only_known(RowSet((row,), (row,)), 2.0, Table({"What?": " this"}), "forget")
    assert kept.train == (row,)
    with pytest.raises(RequestError, match=r"data\.forget\.known is 2, and the target knows none of 1 rows"):
        only_known(RowSet((row,), (row,)), 2.0, Table({"What?": " this", "Answer:": " this"}), "forget")


def test_plain_text_has_no_question():
    text = Example("t", "", "A text.", "t", "t", origin="texts.txt:1")
    with pytest.raises(RequestError, match=r"data\.forget\.known: texts\.txt:1 is plain text"):
        only_known(RowSet((text,), (text,)), 1.0, Table({}), "forget")


RECIPE = """\
name: asks
model: {model}
data: {data}
methods: [{{name: npo, loss_type: npo, learning_rate: 1.0e-4, max_steps: 1}}]
gate: {{metrics: [probability]}}
"""


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("{world: {kind: symbols}}", "data.world"),
        ("{forget: {path: a.jsonl, known: 1.0}, retain: {path: b.jsonl}}", "data.forget.known"),
    ],
)
def test_a_model_that_is_built_cannot_be_asked(tmp_path, monkeypatch, data, key):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"question": "{name}?", "answer": "{name}"}}\n')
    (tmp_path / "asks.yaml").write_text(RECIPE.format(model="{scratch: {}}", data=data))
    with pytest.raises(RequestError, match=f"{key} asks the target what it knows, and model.scratch builds one"):
        load_bundle(load_recipe(tmp_path / "asks.yaml"))


def test_sets_of_world_facts_can_be_kept_and_gated(tmp_path):
    data = "{world: {kind: cities}, keep_extra: [languages], keep_generic: true}"
    (tmp_path / "asks.yaml").write_text(RECIPE.format(model="{target: there}", data=data))
    recipe = load_recipe(tmp_path / "asks.yaml")
    assert recipe.gate.utility_sets == ("languages", "continents", "us_states", "element_names")
    with pytest.raises(RequestError, match=r"data\.world makes all sets: remove it or data\.retain"):
        load_recipe(tmp_path / "asks.yaml", ["data.retain.path=b.jsonl"])


@pytest.mark.parametrize("damage", ["", "[", "[-1.0]", '{"logps": [-2.0, -3.0], "digest": "0"}', '{"logps": 3}'])
def test_answers_in_the_cache_that_were_damaged_are_not_taken(damage, tmp_path):
    path = tmp_path / "answers.json"
    logps = [-1.0, -3.0]
    path.write_text(json.dumps({"logps": logps, "digest": fingerprint(logps)}))
    assert _kept(path) == logps
    path.write_text(damage)
    assert _kept(path) == []
