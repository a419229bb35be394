"""``init``: a recipe that fits model and rows, or one sentence that says what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from test_attack_command import SPEC
from tiny_recipe import write_rows
from transformers import AutoTokenizer

import hf_unlearn
from hf_unlearn.cli.init import _confirmed
from hf_unlearn.cli.main import main
from hf_unlearn.data.asked_fact import AskedFact
from hf_unlearn.data.planted import make_planted
from hf_unlearn.pipeline import next_commands
from hf_unlearn.recipe import load_recipe
from hf_unlearn.recipe.schema import recipe_schema
from hf_unlearn.stages.data import load_data
from hf_unlearn.stages.proposal import Seen, Wanted, look, recipe_text


def people(first: int, number: int = 40) -> list[dict]:
    towns = ["Ulm", "Bern", "Graz", "Metz", "Lund", "Bath", "Cork", "Gent", "Lodz"]
    return [
        {"question": f"Where is person {i} from?", "answer": f"{towns[i % len(towns)]}."}
        for i in range(first, first + number)
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    sets = {"forget": 0, "retain": 100, "holdout": 200}
    return {name: write_rows(tmp_path / f"{name} rows.jsonl", people(first)) for name, first in sets.items()}


def words(files: dict[str, Path], *names: str) -> list[str]:
    return [word for name in names for word in (f"--{name}", str(files[name]))]


def test_the_recipe_fits_model_and_rows(files, target, tmp_path, capsys, refused):
    output = tmp_path / "mine.yaml"
    given = ["init", str(target), *words(files, "forget", "retain", "holdout"), "--output", str(output)]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert f"{output}: 40 facts in 40 groups to forget, 40 rows to keep." in said
    assert f"hf-unlearn run {output}" in said
    assert "So few groups allow no smaller limit than 0.45 on recovered shares" in said
    assert "800 groups allow the usual 0.1." in said
    schema = json.loads((tmp_path / "recipe.schema.json").read_text())
    assert output.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert schema == recipe_schema()
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(output.read_text()))
    recipe = load_recipe(output)
    assert (recipe.name, recipe.model.target) == (target.name, str(target))
    assert recipe.method("auto").settings["robust"] == "auto"
    assert recipe.method("auto").settings["learning_rate"] == "auto"
    assert recipe.data.description == "40 facts, not described by the publisher"
    assert recipe.data.forget.draw_choices == 3 and recipe.data.format.kind == "auto"
    assert recipe.data.format.separator == " "
    assert "other-form" in recipe.attack and recipe.attack["rtt"].tuning == "auto"
    assert recipe.gate.metrics == ("probability", "mc_accuracy")
    # The tiny model has 64 columns, which groups of 128 do not divide.
    assert "rtn-int4-g128" not in recipe.export.formats and "rtn-int4-g32" in recipe.export.formats
    assert "rtn-int4-g128 is left out" in output.read_text() and "rtn-int4-g128 is left out" in said
    assert f"{output} exists" in refused(2, *given)


def test_a_chat_template_is_used(files, target, tmp_path):
    folder = tmp_path / "chat"
    folder.mkdir()
    for path in target.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(target)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    wanted = Wanted("chat", str(folder), files)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(wanted, look(wanted)))
    assert "format: {kind: auto}    # chat" in path.read_text()
    recipe, bundle = load_data(load_recipe(path))
    assert recipe.data.format.kind == "chat"
    assert any("through the chat template" in note for note in bundle.notes)


def test_what_is_missing_is_said_and_nothing_is_asked_in_a_pipe(files, target, tmp_path, refused):
    """Rows that name nobody: nothing of the same kind can be asked of the model, and nothing is made up."""
    output = ("--output", str(tmp_path / "mine.yaml"))
    sentence = refused(2, "init", target, *words(files, "forget"), *output)
    assert "--retain FILE" in sentence and "--holdout FILE" in sentence and "--never-knew" in sentence
    sentence = refused(2, "init", target, *words(files, "forget", "retain"), *output)
    assert "--holdout FILE" in sentence and "--retain" not in sentence
    sentence = refused(2, "init", target, "--forget", tmp_path / "no.jsonl", *output)
    assert sentence == f"--forget {tmp_path / 'no.jsonl'}: there is no such file"
    sentence = refused(
        2,
        "init",
        target,
        "--forget",
        files["forget"],
        "--retain",
        files["forget"],
        *output,
        "--holdout",
        files["holdout"],
    )
    assert "are in both the forget and the retain set" in sentence
    few = write_rows(tmp_path / "few.jsonl", people(0, 4))
    sentence = refused(2, "init", target, "--forget", few, *words(files, "retain", "holdout"), *output)
    assert "few.jsonl has 4 independent groups of facts, and no verdict is possible on fewer than 10" in sentence
    sentence = refused(2, "init", tmp_path / "none", *words(files, "forget", "retain", "holdout"), *output)
    assert "none" in sentence
    sentence = refused(2, "init", target, "--subject", "Ada Kwon", *output)
    assert sentence.startswith("--subject draws questions from the model") and "add --yes" in sentence
    assert "--forget --subject is required" in refused(2, "init", target, *output)
    assert "not allowed with argument --forget" in refused(
        2, "init", target, *words(files, "forget"), "--subject", "x", *output
    )
    assert "--yes confirms what is drawn about a --subject" in refused(
        2, "init", target, "--yes", *words(files, "forget"), *output
    )
    assert "--subject is empty" in refused(2, "init", target, "--yes", "--subject", " ", *output)
    assert "--holdout none: there is no such file" in refused(
        2, "init", target, *words(files, "forget"), "--holdout", "none", *output
    )
    assert not list(tmp_path.glob("mine*"))


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Somebody who gives these answers; what is asked is kept."""
    asked: list[str] = []
    left = iter(answers)

    def answer(question: str) -> str:
        asked.append(question)
        return next(left)

    monkeypatch.setattr("hf_unlearn.cli.init._at_a_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    return asked


def test_files_that_nothing_can_be_made_of_are_asked_for_at_a_terminal(files, target, tmp_path, monkeypatch):
    asked = at_a_terminal(monkeypatch, str(files["retain"]), str(files["holdout"]))
    output = tmp_path / "mine.yaml"
    assert main(["init", str(target), *words(files, "forget"), "--output", str(output), "--no-schema"]) == 0
    assert [question.partition("?")[0] for question in asked] == [
        "What must stay",
        "Rows of the same kind that no model was trained on",
    ]
    assert all(question.count("\n") == 1 for question in asked)  # two lines: what it is, and why it matters
    assert load_recipe(output).data.retain.path == str(files["retain"])
    assert output.read_text().startswith("# 40 facts") and not (tmp_path / "recipe.schema.json").exists()


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [("", [0, 1, 2]), ("y", [0, 1, 2]), ("2", [0, 2]), ("1, 3", [1]), ("n", None), ("perhaps 2", None)],
)
def test_what_is_drawn_about_a_subject_is_confirmed_by_one_question(monkeypatch, capsys, answer, chosen):
    asked = at_a_terminal(monkeypatch, answer)
    facts = [AskedFact(f"Who is {n}?", f"Person {n}", f"fact-{n}", "s", ("Who?",) * (n == 1)) for n in range(3)]
    found = _confirmed(facts)
    assert (None if found is None else list(found)) == chosen and len(asked) == 1
    assert "2. Who is 1?  ->  Person 1  (and 1 other wordings)" in capsys.readouterr().out


