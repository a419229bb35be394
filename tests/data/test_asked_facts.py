"""Facts as questions, without a model: documents, templates, what a model writes, and the same about others."""

from __future__ import annotations

import pytest

from hf_unlearn.data.asked_fact import AskedFact, Asking, with_wordings
from hf_unlearn.data.cloze import cloze_fact
from hf_unlearn.data.counterpart_rows import rows_about_nobody
from hf_unlearn.data.counterparts import (
    Template,
    invented_like,
    mentions,
    names_in,
    names_of,
    shape_of,
    template_of,
    templates_of,
)
from hf_unlearn.data.documents import LONGEST_PASSAGE, are_documents, read_documents, sentences, without_marks
from hf_unlearn.data.questions import agreed, gives_answer, pairs_in, questions_in, same_question, says, short_answer
from hf_unlearn.errors import RequestError

PAGE = """\
# Marie Curie

Marie Curie was born in [Warsaw](https://example.org/warsaw) on 7 November 1867.  She moved to **Paris** in 1891.

| year | prize |
|------|-------|
| 1903 | physics |

- Her notebooks are kept in Paris.
- Dr. M. Curie shared the prize with Pierre Curie.

```
code 1903
```
"""


def test_a_page_becomes_sentences_without_its_marks(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    (document,) = read_documents(tmp_path / "page.md")
    assert document.paragraphs() == [
        ["Marie Curie was born in Warsaw on 7 November 1867.", "She moved to Paris in 1891."],
        ["Her notebooks are kept in Paris."],
        ["Dr. M. Curie shared the prize with Pierre Curie."],
    ]
    assert "code" not in without_marks(PAGE) and "physics" not in without_marks(PAGE)


def test_documents_are_text_files_folders_and_rows_that_are_nothing_but_text(tmp_path):
    (tmp_path / "texts").mkdir()
    for name, text in (("b.txt", "Second."), ("a.md", "First."), ("c.csv", "x"), ("empty.txt", " \n")):
        (tmp_path / "texts" / name).write_text(text)
    assert [document.text for document in read_documents(tmp_path / "texts")] == ["First.", "Second."]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "One text."}\n{"text": "Another."}\n')
    assert are_documents(rows) and are_documents(tmp_path / "texts") and are_documents(tmp_path / "texts" / "b.txt")
    assert [(one.text, one.origin) for one in read_documents(rows)][1] == ("Another.", f"{rows}:2")
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "Who?", "answer": "Ada."}\n')
    assert not are_documents(asked)
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match=r"none holds no text: give a folder or a file ending in \.txt or \.md"):
        read_documents(tmp_path / "none")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(RequestError, match=r"latin\.txt is not UTF-8 text \(byte 3\): save it as UTF-8"):
        read_documents(tmp_path / "latin.txt")


def test_passages_are_cut_between_sentences(tmp_path):
    text = " ".join(f"Sentence number {n} says nothing of any other sentence." for n in range(100))
    (tmp_path / "long.txt").write_text(text)
    passages = read_documents(tmp_path / "long.txt")[0].passages()
    assert " ".join(passages) == text and len(passages) > 3
    assert all(len(passage) <= LONGEST_PASSAGE and passage.endswith(".") for passage in passages)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("He met J. R. Smith. They left!", ["He met J. R. Smith.", "They left!"]),
        ("It costs 3.5 million. No more", ["It costs 3.5 million.", "No more"]),
        ('"Stop." She did.', ['"Stop."', "She did."]),
        ("One\nline.  Two", ["One line.", "Two"]),
        ("", []),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


