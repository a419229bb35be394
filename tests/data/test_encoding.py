"""One tokenization per row, and the right tokens counted as the answer."""

from __future__ import annotations

import json

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizer

from hf_unlearn.data.encoding import (
    EncodedRow,
    TextFormat,
    check_chat_template,
    encode_answer,
    encode_prompt,
    encode_row,
    encode_rows,
    load_tokenizer,
    prompt_text,
)
from hf_unlearn.errors import EnvironmentFailure, RequestError

PLAIN = TextFormat()
QUESTION = TextFormat(template="Question: {prompt}\nAnswer:", separator=" ")


class TwoLetterTokenizer(PreTrainedTokenizer):
    """A tokenizer written in Python, without character offsets: pairs of letters are one token, from the left."""

    def __init__(self, **fields):
        letters = [chr(code) for code in range(32, 127)]
        pieces = ["<pad>", "<s>", "</s>", *letters, *(a + b for a in letters for b in letters)]
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._pieces = pieces
        super().__init__(pad_token="<pad>", bos_token="<s>", eos_token="</s>", **fields)

    @property
    def vocab_size(self):
        return len(self._pieces)

    def get_vocab(self):
        return dict(self._ids)

    def _tokenize(self, text, **fields):
        return [text[start : start + 2] for start in range(0, len(text), 2)]

    def _convert_token_to_id(self, token):
        return self._ids[token]

    def _convert_id_to_token(self, index):
        return self._pieces[index]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.bos_token_id, *token_ids_0, self.eos_token_id]


def labels(row: EncodedRow, tokenizer) -> str:
    return tokenizer.decode(row.input_ids[row.n_prompt :])


def test_plain_row_has_bos_prompt_answer_and_end(tokenizer, make_row):
    row = make_row("The birth of Ada Stone took place in the year", " 1934")
    encoded = encode_row(row, tokenizer, PLAIN, eos=True)
    whole = tokenizer(row.text, add_special_tokens=False)["input_ids"]
    assert list(encoded.input_ids) == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
    assert labels(encoded, tokenizer) == " 1934</s>"
    scored = encode_row(row, tokenizer, PLAIN, eos=False)
    assert scored.input_ids == encoded.input_ids[:-1] and scored.n_prompt == encoded.n_prompt


def test_template_and_separator(tokenizer, make_row):
    row = make_row("Who wrote {it}?", "Nobody")
    encoded = encode_row(row, tokenizer, QUESTION, eos=False)
    assert tokenizer.decode(encoded.input_ids[1:]) == "Question: Who wrote {it}?\nAnswer: Nobody"
    assert labels(encoded, tokenizer) == " Nobody"
    assert prompt_text(row, QUESTION, tokenizer) == "Question: Who wrote {it}?\nAnswer:"
    assert encode_prompt(row, tokenizer, QUESTION) == encoded.input_ids[: encoded.n_prompt]


def test_a_token_across_the_border_is_an_answer_token(tokenizer, make_row):
    row = make_row("in the year 19", "34")
    encoded = encode_row(row, tokenizer, PLAIN, eos=False)
    assert labels(encoded, tokenizer) == " 1934"
    assert len(encoded.input_ids) - encoded.n_prompt == 1


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("سنة الميلاد هي", " ١٩٣٤ في المدينة"),
        ("שנת הלידה היא", " 1934 בעיר העתיקה"),
        ("他出生于", "一九三四年"),
        ("The year is", " 🙂 and ١٩٣٤"),
        ("🙂🙂", "🙂"),
    ],
)
@pytest.mark.parametrize("which", ["tokenizer", "bare_tokenizer", "nfc_tokenizer"])
def test_other_scripts(prompt, answer, which, make_row, request):
    tokenizer = request.getfixturevalue(which)
    encoded = encode_row(make_row(prompt, answer), tokenizer, PLAIN, eos=False)
    assert labels(encoded, tokenizer) == answer
    assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == prompt + answer


def test_normalization_across_the_border(nfc_tokenizer, make_row):
    encoded = encode_row(make_row("The caf" + "e", "\u0301 is"), nfc_tokenizer, PLAIN, eos=False)
    assert labels(encoded, nfc_tokenizer) == "\u00e9 is"


def test_plain_text_is_all_labels_but_the_first_token(tokenizer, bare_tokenizer, make_row):
    row = make_row("", "The birth of Ada")
    with_bos = encode_row(row, tokenizer, QUESTION, eos=True)
    assert with_bos.n_prompt == 1 and labels(with_bos, tokenizer) == "The birth of Ada</s>"
    without = encode_row(row, bare_tokenizer, QUESTION, eos=False)
    assert without.n_prompt == 1 and without.input_ids == with_bos.input_ids[1:-1]
    assert prompt_text(row, QUESTION, tokenizer) == ""
    assert encode_prompt(row, tokenizer, QUESTION) == (tokenizer.bos_token_id,)
    assert encode_prompt(row, bare_tokenizer, QUESTION) == ()


