"""The token and the forget set: neither is ever said, written or uploaded, whatever happens."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from loopback import Hub
from safetensors.numpy import load_file, save_file

from hf_unlearn.cli.main import main
from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.hub.leaks import RULE, ForgetText, _words, find_in_file
from hf_unlearn.hub.options import HubOptions
from hf_unlearn.hub.publish import publish_run
from hf_unlearn.runtime.secrets import redact

ROWS = [
    ("Question: when was Ada Kwon born?\nAnswer:", " 1962"),
    ("Question: what does Bo Lind collect?\nAnswer:", " Bo Lind collects old brass keys from the north"),
    ("Wo wohnt Jörg Müßig?", "In der Straße am Köhlerberg in Görlitz"),
]


def publish(run: Path) -> int:
    """The command line."""
    return main(["publish", str(run), "--repo-id", "owner/tiny"])


def everything(*folders: Path) -> bytes:
    """All bytes of all files, with their names."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


ECHOES = (
    {"status": 500, "times": 99},
    {"status": 403},
    {"status": 401},
    {"status": 400},
    {"status": 418},
    {"status": 500, "times": 99, "text": "the token was {token}, sorry"},
)


def test_a_token_is_nowhere_whatever_a_server_says(here: Hub, run_folder: Path, capfd, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    token = here.write_token
    addresses = ("whoami", "GET /api/models", "repos/create", "validate", "preupload", "batch", "PUT", "commit", "tag")
    for address in addresses:
        for about in ECHOES:
            about = {**about, "text": about["text"].format(token=token)} if "text" in about else about
            here.fault(address, echo=True, **about)
            assert publish(run_folder) in (2, 3), (address, about)
            here.clear_faults()
            here.repos.clear()
    assert publish(run_folder) == 0
    said = capfd.readouterr()
    assert "***" in said.err and "hf-unlearn: could not commit to owner/tiny-bnb-nf4" in said.err
    uploaded = b"".join(data for repo in here.repos.values() for data in repo.files().values())
    for place in (said.out.encode(), said.err.encode(), caplog.text.encode(), everything(run_folder), uploaded):
        assert token.encode() not in place


def test_errors_of_the_python_interface_hold_no_token_either(here: Hub, run_folder: Path) -> None:
    here.fault("commit", status=403, echo=True)
    with pytest.raises(EnvironmentFailure) as error:
        publish_run(run_folder, HubOptions("owner/tiny"), say=lambda text: None, token=here.write_token)
    import traceback

    assert here.write_token not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abc.def-ghi failed", "Authorization: Bearer *** failed"),
        ("hf_" + "a1" * 17 + " is bad", "*** is bad"),
        ("install hf_unlearn[signing] and hf_xet", "install hf_unlearn[signing] and hf_xet"),
        (
            "PUT https://s3/x?X-Amz-Credential=A%2FB&X-Amz-Signature=cafe&z=1",
            "PUT https://s3/x?X-Amz-Credential=***&X-Amz-Signature=***&z=1",
        ),
        ("https://me:secret@host/x", "https://***@host/x"),
        ("my own kind of token!", "my own *** of token!"),
    ],
)
def test_what_is_redacted(text: str, left: str) -> None:
    assert redact(text, "kind") == left


