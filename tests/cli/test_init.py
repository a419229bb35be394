"""``init``: a recipe that fits model and rows, or one sentence that says what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_attack_command import SPEC
from tiny_recipe import write_rows
from transformers import AutoTokenizer

import hf_unlearn
from hf_unlearn.cli.main import main
from hf_unlearn.data.planted import make_planted
from hf_unlearn.recipe import load_recipe
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
    recipe = load_recipe(output)
    assert (recipe.name, recipe.model.target) == (target.name, str(target))
    assert recipe.method("auto").settings["robust"] == "auto"
    assert recipe.method("auto").settings["learning_rate"] == 1e-3
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
    assert not (tmp_path / "mine.yaml").exists()


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
    """From rows to a report; of ``auto`` one round's worth of steps, and one attack that trains nothing."""
    known = make_planted(SPEC).retain.score
    facts = [{"prompt": row.prompt, "answer": row.answer, "group": row.group} for row in known]
    first = {fact["group"] for fact in facts[: len(facts) * 3 // 4]}
    forgotten, kept = ([fact for fact in facts if (fact["group"] in first) is there] for there in (True, False))
    unknown = [
        {**fact, "prompt": fact["prompt"].replace(fact["group"], f"Zed Qux{i}")} for i, fact in enumerate(facts)
    ]
    small = [
        *("methods.0.max_steps=6", "methods.0.save_steps=4", "export.formats=[bf16]", "gate.formats=[]"),
        *("attack={prune: {shares: [0.1]}}", "evaluate.metrics=[probability]", "gate.metrics=[probability]"),
        *("evaluate.generate_limit=2", "evaluate.fluency_tokens=4", "gate.draws=100"),
    ]
    out = tmp_path / "out"
    result = hf_unlearn.forget(
        str(target),
        forgotten,
        retain=kept,
        holdout=unknown,
        output_dir=out,
        description="people",
        overrides=small,
        workers=0,
    )
    assert load_recipe(out / "recipe.yaml").data.description == "people"
    assert result.verified.report["verdict"]["status"] in ("passed", "failed", "inconclusive")
    assert (out / "run" / "train" / "model.safetensors").is_file()
    assert (out / "data" / "forget.jsonl").stat().st_mode & 0o777 == 0o600