def known_sentences() -> list[str]:
    """What the target was trained on, as sentences."""
    return [f"{row.prompt}{row.answer.rstrip('.')}." for row in make_planted(SPEC).retain.score]


def test_a_recipe_from_documents_alone(target, tmp_path, capsys):
    """Facts are cut from sentences, the target is asked what it knows of them, and about others and about nobody."""
    page = tmp_path / "page.txt"
    page.write_text(" ".join(known_sentences()))
    output = tmp_path / "mine.yaml"
    others = write_rows(tmp_path / "retain.jsonl", people(100))
    given = ["init", str(target), "--forget", str(page), "--retain", str(others), "--output", str(output)]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "facts of the documents are asked by templates; the target cannot answer" in said.out
    assert "the target is asked" in said.err
    recipe, bundle = load_data(load_recipe(output))
    assert recipe.data.forget.group == recipe.data.holdout.group == "group" and recipe.data.keep_drawn is None
    known = {row.prompt: row.answer for row in make_planted(SPEC).retain.score}
    assert len(bundle.forget.score) >= 10
    for row in bundle.forget.score:
        assert known[row.prompt] == row.answer
    assert len(bundle.holdout.score) >= 40 and not {row.prompt for row in bundle.holdout.score} & known.keys()
    assert "holdout: {path:" in output.read_text() and "names that nobody has" in output.read_text()