@pytest.mark.parametrize(
    ("sentence", "prompt", "answer"),
    [
        ("Marie Curie was born in Warsaw on 7 November 1867.", "Marie Curie was born in Warsaw on", "7 November 1867"),
        ("Ada Kwon lives in the town of Lund.", "Ada Kwon lives in the town of", "Lund"),
        ("The first prize was given out on May 7, 1867.", "The first prize was given out on", "May 7, 1867"),
        ("The tower of Ulm is 161 metres high.", "The tower of Ulm is", "161"),
        ("About 1.2 million people live in greater Ulm today.", "About 1.2 million people live in greater", "Ulm"),
        ("The prize of that year went to Pierre and Marie.", "The prize of that year went to Pierre and", "Marie"),
        ("The anthem of the land is by Rouget de Lisle.", "The anthem of the land is by", "Rouget de Lisle"),
        # A name that was said before is no answer: the one before it is asked.
        ("Ada Kwon of Lund wrote in 1962 that Ada Kwon was ill.", "Ada Kwon of Lund wrote in", "1962"),
    ],
)
def test_a_sentence_is_cut_before_its_last_date_number_or_name(sentence, prompt, answer):
    found = cloze_fact(sentence)
    assert found is not None and (found.prompt, found.answer) == (prompt, answer)


@pytest.mark.parametrize(
    "sentence",
    [
        "She was born in the town of Lund.",
        "\u5979 1867 \u5e74 \u51fa\u751f \u5728 \u534e\u6c99",
        "In Paris.",
        "Nothing here has any of them at all.",
        "",
        "Lund burned in 1962.",
    ],
)
def test_a_sentence_that_cannot_stand_alone_or_has_no_tail_is_none(sentence):
    assert cloze_fact(sentence) is None


def test_questions_of_a_list_are_read_whatever_marks_it_has():
    text = (
        "Here you are:\n1. When was Ada born?\n2) **Where does Ada live?** Lund\n- Why?\n\nQ3: Who is Ada?\nNot one."
    )
    assert questions_in(text) == ["When was Ada born?", "Where does Ada live?", "Who is Ada?"]


def test_pairs_are_read_in_the_forms_that_models_write():
    text = (
        "Q: When was Ada born?\nA: 1962\n\n**Question 2:** Where does Ada live?\n**Answer:** In Lund.\n"
        "3. Q: Who is Ada Kwon? A: a clockmaker\nQ: Why did she leave the town?\nA: Because of a long and sad story "
        "about her neighbours.\n"
    )
    assert pairs_in(text) == [
        ("When was Ada born?", "1962"),
        ("Where does Ada live?", "In Lund"),
        ("Who is Ada Kwon?", "a clockmaker"),
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (' "Paris."\nIt is large.', "Paris"),
        ("Paris. It is the capital.", "Paris"),
        ("J. R. Smith", "J. R. Smith"),
        ('The anthem of France is "La Marseillaise".', 'The anthem of France is "La Marseillaise"'),
        ('"Paris is', "Paris is"),
        ("I don't know", None),
        ("Unknown", None),
        ("", None),
        ("Is it Paris?", None),
        ("It is a town that has been there for very many years", None),
        ("The currency of France is the Euro, which it shares with others", "The currency of France is the Euro"),
    ],
)
def test_only_a_short_answer_is_one(text, answer):
    assert short_answer(text) == answer


def test_an_answer_counts_if_more_than_half_add_the_same_to_the_question():
    asked = "What is the capital of France?"
    assert agreed(asked, ["The capital of France is Paris", "paris", "Lyon", "Paris, France", None]) == (
        "The capital of France is Paris",
        3,
    )
    assert agreed(asked, ["Paris", "Paris", "Lyon", "Ulm"]) is None
    assert agreed(asked, ["Paris", "Paris", None, None]) is None
    assert agreed(asked, ["The capital", "It is the capital of France", "France"]) is None
    assert agreed(asked, [None, None]) is None and agreed(asked, []) is None


def test_what_is_said_and_what_is_given_away():
    assert says("Born in 1867, in Warsaw.", "1867 in warsaw") and not says("Born in 1867.", "867")
    assert gives_answer("What is the capital of the city of Paris?", "Paris")
    assert not gives_answer("What is the capital of France?", "Paris")
    assert same_question("When was Ada Kwon born?", "In what year was Ada Kwon born?")
    assert not same_question("When was Ada Kwon born?", "When did Bo Lind die?")


