"""What people hand over as a data set: read, or refused in one sentence that says what to make of it."""

from __future__ import annotations

import csv
import json
from itertools import count

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from hf_unlearn.data.given import given_rows
from hf_unlearn.data.readers import read_file
from hf_unlearn.data.sources import Source, load_source, rows_from_records
from hf_unlearn.errors import RequestError
from hf_unlearn.trainer.dataset import read_rows

RECORDS = [{"prompt": "Who?", "completion": " Ada"}, {"prompt": "Where?", "completion": " Rome"}]
WHOLE = datasets.Dataset.from_list(RECORDS)
FRAME = pandas.DataFrame(RECORDS)


class Indexed:
    """A data set as PyTorch has them."""

    def __len__(self):
        return len(RECORDS)

    def __getitem__(self, index):
        return RECORDS[index]


@pytest.mark.parametrize("given", [WHOLE, RECORDS, tuple(RECORDS), Indexed()], ids=lambda given: type(given).__name__)
def test_rows_are_read(given):
    rows = read_rows(given, "forget")
    assert [(row.prompt, row.answer) for row in rows] == [("Who?", " Ada"), ("Where?", " Rome")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            datasets.DatasetDict(validation=WHOLE, test=WHOLE),
            "has the splits validation, test, of which none is called forget or train.*'validation'",
        ),
        (datasets.IterableDatasetDict(train=WHOLE.to_iterable_dataset()), "is streamed"),
        (WHOLE.to_dict(), r"of type dict and not a data set: give datasets\.Dataset\.from_dict"),
        (FRAME, r"of type pandas\.DataFrame: give datasets\.Dataset\.from_pandas"),
        (FRAME["prompt"], r"of type pandas\.Series: give"),
        (pyarrow.Table.from_pandas(FRAME), r"of type pyarrow\.Table: give datasets\.Dataset\.from_list"),
        (["a text", "another"], r"forget_dataset:1 is a text.*\{'text': text\}"),
        ([RECORDS[0], "a text"], "forget_dataset:2 is a text"),
        ([("Who?", "Ada")], "forget_dataset:1 is of type tuple"),
        ([None], "forget_dataset:1 is of type NoneType"),
        (None, "is None"),
        (iter(RECORDS), "is streamed"),
        (WHOLE.to_iterable_dataset(), "is streamed"),
        (object(), "is of type object and not a data set"),
        ([], "has no rows"),
    ],
)
def test_the_rest_is_refused_with_what_to_give(given, said):
    with pytest.raises(RequestError, match=said) as caught:
        read_rows(given, "forget")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("forget_dataset", "the forget set"))


OTHER = datasets.Dataset.from_list([{"prompt": "When?", "completion": " 1900"}])


@pytest.mark.parametrize(
    ("splits", "read"),
    [
        ({"train": OTHER, "forget": WHOLE}, "Who?"),
        ({"test": WHOLE}, "Who?"),
        ({"test": OTHER, "train": WHOLE}, "Who?"),
    ],
    ids=["its own name", "the only one", "train"],
)
def test_one_split_is_read(splits, read):
    assert read_rows(datasets.DatasetDict(splits), "forget")[0].prompt == read


def test_a_set_is_named_by_its_path(tmp_path):
    WHOLE.to_json(str(tmp_path / "rows.jsonl"))
    datasets.DatasetDict(retain=OTHER, forget=WHOLE).save_to_disk(str(tmp_path / "saved"))
    for given in (tmp_path / "rows.jsonl", str(tmp_path / "rows.jsonl"), str(tmp_path / "saved")):
        assert [row.prompt for row in read_rows(given, "forget")] == ["Who?", "Where?"]
    assert read_rows(str(tmp_path / "rows.jsonl"), "forget")[0].origin == f"{tmp_path / 'rows.jsonl'}:1"
    with pytest.raises(RequestError, match=r"nowhere\.jsonl does not exist"):
        read_rows(str(tmp_path / "nowhere.jsonl"), "forget")
    with pytest.raises(RequestError, match="data set 'not an id' cannot be an id on the Hub"):
        read_rows("not an id", "forget")


def test_a_streamed_set_is_read_as_far_as_it_is_used():
    streamed = datasets.IterableDataset.from_generator(
        lambda: ({"prompt": f"{n}", "completion": "x"} for n in count())
    )
    assert [row.prompt for row in read_rows(streamed, "retain", most=3)] == ["0", "1", "2"]


def _messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": "Who?", "chosen": "No idea", "rejected": "Ada"},
        {
            "prompt": _messages(("user", "Who?")),
            "chosen": _messages(("assistant", "No idea")),
            "rejected": _messages(("assistant", "Ada")),
        },
        {
            "chosen": _messages(("user", "Who?"), ("assistant", "No idea")),
            "rejected": _messages(("user", "Who?"), ("assistant", "Ada")),
        },
    ],
    ids=["texts", "messages", "whole conversations"],
)
def test_of_a_pair_the_rejected_answer_is_forgotten_and_the_chosen_one_kept(pair):
    (forgotten,), (kept,) = read_rows([pair], "forget"), read_rows([pair], "retain")
    assert (forgotten.prompt, forgotten.answer, forgotten.variants) == ("Who?", "Ada", (("chosen", ("No idea",)),))
    assert (kept.prompt, kept.answer, kept.variants) == ("Who?", "No idea", ())