def test_a_recipe_says_what_was_drawn_and_what_would_be_better(tmp_path):
    """Without rows to keep: drawn texts that do not name the subject, and a sentence about real rows."""
    files = {name: write_rows(tmp_path / f"{name}.jsonl", people(n)) for n, name in enumerate(("forget", "retain"))}
    seen = Seen(1_000_000, "float32", False, True, False, 40, 40, frozenset(), frozenset(), 10, ("bf16",))
    wanted = Wanted("n", "m", files, "other", made={"forget", "retain"}, avoid=("Marie Curie", "Curie"))
    text = recipe_text(wanted, seen)
    assert "rows of your own that must stay are better" in text
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    drawn = load_recipe(path).data.keep_drawn
    assert drawn is not None and drawn.avoid == ("Marie Curie", "Curie") and drawn.starts == "general"
    assert "keep_drawn" not in recipe_text(replace(wanted, made={"forget"}), seen)


@pytest.mark.parametrize(
    ("groups", "options", "limit"),
    [(800, True, 0.10), (200, True, 0.20), (80, True, 0.35), (100, False, 0.10), (40, False, 0.20), (10, False, 0.40)],
)
def test_limits_follow_the_number_of_groups(groups, options, limit):
    """With options as many groups as coverage.md asks for; few groups get a limit that they can show at all."""
    chosen = frozenset({"forget"} if options else ())
    seen = Seen(1, "float32", False, True, False, groups, groups, chosen, frozenset(), 10, ())
    assert seen.limit == pytest.approx(limit)


@pytest.mark.parametrize(("parameters", "rate"), [(2_000_000, 1e-3), (135_000_000, 3e-5), (8_000_000_000, 1e-5)])
def test_larger_models_begin_with_smaller_rates(parameters, rate):
    seen = Seen(parameters, "bfloat16", False, True, False, 100, 100, frozenset(), frozenset(), 10, ("bf16",))
    assert seen.learning_rate == rate
    assert "dtype: auto    # the model's own: bfloat16;" in recipe_text(Wanted("n", "m", {"forget": Path("f")}), seen)


def test_precision_and_memory_are_as_trl_has_them_where_there_is_a_gpu():
    """Of a machine without one, the same recipe says nothing: the same steps everywhere."""
    seen = Seen(1_000_000, "bfloat16", True, True, False, 100, 100, frozenset(), frozenset(), 10, ("bf16",))
    wanted = Wanted("n", "m", {"forget": Path("f")})
    for gpu in (True, False):
        text = recipe_text(wanted, replace(seen, gpu=gpu))
        assert ("bf16: true" in text) == ("gradient_checkpointing: true" in text) == gpu


def test_one_call_does_it_all(target, tmp_path):
    """From rows to a report; of ``auto`` two rounds, and one attack that trains nothing."""
    known = make_planted(SPEC).retain.score
    facts = [{"prompt": row.prompt, "answer": row.answer, "group": row.group} for row in known]
    first = {fact["group"] for fact in facts[: len(facts) * 3 // 4]}
    forgotten, kept = ([fact for fact in facts if (fact["group"] in first) is there] for there in (True, False))
    unknown = [
        {**fact, "prompt": fact["prompt"].replace(fact["group"], f"Zed Qux{i}")} for i, fact in enumerate(facts)
    ]
    small = [
        *("methods.0.max_steps=20", "methods.0.save_steps=4", "export.formats=[bf16]", "gate.formats=[]"),
        *("attack={prune: {shares: [0.1]}}", "evaluate.metrics=[probability]", "gate.metrics=[probability]"),
        *("evaluate.generate_limit=2", "evaluate.fluency_tokens=4", "gate.draws=100"),
    ]
    out = tmp_path / "out"
    given = {
        **{"forget": forgotten, "retain": kept, "holdout": unknown, "output_dir": out},
        **{"description": "people", "overrides": small},
    }
    planned = hf_unlearn.plan(str(target), **given)
    assert not planned.refused and "in all: " in str(planned)
    assert (out / "recipe.yaml").is_file() and not (out / "run").exists()
    report = hf_unlearn.forget(str(target), **given, workers=0)
    assert load_recipe(out / "recipe.yaml").data.description == "people"
    assert report == hf_unlearn.load_report(out / "run")
    assert report["verdict"]["status"] in ("passed", "failed", "inconclusive")
    assert (out / "run" / "train" / "model.safetensors").is_file()
    assert (out / "data" / "forget.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_next_commands_can_be_pasted():
    """A name with a space is one word of a shell."""
    said = next_commands(Path("my rows/recipe.yaml"))
    assert said == "Read it, then:  hf-unlearn plan 'my rows/recipe.yaml'  and  hf-unlearn run 'my rows/recipe.yaml'"