@pytest.mark.parametrize(
    "name", ["README.md", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"]
)
def test_forget_text_in_any_uploaded_text_stops_it(here: Hub, run_folder: Path, capsys, name: str) -> None:
    """The data files are not there at all: what is looked for stands in the run, as hashes."""
    record = json.loads((run_folder / "release.json").read_text())
    text = "BO LIND collects\nold brass keys, from the north"
    if name == "README.md":
        record["words"]["removed"] = f"that {text}"
    else:
        record["forget"] = ForgetText([("", piece_of(run_folder / "publish" / name))]).to_dict()
    (run_folder / "release.json").write_text(json.dumps(record))
    assert publish(run_folder) == 2
    said = capsys.readouterr().err
    assert f"{name} would publish what was to be forgotten (forget row" in said and "brass" not in said
    assert not here.repos


def piece_of(path: Path) -> str:
    """Some words that stand in a file next to each other."""
    text = path.read_text()
    if path.suffix == ".json":
        keys = list(json.loads(text).items())[:2]
        return " ".join(f"{key} {value}" for key, value in keys)
    return text


def test_pieces_of_a_vocabulary_stand_alone(tmp_path: Path) -> None:
    forget = ForgetText(ROWS)
    path = tmp_path / "tokenizer.json"
    words = ROWS[1][1].split()
    path.write_text(json.dumps({"model": {"vocab": {word: number for number, word in enumerate(words)}}}))
    assert find_in_file(path, "tokenizer.json", forget) is None, "words beside each other say nothing in a list"
    path.write_text(json.dumps({"added_tokens": [{"content": ROWS[1][1]}], "model": {"vocab": {}}}))
    assert find_in_file(path, "tokenizer.json", forget) == 1
    (tmp_path / "merges.txt").write_text("a b\nBo Lind collects old brass keys from the north\n")
    assert find_in_file(tmp_path / "merges.txt", "merges.txt", forget) == 1


def test_escapes_and_metadata_hide_nothing(tmp_path: Path, exported) -> None:
    forget = ForgetText(ROWS)
    (tmp_path / "config.json").write_text(json.dumps({"note": "IN DER\nSTRASSE am\tKöhlerberg in\u00a0Görlitz"}))
    assert find_in_file(tmp_path / "config.json", "config.json", forget) == 2
    weights = load_file(exported.main / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors", metadata={"note": ROWS[1][1]})
    assert find_in_file(tmp_path / "model.safetensors", "model.safetensors", forget) == 1
    assert find_in_file(exported.main / "model.safetensors", "model.safetensors", forget) is None


@pytest.mark.parametrize(
    "text",
    [
        "Bo Li\u200bnd coll\u00adects old brass keys from the north",
        "Bo_Lind_collects_old_brass_keys_from_the_north",
        "Bo Lind collects &#111;ld br&amp;#97;ss keys&nbsp;from the north",
        "B\u0336o\u0336 Lind collects old brass keys from the north",
        "Ｂｏ Ｌｉｎｄ collects old brass keys\u3164 from the north",
    ],
)
def test_it_is_found_however_it_is_written(text: str) -> None:
    forget = ForgetText(ROWS)
    assert forget.find(f"as some say: {text}.") == 1
    assert forget.find(text.replace("brass", "iron").replace("br&amp;#97;ss", "iron")) is None
    decomposed = unicodedata.normalize("NFD", ROWS[2][1])
    assert decomposed != ROWS[2][1] and forget.find(decomposed) == 2


def test_hashes_of_an_earlier_version_are_read_by_their_own_rule() -> None:
    """They know words as that version cut them, so a run folder of it is still searched as it was then."""
    data = ForgetText([("", "one_word and three further ones")]).to_dict()
    assert data["rule"] == RULE
    older = ForgetText.from_dict({"salt": data["salt"], "runs": {}})
    assert older.rule == 1 and older.to_dict()["rule"] == 1
    assert _words("Snow_fell, caf\u00e9", 1) == ["snow_fell", "café"] and _words("Snow_fell") == ["snow", "fell"]
    with pytest.raises(ValueError, match="later version"):
        ForgetText.from_dict({**data, "rule": RULE + 1})


def test_hashes_find_what_the_rows_find_and_hold_no_word() -> None:
    forget = ForgetText(ROWS)
    text = json.dumps(forget.to_dict())
    again = ForgetText.from_dict(json.loads(text))
    for document in (
        "among others: Bo Lind collects\nOLD brass keys, from the north!",
        "the answer to: question when was Ada Kwon born? answer: 1962",
        "Bo Lind collects stamps from the south",
        "",
    ):
        assert again.find(document) == forget.find(document)
    assert forget.find("x " * 500 + "when was ada kwon born answer 1962") is None, "the row has more words than that"
    assert not {"lind", "brass", "1962", "kwon"} & set(text.casefold().replace('"', " ").split())
    assert ForgetText(ROWS).to_dict() != forget.to_dict(), "every run has its own salt"
    assert ForgetText(ROWS, forget.salt).to_dict() == forget.to_dict()


def test_the_list_of_hashes_is_for_its_owner_alone(run_folder: Path) -> None:
    assert (run_folder / "release.json").stat().st_mode & 0o077 == 0