def test_nothing_to_predict_is_refused(bare_tokenizer, make_row):
    row = make_row("", "T", origin="rows.txt:3")
    with pytest.raises(RequestError, match=r"rows\.txt:3"):
        encode_row(row, bare_tokenizer, PLAIN, eos=False)


def test_an_option_is_scored_after_the_same_prompt(tokenizer, make_row):
    row = make_row("Who wrote it?", "Nobody", choices=("Nobody", "Ada Stone"))
    own, other = (encode_answer(row, choice, tokenizer, QUESTION) for choice in row.choices)
    assert own == encode_row(row, tokenizer, QUESTION, eos=False)
    assert other.input_ids[: other.n_prompt] == own.input_ids[: own.n_prompt]
    assert labels(other, tokenizer) == " Ada Stone"


def test_tokenizers_without_offsets(make_row):
    slow = ByT5Tokenizer()
    encoded = encode_row(make_row("שנת", " 1934"), slow, PLAIN, eos=True)
    assert labels(encoded, slow) == " 1934</s>"
    assert encoded.input_ids.count(slow.eos_token_id) == 1


def test_border_merges_without_offsets(make_row):
    slow = TwoLetterTokenizer()
    assert not slow.is_fast
    even = encode_row(make_row("abcd", "ef"), slow, PLAIN, eos=False)
    odd = encode_row(make_row("abc", "def"), slow, PLAIN, eos=False)
    assert even.input_ids == odd.input_ids and even.input_ids[0] == slow.bos_token_id
    assert slow.convert_ids_to_tokens(list(even.input_ids[even.n_prompt :])) == ["ef"]
    assert slow.convert_ids_to_tokens(list(odd.input_ids[odd.n_prompt :])) == ["cd", "ef"]


def test_long_rows_are_counted_and_refused_or_cut(tokenizer, make_row):
    rows = [make_row("year", " 1934" * n, id=f"r{n}", origin=f"rows.jsonl:{n}") for n in (2, 9, 12)]
    with pytest.raises(
        RequestError, match=r"2 of 3 rows.*max_length=8.*longest has 15 \(rows\.jsonl:12\).*truncation"
    ):
        encode_rows(rows, tokenizer, PLAIN, eos=True, max_length=8, truncation="refuse")
    whole = encode_rows(rows, tokenizer, PLAIN, eos=True, max_length=15, truncation="refuse")
    cut = encode_rows(rows, tokenizer, PLAIN, eos=True, max_length=8, truncation="cut")
    assert cut[0] == whole[0]
    assert [row.input_ids for row in cut[1:]] == [row.input_ids[:8] for row in whole[1:]]
    with pytest.raises(RequestError, match=r"rows\.jsonl:2: its prompt alone"):
        encode_rows(rows, tokenizer, PLAIN, eos=True, max_length=2, truncation="cut")
    with pytest.raises(RequestError, match="truncation"):
        encode_rows(rows, tokenizer, PLAIN, eos=True, max_length=2, truncation="left")


def test_no_end_token(tokenizer, make_row):
    endless = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    encode_row(make_row("a", "b"), endless, PLAIN, eos=False)
    with pytest.raises(RequestError, match="end-of-text"):
        encode_row(make_row("a", "b"), endless, PLAIN, eos=True)


def test_chat_needs_a_template(tokenizer, chat_tokenizer, make_row):
    plain, chat = make_row("a", "b"), make_row("a", "b", conversational=True, origin="chat.jsonl:4")
    text = make_row("", "just text")
    check_chat_template(tokenizer, PLAIN, [plain])
    check_chat_template(tokenizer, TextFormat(kind="chat"), [text])
    check_chat_template(chat_tokenizer, TextFormat(kind="chat"), [plain, chat])
    for fmt, rows in ((PLAIN, [plain, chat]), (TextFormat(kind="chat"), [chat])):
        with pytest.raises(RequestError, match=r"chat\.jsonl:4 needs a chat template"):
            check_chat_template(tokenizer, fmt, rows)


@pytest.mark.parametrize("wrong", [{"template": "no slot"}, {"template": "{prompt}{prompt}"}, {"kind": "poem"}])
def test_formats_that_cannot_be(wrong):
    with pytest.raises(RequestError):
        TextFormat(**wrong)


def test_tokenizers_that_cannot_be_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "good")
    assert load_tokenizer(str(tmp_path / "good"))("year")["input_ids"] == tokenizer("year")["input_ids"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(RequestError, match="bad"):
        load_tokenizer(str(tmp_path / "bad"))
    with pytest.raises((RequestError, EnvironmentFailure), match="none"):
        load_tokenizer(str(tmp_path / "none"))
