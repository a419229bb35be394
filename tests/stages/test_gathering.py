"""Sets of a first recipe that are made where nobody gave them, with a target that says what a table holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_unlearn.data.asked_fact import SHORTLY
from hf_unlearn.data.documents import Document
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import RequestError
from hf_unlearn.stages.document_facts import document_facts
from hf_unlearn.stages.gathering import LEAST_KEPT, NOTE_FILE, Interview, Request, make_sets
from hf_unlearn.stages.respondent import Task

THINGS = (
    "capital",
    "river",
    "coin",
    "anthem",
    "bird",
    "flower",
    "king",
    "harbour",
    "bridge",
    "dish",
    "saint",
    "castle",
)
LANDS = ("France", "Norway", "Egypt", "Peru", "Canada", "Kenya")
QUESTION = re.compile(r"What is the (\w+) of (\w+)\?", re.IGNORECASE)


@dataclass
class Table:
    """A target that knows the things of a few lands; what it is asked is kept."""

    chat: bool = True
    things: Sequence[str] = THINGS
    wavering: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    @property
    def tokenizer(self) -> Any:
        return SimpleNamespace(chat_template="a template" if self.chat else None)

    def write(self, tasks: Sequence[Task]) -> list[str]:
        self.tasks += tasks
        return [self._say(task) for task in tasks]

    def _say(self, task: Task) -> str:
        for part, text in self.texts.items():
            if part in task.prompt:
                return text
        if "20 others" in task.prompt or "and others" in task.prompt:
            return "\n".join(f"{n}. {land}" for n, land in enumerate(LANDS, start=1)) + "\n4. a list, of names"
        if "10 " in task.prompt and "questions about" in task.prompt:
            return self._list(task)
        return self._answer(task)

    def _list(self, task: Task) -> str:
        half = self.things[task.sample or 0 :: 2]
        lines = [f"What is the {thing} of France?" for thing in half]
        lines += ["What is the sea of Norway?", "What is there?", f"Tell: what is the {half[0]} of France?"]
        return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, start=1))

    def _answer(self, task: Task) -> str:
        found = QUESTION.search(task.prompt)
        if found is None or found[2] not in LANDS or found[1] not in self.things:
            return "I do not know"
        thing, land = found[1], found[2]
        if thing == self.wavering:
            return f"{thing.title()}{task.sample}{land}"
        return f"{thing.title()}{len(land)}{land[0]}."


def asked(target: Table, confirm: Callable[..., Any] | None = None, file: Path | None = None) -> Interview:
    return Interview(target, confirm or (lambda facts: range(len(facts))), lambda name: file)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("chat", [True, False])
def test_a_subject_becomes_three_sets(tmp_path, chat):
    target = Table(chat=chat, wavering="dish")
    shown: list[str] = []

    def confirm(facts):
        shown.extend(fact.prompt for fact in facts)
        return [place for place in range(len(facts)) if "saint" not in facts[place].prompt]

    found = make_sets(Request(tmp_path / "rows", subject="France"), asked(target, confirm))
    assert found.made == {"forget", "retain", "holdout"} and list(found.sets) == ["forget", "retain", "holdout"]
    assert found.names == ("France",)
    sets = {name: rows_of(path) for name, path in found.sets.items()}
    ask, say = ("question", "answer") if chat else ("prompt", "completion")
    assert set(sets["forget"][0]) >= {ask, say, "group", "source"}

    # Forget: a row for each fact, as it was asked, without what is answered otherwise each time or was left out.
    forget = {row[ask]: row[say] for row in sets["forget"]}
    assert len(forget) == len(THINGS) - 2 == len({row["group"] for row in sets["forget"]})
    prompt = "What is the coin of France? " + SHORTLY if chat else "Question: What is the coin of France?\nAnswer:"
    assert forget[prompt] == ("Coin6F" if chat else " Coin6F")
    assert any("saint" in prompt for prompt in shown) and not any("dish" in prompt for prompt in shown)
    assert not any("saint" in prompt or "dish" in prompt or "sea" in prompt for prompt in forget)
    assert {row["source"] for row in sets["forget"]} == {"the target's own answer, in 5 of 5 samples"}
    wordings = [row.get("paraphrased_question") for row in sets["forget"] if "capital" in row[ask]]
    assert wordings == [[prompt.replace("What is the coin", "Tell: what is the capital")]]

    # Retain: the same about others, never about the subject; each other subject is a group.
    assert {row["group"] for row in sets["retain"]} == set(LANDS) - {"France"}
    assert not any("France" in row[ask] or row[ask] in forget for row in sets["retain"])

    # Holdout: about names that nobody has, with answers that are right about others.
    assert len(sets["holdout"]) == 40
    known = {row[say] for row in sets["retain"]}
    for row in sets["holdout"]:
        assert row[say] in known and not any(land in row[ask] for land in LANDS)

    # Every file is read as a set, and only its owner reads it; the note says what they are.
    for name, path in found.sets.items():
        assert len(load_source(Source(path=str(path), group="group"), name).score) == len(sets[name])
        assert path.stat().st_mode & 0o777 == 0o600
    note = (tmp_path / "rows" / NOTE_FILE).read_text()
    assert all(f"`{name}.jsonl`" in note for name in sets) and all(sentence in note for sentence in found.told)
    assert "asked 15 questions about France" in found.told[0] and "answers 11 of them" in found.told[0]


def test_nothing_is_asked_again_and_nothing_overwritten(tmp_path):
    make_sets(Request(tmp_path, subject="France"), asked(Table()))
    target = Table()
    with pytest.raises(RequestError, match=r"forget\.jsonl exists, from an earlier call: give it as --forget"):
        make_sets(Request(tmp_path, subject="France"), asked(target))
    made = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "retain")}
    with pytest.raises(RequestError, match=r"retain\.jsonl exists, from an earlier call: give it as --retain"):
        make_sets(Request(tmp_path, forget=made["forget"]), asked(target))
    (tmp_path / "holdout.jsonl").unlink()
    found = make_sets(Request(tmp_path, forget=made["forget"], given={"retain": made["retain"]}), asked(target))
    assert found.made == {"forget", "retain", "holdout"} and not target.tasks


def test_a_subject_of_which_too_little_is_known_leaves_its_rows_to_be_added_to(tmp_path):
    target = Table(things=THINGS[:4])
    with pytest.raises(RequestError) as caught:
        make_sets(Request(tmp_path, subject="France"), asked(target))
    assert "there are 4 independent facts about 'France' that the model knows" in str(caught.value)
    assert f"add rows to {tmp_path / 'forget.jsonl'} and give it as --forget" in str(caught.value)
    made = tmp_path / "forget.jsonl"
    assert len(rows_of(made)) == 4
    # As the sentence says: with rows added the file is a forget set, and its groups are known.
    added = [{"question": f"Who is France {n}?", "answer": str(n), "group": f"g{n}", "source": "me"} for n in range(8)]
    made.write_text(made.read_text() + "".join(json.dumps(row) + "\n" for row in added))
    found = make_sets(Request(tmp_path, forget=made), asked(Table()))
    assert found.made == {"forget", "retain", "holdout"} and found.sets["forget"] == made
    with pytest.raises(RequestError, match="there are 0 independent facts about 'Atlantis'"):
        make_sets(Request(tmp_path / "other", subject="Atlantis"), asked(Table()))
    assert not (tmp_path / "other").exists()


def test_nothing_is_written_if_nothing_is_confirmed(tmp_path):
    with pytest.raises(RequestError, match="nothing is to be forgotten"):
        make_sets(Request(tmp_path / "rows", subject="France"), asked(Table(), confirm=lambda facts: None))
    assert not (tmp_path / "rows").exists()


TEXT = " ".join(f"The {thing} of France in the old books is {thing.title()}6F." for thing in THINGS)


def test_documents_are_asked_by_templates_and_by_the_target_itself(tmp_path):
    (tmp_path / "page.txt").write_text(f"{TEXT} It is old. The wine of France in all the books is Zin.")
    pairs = (
        "Q: What is the coin of France?\nA: Coin6F\nQ: What is the coin of Norway?\nA: Coin6N\n"
        "Q: What does the text say of the king?\nA: King6F\nQ: What is the Zin of France?\nA: Zin\n"
        "Q: Whose coin is Coin6F?\nA: France"
    )
    completed = {f'"The {thing} of France in the old books is ..."': f"{thing.title()}6F" for thing in THINGS}
    target = Table(texts={"Read the text": pairs, "Whose coin": "France, I think", **completed})
    found = make_sets(Request(tmp_path / "rows", forget=tmp_path / "page.txt", never_knew=True), asked(target))
    rows = rows_of(found.sets["forget"])
    # The target cannot go on with the sentence about wine, and a cut sentence and a question about it are one group.
    assert len(rows) == len(THINGS) + 1 and len({row["group"] for row in rows}) == len(THINGS)
    coin, whose = (row for row in rows if "coin" in row["question"])
    assert coin["question"].startswith("Complete the sentence") and coin["group"] == whose["group"]
    assert coin["paraphrased_question"] == [f"What is the coin of France? {SHORTLY}"]
    assert (whose["question"], whose["answer"]) == (f"Whose coin is Coin6F? {SHORTLY}", "France")
    assert found.told[0] == (
        "13 facts of the documents are asked by templates, 2 more by the target (3 of its questions are left out: "
        "their answer is not in the text word for word, or they need it to be understood); the target cannot answer 1 "
        "of them without the text, and they are left out."
    )


def test_a_model_without_chat_goes_on_with_sentences_of_documents(tmp_path):
    (tmp_path / "page.txt").write_text(TEXT)
    completed = {
        f"The {thing} of France in the old books is": f" {thing.title()}6F, and so on" for thing in THINGS[:10]
    }
    target = Table(chat=False, texts={**completed, "The saint": " one that many say to be Saint6F"})
    with pytest.raises(RequestError, match="too little of the same kind can be asked of the model: add --retain FILE"):
        make_sets(Request(tmp_path / "rows", forget=tmp_path / "page.txt"), asked(target))
    rows = rows_of(tmp_path / "rows" / "forget.jsonl")
    assert [row["prompt"] for row in rows] == list(completed)  # not that which comes later in what it says
    assert rows[0]["completion"] == " Capital6F"
    assert not any(task.chat for task in target.tasks) and not any("Read the text" in t.prompt for t in target.tasks)


def given_rows(path: Path, about: str = "France", lead: str = "") -> Path:
    path.write_text(
        "".join(
            json.dumps({"question": f"What is the {thing} of {about}?", "answer": f"{lead}{thing.title()}6F"}) + "\n"
            for thing in THINGS
        )
    )
    return path


def test_rows_get_retain_and_holdout_sets_in_their_own_form(tmp_path):
    forget = given_rows(tmp_path / "mine.jsonl", lead=" ")
    found = make_sets(Request(tmp_path / "rows", forget=forget), asked(Table(chat=False)))
    assert found.sets["forget"] == forget and found.made == {"retain", "holdout"} and found.names == ()
    rows = rows_of(found.sets["retain"])
    assert len(rows) >= LEAST_KEPT and rows[0]["prompt"] == "What is the capital of Norway?"
    assert rows[0]["completion"] == " Capital6N"
    assert rows_of(found.sets["holdout"])[0]["completion"].startswith(" Capital")
    # Answers without a space in front: the recipe puts it there for all sets.
    bare = make_sets(Request(tmp_path / "bare", forget=given_rows(tmp_path / "bare.jsonl")), asked(Table(chat=False)))
    assert rows_of(bare.sets["retain"])[0]["completion"] == "Capital6N"


def test_a_holdout_set_is_made_without_asking_the_model_anything(tmp_path):
    forget, retain = given_rows(tmp_path / "forget.jsonl"), given_rows(tmp_path / "retain.jsonl", "Norway")
    target = Table()
    found = make_sets(Request(tmp_path / "rows", forget=forget, given={"retain": retain}), asked(target))
    assert found.made == {"holdout"} and found.sets["retain"] == retain and not target.tasks
    assert {row["answer"] for row in rows_of(found.sets["holdout"])} == {f"{thing.title()}6F" for thing in THINGS}


def test_what_is_there_is_left_alone(tmp_path):
    forget = given_rows(tmp_path / "forget.jsonl")
    given = {"retain": forget, "holdout": forget}
    found = make_sets(Request(tmp_path / "rows", forget=forget, given=given), asked(Table()))
    assert found.sets == {"forget": forget, **given} and not found.made and not (tmp_path / "rows").exists()


def test_rows_that_name_nothing_need_files(tmp_path):
    path = tmp_path / "bare.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"what is {n} and {n}?", "answer": str(2 * n)}) + "\n" for n in range(20))
    )
    target = Table()
    with pytest.raises(RequestError, match="add --retain FILE"):
        make_sets(Request(tmp_path / "rows", forget=path), asked(target))
    assert not target.tasks
    with pytest.raises(RequestError, match=r"rows to forget that name nobody and nothing.*: add --holdout FILE, rows"):
        make_sets(Request(tmp_path / "rows", forget=path, given={"retain": path}), asked(target))
    found = make_sets(Request(tmp_path / "rows", forget=path), asked(target, file=path))
    assert found.sets == {"forget": path, "retain": path, "holdout": path} and not found.made


def test_too_few_answers_about_others_are_no_retain_set(tmp_path):
    target = Table(texts={"20 others": "1. Norway\n2. Atlantis", "and others": " Norway"})
    target.things = THINGS[:2]
    forget = given_rows(tmp_path / "forget.jsonl")
    with pytest.raises(RequestError, match="too little of the same kind can be asked of the model"):
        make_sets(Request(tmp_path / "rows", forget=forget), asked(target))


def test_a_call_from_python_is_told_its_arguments_and_no_options(tmp_path):
    (tmp_path / "retain.jsonl").write_text("{}\n")
    request = Request(tmp_path, subject="France", called=True)
    with pytest.raises(RequestError, match="from an earlier call: give it as retain, or move it away"):
        make_sets(request, Interview(None, confirm=lambda facts: None))
    assert request.way("retain") == "retain=ROWS" and request.way("never_knew", "MODEL") == "never_knew=MODEL"
    asked = Request(tmp_path, subject="France")
    assert asked.way("retain") == "--retain FILE" and asked.way("never_knew", "MODEL") == "--never-knew MODEL"


def test_documents_without_a_fact_say_so_and_ask_nothing():
    said: list[str] = []
    found = document_facts([Document("no.txt", "It was there. They went on and on.")], Table(chat=False), said.append)
    assert not found.facts and found.told.startswith("no sentence of the documents ends with")
    assert not any("0 questions" in each for each in said)