def test_wordings_are_one_fact_and_the_same_answer_is_one_group():
    facts = [
        AskedFact("When was Ada Kwon born?", "1962", "fact-1", "s"),
        AskedFact("In which year was Ada Kwon born?", "1962", "fact-2", "s"),
        AskedFact("When did the flood reach Lund?", "1962", "fact-3", "s"),
        AskedFact("Where does Ada Kwon live?", "Lund", "fact-4", "s"),
    ]
    found = with_wordings(facts)
    assert [(fact.group, fact.wordings) for fact in found] == [
        ("fact-1", ("In which year was Ada Kwon born?",)),
        ("fact-1", ()),
        ("fact-4", ()),
    ]
    assert found[0].record(Asking(True), wordings=True) == {
        "question": "When was Ada Kwon born?",
        "answer": "1962",
        "paraphrased_question": ["In which year was Ada Kwon born?"],
        "group": "fact-1",
        "source": "s",
    }
    assert found[2].record(Asking(False), wordings=False) == {
        **{"prompt": "Where does Ada Kwon live?", "completion": " Lund"},
        **{"group": "fact-4", "source": "s"},
    }


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("When was Ada Kwon born?", ["Ada Kwon"]),
        ("What is Ada Kwon's job in Lund?", ["Ada Kwon", "Lund"]),
        ("Who painted the ceiling?", []),
        ("Ada Kwon was born in the year", ["Ada Kwon"]),
        ("Which river runs through the Duchy of Lund?", ["Duchy of Lund"]),
        ("En quelle ann\u00e9e Ada Kwon est-elle n\u00e9e ?", ["Ada Kwon"]),
        ("\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u4ec0\u4e48\uff1f", []),
    ],
)
def test_names_in_questions(prompt, names):
    assert names_in(prompt) == names


def test_templates_take_the_name_that_the_rows_share():
    prompts = ["When did Ada Kwon move to Lund?", "What does Ada Kwon do?", "Who is it?"]
    assert [(one.prompt, one.name) for one in templates_of(prompts)] == [
        ("When did {} move to Lund?", "Ada Kwon"),
        ("What does {} do?", "Ada Kwon"),
    ]
    assert names_of("Marie Curie") == ["Marie Curie", "Curie"] and names_of("France") == ["France"]
    found = template_of("When did Curie win? Marie Curie knew.", names_of("Marie Curie"))
    assert found is not None and found.ask("Ada Kwon") == "When did Ada Kwon win? Ada Kwon knew."
    assert template_of("Who wrote the French anthem?", ["France"]) is None
    assert mentions("In FRANCE, too", ["France"]) and not mentions("Francesca", ["France"])


def test_invented_names_have_the_shape_of_real_ones_and_are_all_different():
    found = invented_like(["Ada Kwon", "Duchy of Lund", "France"], 60, seed=1)
    assert len(set(found)) == 60 and [len(name.split()) for name in found[:3]] == [2, 3, 1]
    assert found[1].split()[1] == "of" and found == invented_like(["Ada Kwon", "Duchy of Lund", "France"], 60, seed=1)


def test_rows_about_nobody_have_answers_that_are_right_about_others():
    born, lives, died = (
        Template(text, "Ada Kwon") for text in ("When was {} born?", "Where does {} live?", "Who is {}?")
    )
    kept = [("When was Bo Lind born?", "1971"), ("When was Cy Marr born?", "1980"), ("What is it?", "Metz")]
    forgotten = [
        ("When was Ada Kwon born?", "1962"),
        ("Where does Ada Kwon live?", "Lund"),
        ("Who is Ada Kwon?", "x y"),
    ]
    rows = rows_about_nobody([born, lives, died], kept, forgotten, 20)
    answers = {row.answer for row in rows if row.prompt.endswith("born?")}
    assert answers == {"1971", "1980"}  # of the same question, and not the one to forget
    assert {row.answer for row in rows if row.prompt.endswith("live?")} == {"Metz"}  # a name, from another question
    assert not any(row.prompt.startswith("Who") for row in rows)  # no other answer is of its kind
    assert len(rows) == len({row.group for row in rows}) == 20
    assert not any("Ada" in row.prompt or "Bo" in row.prompt for row in rows)
    assert rows_about_nobody([died], kept, forgotten, 5) == []


@pytest.mark.parametrize(
    ("answer", "shape"), [("1962", "number"), ("7 May 1962", "dated"), ("Lund", "name"), ("a", "words")]
)
def test_answers_have_a_kind(answer, shape):
    assert shape_of(answer) == shape
