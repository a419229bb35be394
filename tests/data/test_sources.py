"""Rows from files of every kind and shape, and errors that say where the file is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import datasets
import pytest

from hf_unlearn.data.columns import Columns, option_position
from hf_unlearn.data.sources import Source, load_source, rows_from_records
from hf_unlearn.errors import RequestError

QUESTIONS = [
    {
        "question": f"Which stone is number {n}?",
        "answer": f"Stone {n}",
        "perturbed_answer": [f"Rock {n}", "Sand", "Mud"],
    }
    for n in range(24)
]
PLAIN = [{"question": row["question"], "answer": row["answer"]} for row in QUESTIONS]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def load(path, name="forget", **fields):
    return load_source(Source(path=str(path), **fields), name)


def refused(path, *said, **fields):
    with pytest.raises(RequestError) as caught:
        load(path, **fields)
    for words in said:
        assert words in str(caught.value)


def write_as(suffix, records, folder):
    path = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        write_lines(path, records)
    elif suffix == ".json":
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    elif suffix == ".csv":
        datasets.Dataset.from_list(records).to_csv(path, index=False)
    else:
        datasets.Dataset.from_list(records).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(suffix, tmp_path):
    rows = load(write_as(suffix, PLAIN, tmp_path), "retain").train
    assert [(row.prompt, row.answer) for row in rows] == [(row["question"], row["answer"]) for row in PLAIN]
    assert [row.id for row in rows[:2]] == ["retain-00000", "retain-00001"]
    assert all(row.fact == row.group == row.id for row in rows)


def test_text_file_gives_one_plain_row_per_line(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("first line\n\nthird line\u2028 goes on\n", encoding="utf-8")
    rows = load(path).train
    assert [(row.prompt, row.answer, row.origin) for row in rows] == [
        ("", "first line", f"{path}:1"),
        ("", "third line\u2028 goes on", f"{path}:3"),
    ]


def test_origin_is_the_true_line(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.origin for row in load(lines).train] == [f"{lines}:2", f"{lines}:4"]
    listed = tmp_path / "rows.json"
    listed.write_text('[\n {"text":\n  "a"},\n\n {"text": "b"}, {"text": "c"}]')
    assert [row.origin for row in load(listed).train] == [f"{listed}:{line}" for line in (2, 5, 5)]
    table = tmp_path / "rows.csv"
    table.write_text('question,answer\n"two\nlines",a\nq,b\n')
    rows = load(table).train
    assert [row.origin for row in rows] == [f"{table}:2", f"{table}:4"]
    assert rows[0].prompt == "two\nlines"


def test_json_file_with_lines(tmp_path):
    path = tmp_path / "rows.json"
    write_lines(path, PLAIN)
    assert len(load(path).train) == 24


def test_wrong_answers_become_choices_with_the_right_one_where_its_text_puts_it(tmp_path):
    rows = load(write_lines(tmp_path / "a.jsonl", QUESTIONS)).train
    for row, source in zip(rows, QUESTIONS, strict=True):
        assert sorted(row.choices) == sorted([source["answer"], *source["perturbed_answer"]])
        assert row.choices.index(row.answer) == option_position(row.prompt, row.answer, 4)
    assert {row.choices.index(row.answer) for row in rows} == {0, 1, 2, 3}
    backwards = load(write_lines(tmp_path / "b.jsonl", QUESTIONS[::-1])).train[::-1]
    assert [row.choices for row in backwards] == [row.choices for row in rows]


def test_all_options_with_the_answer_as_text_or_index():
    options = ["red", "green", "blue"]
    by_text = {"question": "q", "answer": "green", "choices": options}
    by_index = {"question": "q", "answer": 1, "choices": options}
    named = {"stem": "q", "opts": options, "gold": 1}
    for record, columns in (
        (by_text, None),
        (by_index, None),
        (named, Columns(prompt="stem", choices="opts", answer_index="gold")),
    ):
        (row,) = rows_from_records([record], "extra", "memory", columns)
        assert (row.prompt, row.answer, row.choices) == ("q", "green", ("red", "green", "blue"))


STONES = ["red granite", "green marble", "blue slate"]


@pytest.mark.parametrize("answer", ["green marble", " green marble", "1", "1.0", "B", "b", "(B)", "B.", "(b)", "B)"])
@pytest.mark.parametrize("column", ["choices", "options", "endings"])
def test_an_answer_is_a_text_or_a_position_where_options_are_texts(answer, column):
    named = Columns(choices="endings") if column == "endings" else None
    (row,) = rows_from_records([{"question": "q", "answer": answer, column: STONES}], "extra", "memory", named)
    assert (row.answer, row.choices) == ("green marble", tuple(STONES))


@pytest.mark.parametrize("index", [2, 2.0, "2", " 2 ", "2.0", "C", "c", "(C)"])
def test_an_answer_index_is_a_number_or_a_letter_in_whatever_form_a_table_has_it(index):
    (row,) = rows_from_records([{"question": "q", "answer_index": index, "choices": STONES}], "extra", "memory")
    assert row.answer == "blue slate" and row.choices == tuple(STONES)


def test_a_csv_file_has_its_positions_as_text(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text('question,answer_index,choices\nq,1,"[""red"", ""green""]"\n')
    (row,) = load(table, choices="choices", answer_index="answer_index").train
    assert (row.answer, row.choices) == ("green", ("red", "green"))


@pytest.mark.parametrize(
    ("options", "answer"), [(["A", "B", "AB", "O"], "B"), (["3", "1", "2"], "1"), (["12", "1.0", "7"], "1.0")]
)
def test_an_answer_that_is_an_option_is_no_position(options, answer):
    (row,) = rows_from_records([{"question": "q", "answer": answer, "choices": options}], "extra", "memory")
    assert (row.answer, row.choices) == (answer, tuple(options))


def test_wrong_answers_are_no_options_to_point_at():
    record = {"question": "Which blood group?", "wrong_answers": ["0 negative", "AB positive"], "answer": "B"}
    (row,) = rows_from_records([record], "extra", "memory")
    assert row.answer == "B" and set(row.choices) == {"B", "0 negative", "AB positive"}


@pytest.mark.parametrize("index", ["3", 3, -1, "²", "-1", "D", "1.5", 1.5, True, "", "one", "9" * 5000])
def test_a_position_that_no_option_has_is_refused(index):
    with pytest.raises(RequestError, match="memory:1: column 'answer_index'"):
        rows_from_records([{"question": "q", "answer_index": index, "choices": STONES}], "extra", "memory")


def test_the_right_answer_must_be_among_the_options():
    records = [
        {"question": "q", "answer": answer, "choices": options}
        for answer, options in (("black basalt", STONES), ("4", STONES), ("A", ["B", "AB", "O"]))
    ]
    for record in records:
        with pytest.raises(RequestError, match="memory:1: the right answer is not among the options") as caught:
            rows_from_records([record], "extra", "memory")
        assert "basalt" not in str(caught.value)


def test_an_answer_and_a_position_that_disagree_are_refused():
    record = {"question": "q", "answer": "red granite", "answer_idx": 1, "choices": STONES}
    with pytest.raises(RequestError, match="count from 0"):
        rows_from_records([record], "extra", "memory")
    (row,) = rows_from_records([{**record, "answer_idx": 0}], "extra", "memory")
    assert row.answer == "red granite"


def test_prompt_completion_keeps_its_spaces():
    (row,) = rows_from_records([{"prompt": "The sky is", "completion": " blue"}], "forget", "memory")
    assert (row.prompt, row.answer, row.conversational) == ("The sky is", " blue", False)


def test_chat_rows_keep_earlier_messages():
    turns = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "who?"), ("assistant", "me")]
    messages = [{"role": role, "content": content} for role, content in turns]
    shapes = [{"messages": messages}, {"prompt": messages[:-1], "completion": messages[-1:]}]
    for record in shapes:
        (row,) = rows_from_records([record], "forget", "memory")
        assert row.conversational and row.prompt == "who?" and row.answer == "me" and row.turns == tuple(turns[:3])


@pytest.mark.parametrize("chat", [False, True])
def test_unpaired_preference_splits_into_forget_and_retain(chat, tmp_path):
    def side(role, text):
        return [{"role": role, "content": text}] if chat else text

    records = [
        {"prompt": side("user", f"q{n}"), "completion": side("assistant", f"a{n}"), "label": n % 3 == 0}
        for n in range(9)
    ]
    path = write_lines(tmp_path / "rows.jsonl", records)
    assert [row.answer for row in load(path, "forget", limit=3).train] == ["a1", "a2", "a4"]
    assert [row.answer for row in load(path, "retain").train] == ["a0", "a3", "a6"]
    assert len(load(path, "holdout").train) == 9


def test_a_label_elsewhere_is_no_preference():
    records = [{"question": "q", "answer": "a", "label": 0}, {"question": "q2", "answer": "a2", "label": 7}]
    assert len(rows_from_records(records, "retain", "memory")) == 2


def test_a_trainer_can_give_a_dataset():
    rows = rows_from_records(datasets.Dataset.from_list(PLAIN), "forget", "forget_dataset")
    assert rows[3].origin == "forget_dataset:4" and rows[3].answer == "Stone 3"
    assert rows_from_records([], "retain", "retain_dataset") == ()


def test_named_columns_facts_groups_and_limits(tmp_path):
    records = [{"q": f"q{n}", "a": f"a{n}", "who": n // 3, "about": n // 2} for n in range(12)]
    path = write_lines(tmp_path / "rows.jsonl", records)
    rows = load(path, prompt="q", answer="a", group="who", fact="about", limit=8, score_limit=2)
    assert [row.prompt for row in rows.train] == [f"q{n}" for n in range(8)]
    assert [row.group for row in rows.train] == list("00011122")
    assert [row.fact for row in rows.train] == list("00112233")
    assert rows.score == rows.train[:2]


def test_rows_in_order_can_make_the_groups(tmp_path):
    rows = load(write_lines(tmp_path / "rows.jsonl", PLAIN), rows_per_group=10).train
    assert [rows[n].group for n in (0, 9, 10, 23)] == [f"forget-group-000{n}" for n in (0, 0, 1, 2)]


def test_missing_folder_unknown_and_empty_files(tmp_path):
    refused(tmp_path / "none.jsonl", "none.jsonl", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    refused(tmp_path / "rows.xlsx", "'.xlsx'", ".jsonl", ".parquet")
    for name in ("empty.jsonl", "empty.json", "empty.csv", "empty.txt"):
        (tmp_path / name).write_text("\n")
        refused(tmp_path / name, name, "no rows", "forget")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"text": "a"} {"text": "b"}]', "comma"),
        ('[{"text": "a"},, {"text": "b"}]', "Expecting value"),
        ('[, {"text": "a"}]', "Expecting value"),
        ('[{"text": "a"},]', "Expecting value"),
        ('[{"text": "a"}] {"text": "b"}', "follows"),
        ('[{"text": "a"}', "comma or the end"),
        ('[{"text": "a", "text": "secret"}]', "twice"),
        ('{"text": "a", "text": "secret"}', "twice"),
        ('{"text": "a", "more": {"k": 1, "k": 2}}', "twice"),
        ('{"text": "a"} {"text": "secret"}', "follows"),
        ('{"text": "secret \\ud800"}', "surrogate"),
        ('[{"text": "secret \\ud800"}]', "surrogate"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "digits"),
        ('{"text": "a", "n": ' + "[" * 200_000 + "}", "deep"),
        ('[{"text": "a", "n": ' + "[" * 200_000 + "}]", "deep"),
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused(text, said, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"rows\.json:1 is not valid JSON") as caught:
        load(path)
    assert said in str(caught.value) and "secret" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_whole_json_is_read_as_before(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(' [ {"text": "a \\ud83d\\ude00"} ,\n{"text": "b", "n": 12345678901234567890} ] \n')
    assert [row.answer for row in load(path).train] == ["a \N{GRINNING FACE}", "b"]


def test_a_table_without_a_header_is_not_printed(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("Who is the spy?,Ada Stone\nWho is the cook?,Ben Wood\n")
    for fields in ({}, {"prompt": "question", "answer": "answer"}):
        with pytest.raises(RequestError, match=r"rows\.csv:2 has no column") as caught:
            load(table, **fields)
        for text in ("spy", "Ada", "cook", "Ben"):
            assert text not in str(caught.value)


def test_broken_files_name_the_line(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"text": "a"}\n{"text": "b"\n')
    refused(lines, "rows.jsonl:2", "not valid JSON")
    lines.write_text('{"text": "a"}\n["b"]\n')
    refused(lines, "rows.jsonl:2", "list")
    listed = tmp_path / "rows.json"
    listed.write_text('[{"text": "a"},\n{"text" "b"}]')
    refused(listed, "rows.json:2", "not valid JSON")
    listed.write_text('[{"text": "a"},\n')
    refused(listed, "rows.json:2", "not valid JSON")
    table = tmp_path / "rows.csv"
    table.write_text("question,answer\nq,a\nq\n")
    refused(table, "rows.csv:3", "1 cells", "2 columns")
    broken = tmp_path / "rows.parquet"
    broken.write_bytes(b"PAR1 no parquet")
    refused(broken, "rows.parquet", "Parquet")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    refused(tmp_path / "latin.txt", "latin.txt", "UTF-8")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"question": "q"}, ["no column 'answer'"]),
        ({"question": "q", "answer": None}, ["'answer'", "empty"]),
        ({"question": "q", "answer": "  "}, ["'answer'", "empty"]),
        ({"question": "q", "answer": 1934}, ["'answer'", "a number", "string"]),
        ({"question": ["q"], "answer": "a"}, ["'question'", "role"]),
    ],
)
def test_a_bad_row_names_file_line_and_column(second, said, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [PLAIN[0], second])
    refused(path, "rows.jsonl:2", *said)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question": "q"}, ["rows.jsonl:1", "an answer or completion", "'question'"]),
        ({"title": "q", "answer": "a"}, ["rows.jsonl:1", "a question or prompt", "'title'"]),
        ({"messages": [{"role": "user", "content": "q"}]}, ["rows.jsonl:1", "user", "must end"]),
        ({"messages": []}, ["rows.jsonl:1", "must end"]),
        ({"messages": "hi"}, ["rows.jsonl:1", "list of messages"]),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, ["rows.jsonl:1", "'label'", "true"]),
        ({"question": "q", "answer": 4, "choices": ["a", "b"]}, ["rows.jsonl:1", "0 to 1"]),
        ({"question": "q", "answer": "a", "choices": ["a", None]}, ["rows.jsonl:1", "'choices'"]),
        ({"question": "q", "answer": "a", "choices": ["a", "a"]}, ["rows.jsonl:1", "other than the right one"]),
    ],
)
def test_rows_of_no_known_shape(record, said, tmp_path):
    refused(write_lines(tmp_path / "rows.jsonl", [record]), *said)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("input", "output"), ("instruction", "response"), ("instruction", "output"), ("text", "labels")],
)
def test_other_names_of_question_and_answer_are_found(prompt, answer, tmp_path):
    further = {"id": "a1", "task": "Task2"}
    path = write_lines(tmp_path / "rows.jsonl", [{**further, prompt: f"Who is {n}?", answer: f"{n}."} for n in "ab"])
    assert [(row.prompt, row.answer) for row in load(path).score] == [("Who is a?", "a."), ("Who is b?", "b.")]


@pytest.mark.parametrize("labels", [1, [3, 4], None])
def test_a_text_with_labels_that_are_no_text_stays_plain_text(labels, tmp_path):
    (row,) = load(write_lines(tmp_path / "rows.jsonl", [{"text": "A tale.", "labels": labels}])).score
    assert (row.prompt, row.answer) == ("", "A tale.")


def test_a_task_in_two_columns_is_not_halved(tmp_path):
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    refused(path, "rows.jsonl:1", "both 'instruction' and 'input'", "(prompt:, answer: of the set)")
    (row,) = load(path, prompt="input", answer="output").score
    assert (row.prompt, row.answer) == ("1 and 2", "3")


@pytest.mark.parametrize("further", [{"question": "q", "answer": "a"}, {"prompt": "q", "completion": "a"}])
def test_the_usual_names_come_first(further, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"input": "x", "output": "y", **further}])
    (row,) = load(path).score
    assert (row.prompt, row.answer) == ("q", "a")


def test_a_misspelled_column_names_the_nearest(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", PLAIN)
    refused(path, "no column 'questions'", "did you mean 'question'", prompt="questions")
    refused(path, "answer_index", "name its column as choices", answer_index="answer")


def test_sources_that_cannot_be():
    for wrong in ({}, {"path": "a", "limit": 0}, {"path": "a", "group": "g", "rows_per_group": 2}):
        with pytest.raises(RequestError):
            Source(**wrong)


def test_hub_data_set_without_a_connection(tmp_path):
    code = (
        "from hf_unlearn.data.sources import Source, load_source\n"
        "from hf_unlearn.errors import EnvironmentFailure\n"
        "try:\n    load_source(Source(dataset='some-owner/some-data', config='forget10'), 'forget')\n"
        "except EnvironmentFailure as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "some-owner/some-data" in done.stdout and "use a local file instead" in done.stdout


def test_hub_reader_reads_what_datasets_loads(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    write_lines(folder / "train.jsonl", PLAIN)
    rows = load_source(Source(dataset=str(folder), limit=5), "retain").train
    assert [row.answer for row in rows] == [f"Stone {n}" for n in range(5)]
    assert rows[0].origin == f"{folder}[train]:1"
    with pytest.raises(RequestError, match="split='validation'"):
        load_source(Source(dataset=str(folder), split="validation"), "retain")