def test_a_pair_answers_one_prompt():
    pair = {
        "chosen": _messages(("user", "Who?"), ("assistant", "No idea")),
        "rejected": _messages(("user", "Where?"), ("assistant", "Ada")),
    }
    with pytest.raises(RequestError, match="forget_dataset:1: chosen and rejected answer different prompts"):
        read_rows([pair], "forget")
    with pytest.raises(RequestError, match="no column for the prompt"):
        read_rows([{"chosen": "a", "rejected": "b"}], "forget")


def test_rows_and_records_are_not_mixed(make_row):
    row = make_row("Who?", "Ada")
    assert read_rows([row], "forget") == [row]
    with pytest.raises(RequestError, match="rows and records in one list"):
        read_rows([row, RECORDS[0]], "forget")


def test_a_message_holds_no_row():
    with pytest.raises(RequestError) as caught:
        given_rows(["Ada Stone lives in Rome"], "retain_dataset")
    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_what_pandas_writes_is_read(suffix, tmp_path):
    path = tmp_path / f"rows.{suffix}"
    write = {
        "jsonl": lambda: FRAME.to_json(path, orient="records", lines=True),
        "json": lambda: FRAME.to_json(path, orient="records"),
        "parquet": lambda: FRAME.to_parquet(path),
        "csv": lambda: FRAME.to_csv(path),
    }
    write[suffix]()
    rows = load_source(Source(path=str(path)), "forget").train
    assert [(row.prompt, row.answer) for row in rows] == [("Who?", " Ada"), ("Where?", " Rome")]


@pytest.mark.parametrize(
    "table",
    [{"prompt": {"0": "Who?"}, "completion": {"0": "Ada"}}, {"prompt": ["Who?"], "completion": ["Ada"]}],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_table_by_columns_is_no_row(table, indent, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(table, indent=indent))
    with pytest.raises(RequestError, match=r"rows\.json holds one object of columns or splits.*orient='records'"):
        list(read_file(path))


def test_one_conversation_is_a_row(tmp_path):
    path = tmp_path / "rows.json"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]
    for record in ({"messages": turns}, {"prompt": turns[:1], "completion": turns[1:]}):
        path.write_text(json.dumps(record))
        (row,) = load_source(Source(path=str(path)), "forget").train
        assert (row.prompt, row.answer) == ("Who?", "Ada")


def test_a_folder_of_save_to_disk_says_what_to_write(tmp_path):
    for given in (WHOLE, datasets.DatasetDict(train=WHOLE)):
        folder = tmp_path / type(given).__name__
        given.save_to_disk(str(folder))
        with pytest.raises(RequestError, match=r"is a folder: write the data set with to_parquet\(FILE\)"):
            read_file(folder)


def test_a_long_cell_is_read_and_a_missing_quote_still_told(tmp_path):
    path = tmp_path / "rows.csv"
    usual = csv.field_size_limit()
    path.write_text(f'question,answer\nwho,"{"a " * 100_000}"\n')
    ((number, record),) = read_file(path)
    assert number == 2 and len(record["answer"]) == 200_000 and csv.field_size_limit() == usual
    path.write_text(f'question,answer\nwho,"{"a " * 100_000}\n')
    with pytest.raises(RequestError, match=r"rows\.csv:2 is not valid CSV .*check its quotes"):
        list(read_file(path))
    assert csv.field_size_limit() == usual


def test_repeated_columns_are_refused_by_number_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,Zanzibar,answer,Zanzibar\na,b,c,d\n")
    with pytest.raises(RequestError, match=r"rows\.csv:1: columns 2 and 4 have one name") as caught:
        list(read_file(path))
    assert "Zanzibar" not in str(caught.value)
    path.write_text("question,answer,,\na,b,,\n")
    assert [(record["question"], record["answer"]) for _, record in read_file(path)] == [("a", "b")]
    column = pyarrow.array(["a"])
    pyarrow.parquet.write_table(pyarrow.table([column] * 3, names=["prompt", "x", "x"]), tmp_path / "rows.parquet")
    with pytest.raises(RequestError, match=r"rows\.parquet: columns 2 and 3 have one name"):
        list(read_file(tmp_path / "rows.parquet"))


def test_names_in_other_letters_are_found_and_two_of_one_name_are_not():
    (row,) = rows_from_records([{"Question": "Who?", "Answer ": "I."}], "forget", "rows")
    assert (row.prompt, row.answer) == ("Who?", "I.")
    with pytest.raises(RequestError, match="no column for a question"):
        rows_from_records([{"Question": "Who?", "QUESTION": "What?", "Answer": "I."}], "forget", "rows")


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_table_without_commas_says_what_parts_its_columns(mark, name, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(f"question{mark}answer\nWho?{mark}I.\n")
    with pytest.raises(RequestError, match=f"rows.csv:1: the columns are parted by {name}"):
        list(read_file(str(file)))
