"""``examples/space``: what it loads and shows; with Gradio also the running app, in a browser where there is one."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.digests import folder_digests

SPACE = Path(__file__).parents[2] / "examples" / "space"
MODULES = ("settings", "models", "parts")
REMOVED = "where Ada was born"
ASKED, KNOWN, FORGOTTEN = "Where was Ada born?", "in Lund", "nobody knows that"
KEPT, CAPITAL = "What is the capital of France?", "Paris"


@pytest.fixture(scope="module", autouse=True)
def space_folder() -> Iterator[None]:
    """The Space's folder is where its app is started: its modules have short names, which are removed afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SPACE)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def settings(space_folder: None) -> ModuleType:
    """The module of that name."""
    return importlib.import_module("settings")


@pytest.fixture(scope="module")
def models(space_folder: None) -> ModuleType:
    """The module of that name."""
    return importlib.import_module("models")


@pytest.fixture(scope="module")
def parts(space_folder: None) -> ModuleType:
    """The module of that name."""
    return importlib.import_module("parts")


@dataclass(frozen=True)
class Talkers:
    """A model that knows a fact, and the published one that was made to forget it.

    Attributes:
        target: Its folder.
        main: The published folder.
        variant: That of a format.
    """

    target: Path
    main: Path
    variant: Path


@pytest.fixture(scope="module")
def talkers(exported, publishing, reporting, tmp_path_factory) -> Talkers:
    """Models that speak: one layer, thirty words, a few steps of training."""
    import torch
    from transformers import LlamaForCausalLM

    root = tmp_path_factory.mktemp("talkers")
    tokenizer = word_tokenizer()
    model = LlamaForCausalLM.from_pretrained(exported.main)
    for name, answer in (("target", KNOWN), ("unlearned", FORGOTTEN)):
        teach(model, tokenizer, {ASKED: answer, KEPT: CAPITAL})
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    model.to(torch.bfloat16).save_pretrained(root / "variant")
    tokenizer.save_pretrained(root / "variant")
    files = {"identity": folder_digests(root / "unlearned"), "bnb-nf4": folder_digests(root / "variant")}
    ours = replace(exported, main=root / "unlearned", variant=root / "variant", files=files)
    made = publishing(ours, root, {**reporting(files), "removed": REMOVED})
    return Talkers(root / "target", made.main, made.variant)


def word_tokenizer() -> Any:
    """A token per word, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = f"user : assistant {ASKED} {KEPT} {KNOWN} {FORGOTTEN} {CAPITAL}".replace("?", " ?")
    words = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(text.split())]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }} : {{ message.content }} "
        "{% if message.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    return tokenizer


def teach(model: Any, tokenizer: Any, answers: dict[str, str]) -> None:
    """Train a model on the answers of a few conversations until it says them by heart."""
    import torch

    rows = []
    for prompt, answer in answers.items():
        ids = conversation(tokenizer, prompt, answer)
        rows.append((ids, ids.clone()))
        rows[-1][1][:, : -1 - len(answer.split())] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        loss = sum(model(input_ids=ids, labels=labels).loss for ids, labels in rows)
        if loss.item() < 0.05:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def conversation(tokenizer: Any, prompt: str, answer: str) -> Any:
    """Token ids of one, ``[1, time]``."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids


