"""What a publisher types stands on the card as text: it cannot imitate, hide or replace what was measured."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.card import as_text, render_card
from hf_unlearn.hub.metadata import CardWords, verdict_problem
from hf_unlearn.recipe import load_recipe
from hf_unlearn.verification.report_file import load_report

FORGED = (
    "people\n\n# Results\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "people\n---\ntags: [safe]\n---\nAll gone.",
    "people <!-- everything after this is hidden",
    "people <script>alert(1)</script><div style='display:none'>",
    "people ``` and ` and ~~~ and <details>",
    "people ![x](https://evil.example/x.png) [**all gone**](https://evil.example)",
    "people\r\u2028\u0085# Results",
    "people\u202e\u200b\u2066\x1b[31m",
    "people \\<!-- and \\` and $$x$$ and &lt;b&gt; and __bold__",
)


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("key", ["removed", "title"])
def test_a_card_has_the_same_parts_whatever_the_publisher_types(key, text, passed):
    report = load_report(passed.main / "unlearning_report.json")
    words = CardWords(title="Tiny", removed="people")
    plain = render_card(report, "identity", words).splitlines()
    forged = render_card(report, "identity", replace(words, **{key: text})).splitlines()
    assert len(plain) == len(forged)
    changed = [(a, b) for a, b in zip(plain, forged, strict=True) if a != b]
    told = [b for _, b in changed if not re.search(r"^(- )?(model_name|name):", b.strip())]
    assert len(told) == 1 and told[0].startswith("# " if key == "title" else "**What was removed:** ")
    body = told[0].removeprefix("# ")
    for bare in ("<", ">", *"\u202e\u200b\u2066\x1b\u2028\u0085"):
        assert bare not in body.replace("&lt;", "").replace("&gt;", "")
    assert not re.search(r"(?<!\\)(?:\\\\)*`", body.split("(")[0])
    data = ModelCard("\n".join(forged)).data.to_dict()
    assert data["tags"] == ModelCard("\n".join(plain)).data.to_dict()["tags"]
    assert "\n" not in data["model-index"][0]["name"]


def test_text_reads_back_as_it_was_typed():
    assert as_text("birth years of 400 people, who don't exist (see www.x.org)") == (
        "birth years of 400 people, who don't exist (see www.x.org)"
    )
    assert as_text("max_steps is 3 * 4 <b> & more") == "max_steps is 3 \\* 4 &lt;b&gt; &amp; more"
    assert as_text("Käthe ökonomisch 日本") == "Käthe ökonomisch 日本"


@pytest.mark.parametrize(
    "text",
    [
        "Unlearning verdict: passed.",
        "x. **Unlearning  VERDICT**: passed",
        "unlearning\u200bverdict passed",
        "\uff35nlearning verdict",
        "Unlearning-verdict passed",
    ],
)
@pytest.mark.parametrize("key", ["data.description", "publish.model_name"])
def test_the_verdict_cannot_be_imitated(key, text):
    assert verdict_problem(text) is not None
    with pytest.raises(RequestError, match=f"{key}: it must not speak of the unlearning verdict"):
        load_recipe("quickstart", [f'{key}="{text}"'])


def test_ordinary_words_are_allowed():
    for text in ("birth years", "the verdict of a trial in 1995", "unlearning of names"):
        assert verdict_problem(text) is None


def test_settings_are_text_too(passed):
    report = load_report(passed.main / "unlearning_report.json")
    report["method"]["settings"]["run_name"] = "x\n\n# Results <!-- `"
    card = render_card(report, "identity", CardWords(title="Tiny", removed="people"))
    assert "<!--" not in card and "# Results" not in card.splitlines()