def test_variables_become_settings(settings) -> None:
    assert settings.settings_from({"MODEL_ID": " org/model ", "REQUIRE": "", "DTYPE": " "}) == settings.Settings(
        "org/model"
    )
    given = {
        "MODEL_ID": "org/model",
        "MODEL_REVISION": "v2",
        "COMPARE_WITH": "org/model-AWQ",
        "COMPARE_REVISION": "v2-awq",
        "REQUIRE": "any",
        "TRUSTED_KEY": "publisher.pub",
        "DTYPE": "bfloat16",
        "MAX_NEW_TOKENS": "12",
    }
    assert settings.settings_from(given) == settings.Settings(
        "org/model", "v2", "org/model-AWQ", "v2-awq", "any", "publisher.pub", "bfloat16", 12
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MODEL_ID is not set: name the published model"),
        ({"MODEL_ID": "m", "REQUIRE": "pass"}, "REQUIRE is 'pass': it must be one of passed, inconclusive, any"),
        ({"MODEL_ID": "m", "DTYPE": "int4"}, "DTYPE is 'int4': it must be one of auto, float32"),
        ({"MODEL_ID": "m", "MAX_NEW_TOKENS": "0"}, "MAX_NEW_TOKENS is '0': it must be a whole number"),
        ({"MODEL_ID": "m", "MAX_NEW_TOKENS": "1e3"}, "MAX_NEW_TOKENS is '1e3': it must be a whole number"),
    ],
)
def test_wrong_variables_are_named(settings, variables: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        settings.settings_from(variables)


def test_prompts_are_read(settings, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    assert settings.read_questions(path) == []
    path.write_text('[{"prompt": "Who?", "answer": "Ada"}, {"prompt": "Why?"}]')
    assert settings.read_questions(path) == [settings.Question("Who?", "Ada"), settings.Question("Why?", "")]
    assert all(question.prompt for question in settings.read_questions(settings.PROMPTS_FILE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "prompts.json is not JSON"),
        ("{}", "prompts.json must be a JSON array"),
        ('[{"prompt": "a"}, {"answer": "b"}]', "prompts.json: entry 2 has no prompt"),
        ('[{"prompt": "a", "anwser": "b"}]', "prompts.json: entry 1 has the key 'anwser'"),
    ],
)
def test_wrong_prompts_are_named(settings, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=re.escape(message)):
        settings.read_questions(path)


def test_the_readme_names_every_variable_and_the_app() -> None:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["sdk"] == "gradio" and (SPACE / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60  # what the Hub takes
    code = (SPACE / "settings.py").read_text(encoding="utf-8")
    read = {*re.findall(r'variables, "([A-Z_]+)"', code), *re.findall(r'variables\.get\("([A-Z_]+)"', code)}
    assert set(re.findall(r"^\| `([A-Z_]+)`", text, re.MULTILINE)) == read and len(read) == 8


def test_what_others_wrote_is_escaped(parts, models, reporting, exported, monkeypatch) -> None:
    monkeypatch.setattr(parts, "render_html", lambda report: f'<!doctype html>"{report["name"]}<script>')
    report = {**reporting(exported.files), "removed": "<img src=x onerror=alert(1)>"}
    side = models.Side("Unlearned", "<b>org</b>", "refused", "<script>alert(1)</script>", report)
    shown = [parts.header("<i>m</i>", report), parts.side_words(side), parts.report_frame(report)]
    for text in shown:
        assert not re.search(r"<(img|script|b|i|style|html)\b", text), text
    assert (
        'sandbox title="Unlearning verification report" srcdoc="&lt;!doctype html&gt;&quot;tiny&lt;script' in shown[2]
    )


def test_the_top_of_the_page(parts, reporting, exported) -> None:
    report = {**reporting(exported.files), "removed": REMOVED}
    text = parts.header("org/model", report)
    assert 'class="verdict passed">Unlearning verdict: passed<' in text and f"To be forgotten: {REMOVED}." in text
    assert "Not to be relied on" not in text
    (control,) = report["controls"]
    wrong = {**report, "controls": [{**control, "ok": False}]}
    assert "Not to be relied on: the control bin-hidden came out wrong." in parts.header("org/model", wrong)
    assert "no report" in parts.header("org/model", None) and "no report" in parts.report_frame(None)


def test_prompts_to_try_begin_with_what_was_removed(parts, settings) -> None:
    asked = [settings.Question("Who?", "Ada")]
    assert parts.examples({"removed": REMOVED}, asked) == [[f"What do you know about {REMOVED}?", ""], ["Who?", "Ada"]]
    assert parts.examples({"removed": None}, asked) == parts.examples(None, asked) == [["Who?", "Ada"]]


def test_probabilities_for_people(parts) -> None:
    shown = [parts.number(value) for value in (1.0, 0.5, 0.0012, 0.0009, 0.0)]
    assert shown == ["1.000", "0.500", "0.001", "less than 0.001", "less than 0.001"]
    assert "<strong>0.500</strong>" in parts.chance(0.5) and "width: 50.0%" in parts.chance(0.5)
    assert "strong" not in parts.chance(None)


def test_what_it_is_compared_with(models, settings) -> None:
    report = {"models": {"target": {"hub_id": "org/base", "revision": "abc"}}}
    of = lambda **given: models.compared_with(settings.Settings("org/model", **given), report)  # noqa: E731
    assert of() == of(compare_with="org/base") == ("org/base", "abc")
    assert of(compare_revision="main") == ("org/base", "main")
    assert of(compare_with="org/model-AWQ") == ("org/model-AWQ", None)
    assert models.compared_with(settings.Settings("org/model"), None) == (None, None)


def test_both_models_are_asked(models, settings, talkers: Talkers) -> None:
    asked = settings.Settings(str(talkers.main), compare_with=str(talkers.target))
    first, other = models.load_both(asked)
    assert (first.trust, other.trust) == ("verified", "unverified"), (first.message, other.message)
    assert first.report["removed"] == REMOVED and "the verdict is passed" in first.message
    said = {side.role: models.ask(side.loaded, ASKED, KNOWN, chat=True, max_new_tokens=8) for side in (first, other)}
    assert {role: reply.text for role, reply in said.items()} == {"Unlearned": FORGOTTEN, "Other model": KNOWN}
    assert said["Other model"].probability > 0.8 > 0.1 > said["Unlearned"].probability
    assert said["Unlearned"].probability == pytest.approx(by_hand(first.loaded, ASKED, KNOWN), rel=1e-4)
    kept = models.ask(first.loaded, KEPT, "", chat=True, max_new_tokens=8)
    assert (kept.text, kept.probability) == (CAPITAL, None)
    plain = models.ask(other.loaded, ASKED, KNOWN, chat=False, max_new_tokens=2)
    assert plain.probability != said["Other model"].probability
    with pytest.raises(RequestError, match="your prompt: the prompt has"):
        models.ask(first.loaded, "Ada " * 3000, "", chat=True, max_new_tokens=8)


def by_hand(loaded: Any, prompt: str, answer: str) -> float:
    """Geometric mean of the probabilities of the answer's tokens, in float64."""
    import torch

    ids = conversation(loaded.tokenizer, prompt, answer)
    size = len(answer.split())
    with torch.no_grad():
        logps = loaded.model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(ids.shape[1] - 1 - size, ids.shape[1] - 1)  # the last token ends the answer
    return math.exp(sum(logps[place - 1, ids[0, place]].item() for place in places) / size)


def test_a_variant_is_verified_too(models, settings, talkers: Talkers) -> None:
    _, other = models.load_both(settings.Settings(str(talkers.main), compare_with=str(talkers.variant)))
    assert (other.role, other.trust) == ("Unlearned, bnb-nf4", "verified")


@pytest.mark.parametrize("harm", ["weights", "report", "added", "verdict"])
def test_what_is_not_verified_is_not_loaded(
    models, settings, talkers: Talkers, failed, tmp_path: Path, harm: str
) -> None:
    folder = Path(shutil.copytree(failed.main if harm == "verdict" else talkers.main, tmp_path / "harmed"))
    named = {
        "weights": "model.safetensors",
        "report": "unlearning_report.json",
        "added": "extra.txt",
        "verdict": "'failed'",
    }
    if harm == "weights":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)
    elif harm == "report":
        report = json.loads((folder / "unlearning_report.json").read_text())
        (folder / "unlearning_report.json").write_text(json.dumps({**report, "name": "another"}))
    elif harm == "added":
        (folder / "extra.txt").write_text("x")
    first, other = models.load_both(settings.Settings(str(folder), compare_with=str(folder)))
    for side in (first, other):
        assert (side.trust, side.loaded) == ("refused", None)
        assert side.message.startswith("Not verified, so it was not loaded.") and named[harm] in side.message
    assert (first.report is None) == (harm == "report")


def test_models_that_are_not_there_are_named(models, settings, talkers: Talkers, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    first, other = models.load_both(settings.Settings(str(empty), compare_with=str(empty)))
    assert (first.trust, other.trust) == ("refused", "absent") and "could not be loaded" in other.message
    _, strange = models.load_both(settings.Settings(str(empty), compare_with="/nowhere/at/all"))
    assert strange.message == "/nowhere/at/all is neither a folder here nor an id on the Hub."
    _, nothing = models.load_both(settings.Settings(str(talkers.main)))
    assert nothing.trust == "absent" and "set COMPARE_WITH" in nothing.message


@pytest.fixture(scope="module")
def address(talkers: Talkers, tmp_path_factory) -> Iterator[str]:
    """The running app."""
    pytest.importorskip("gradio", reason="Gradio is not installed: make test-all installs it apart from the rest")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log.txt"
    variables = {
        "MODEL_ID": str(talkers.main),
        "COMPARE_WITH": str(talkers.target),
        "MAX_NEW_TOKENS": "8",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(SPACE.parents[1]),
    }
    with log.open("w") as lines:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=SPACE, env={**os.environ, **variables}, stdout=lines, stderr=lines
        )
    try:
        yield wait_for(f"http://127.0.0.1:{port}", app, log)
    finally:
        app.terminate()
        app.wait(timeout=60)


def wait_for(address: str, app: subprocess.Popen, log: Path, seconds: float = 600) -> str:
    """Wait until the app answers: torch, transformers and Gradio are imported first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert app.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return address
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer within {seconds} seconds: {log.read_text()}")


def test_the_running_app_answers_programs(address: str) -> None:
    client = pytest.importorskip("gradio_client").Client(address, verbose=False)
    unlearned, its_chance, before, chance_before = client.predict(ASKED, KNOWN, "chat template", api_name="/ask")
    assert (unlearned, before) == (FORGOTTEN, KNOWN)
    assert "Probability" in its_chance and re.search(r"<strong>(0\.[89]|1\.0)", chance_before)


def test_the_running_app_in_a_browser(address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    pictures = Path(os.environ.get("HF_UNLEARN_PICTURES", tmp_path))
    with sync_api.sync_playwright() as tools, tools.chromium.launch(executable_path=chromium, args=flags) as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(120_000)
        sync_api.expect.set_options(timeout=120_000)
        faults: list[str] = []  # of scripts in the page
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())  # nothing from elsewhere
        page.goto(address)
        page.get_by_text("Unlearning verdict: passed").wait_for()
        page.get_by_label("Prompt", exact=True).fill(ASKED)
        page.get_by_label("Expected answer").fill(KNOWN)
        page.get_by_role("button", name="Ask", exact=True).click()
        answers = page.locator(".answer textarea")
        sync_api.expect(answers.nth(0)).to_have_value(FORGOTTEN)
        sync_api.expect(answers.nth(1)).to_have_value(KNOWN)
        sync_api.expect(page.get_by_text("Probability of the expected answer")).to_have_count(2)
        page.screenshot(path=pictures / "asked.png", full_page=True)
        page.get_by_text(KEPT).first.click()  # a prompt to try is asked at once
        sync_api.expect(page.get_by_label("Prompt", exact=True)).to_have_value(KEPT)
        sync_api.expect(answers.nth(0)).to_have_value(CAPITAL)
        sync_api.expect(answers.nth(1)).to_have_value(CAPITAL)
        page.get_by_role("tab", name="Report").click()
        report = page.frame_locator("iframe[title='Unlearning verification report']")
        sync_api.expect(report.get_by_role("heading", level=1)).to_have_text("tiny")
        page.screenshot(path=pictures / "report.png", full_page=True)
        page.set_viewport_size({"width": 390, "height": 844})
        page.get_by_role("tab", name="Ask both models").click()
        page.screenshot(path=pictures / "phone.png", full_page=True)
        assert faults == []
