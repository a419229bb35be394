"""Calibration in a recipe: what is refused before anything is trained, and what a run keeps and records."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from tiny_recipe import TINY, line_of, run, write_rows

from hf_unlearn.errors import MissingExtraError
from hf_unlearn.quantization import FORMATS
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.calibration import choose_calibrations
from hf_unlearn.stages.context import RunContext, Subject
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.evaluate import evaluation_unit
from hf_unlearn.stages.units import fingerprint

AWQ = "awq-int4-g32"


@pytest.fixture(autouse=True)
def with_gptqmodel():
    try:
        FORMATS.get(AWQ).value().check_available()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def calibrated(recipe):
    """The tiny recipe with a calibrated format."""
    recipe.write_text(TINY.replace("formats: [bnb-nf4]", f"formats: [{AWQ}]"))
    return recipe


def nothing_was_trained(folder) -> bool:
    return not list(folder.rglob("*.safetensors"))


def test_a_recipe_without_ordinary_text_names_line_and_mend(recipe, refused, tmp_path):
    rows = [{"prompt": f"Who is number {n}?", "answer": f" Nobody but {n}."} for n in range(8)]
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", rows[at : at + 4]) for name, at in (("f", 0), ("r", 4))}
    data = f"  forget: {{path: {paths['f']}}}\n  retain: {{path: {paths['r']}}}\n"
    text = TINY[: TINY.index("  max_length")] + data + TINY[TINY.index("methods:") :]
    recipe.write_text(text.replace("formats: [bnb-nf4]", f"formats: [bnb-nf4, {AWQ}]"))
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run")
    where = f"{recipe}:{line_of(recipe.read_text(), 'formats:')}"
    assert sentence == (
        f"{where}: export.formats: {AWQ} is calibrated on ordinary text, and the recipe names none: add data.generic, "
        "or name a text in export.calibration.source"
    )


def test_text_that_is_the_forget_set_is_refused_before_training(calibrated, refused, tmp_path):
    forget = load_bundle(load_recipe(calibrated)).forget.train
    path = write_rows(tmp_path / "mistake.jsonl", [{"text": row.text} for row in forget])
    override = f"export.calibration.source.path={path}"
    sentence = refused(2, "run", calibrated, "--output-dir", tmp_path / "run", override)
    assert "48 of 48 rows of the calibration text (a local file) repeat the forget set: set another" in sentence
    assert nothing_was_trained(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "export.calibration.source: {path} holds no rows for the calibration set"),
        ("Short.\nShorter.\n", "no row of the calibration text (a local file) is left: of 2 rows 0 are scored too"),
    ],
)
def test_empty_text_is_refused_before_training(content, message, calibrated, refused, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(content)
    override = f"export.calibration.source.path={path}"
    sentence = refused(2, "run", calibrated, "--output-dir", tmp_path / "run", override)
    assert message.format(path=path) in sentence  # beside that the format does not fit the tiny model
    assert nothing_was_trained(tmp_path / "run")


@pytest.mark.usefixtures("finished")  # which has built the models
def test_too_short_text_is_refused_before_anything_is_unlearned(calibrated, refused, tmp_path):
    words = (calibrated, "--output-dir", tmp_path / "run", "--workers", 0, "export.calibration.rows=2")
    sentence = refused(2, "run", *words)
    assert "tokens in 2 rows, and 128 are needed (as many as the widest layer has inputs)" in sentence
    assert not (tmp_path / "run" / "train").exists()


def test_values_out_of_range_and_unknown_choices_name_their_line(calibrated, refused, tmp_path):
    base = calibrated.read_text()
    for given, message in (
        ("calibration: {rows: 0}", "export.calibration.rows is 0: it must be at least 1"),
        ("calibration: {kind: forget}", "export.calibration.kind cannot be 'forget': did you mean 'forget-aware'?"),
        ("calibration: {tokens: 5}", "unknown key 'export.calibration.tokens'"),
    ):
        calibrated.write_text(base.replace("evaluate:\n", f"  {given}\nevaluate:\n", 1))
        sentence = refused(2, "run", calibrated, "--output-dir", tmp_path / "run")
        assert sentence.startswith(f"{calibrated}:{line_of(calibrated.read_text(), 'calibration:')}: {message}")


def test_short_names_are_the_usual_group_size_everywhere(recipe):
    recipe.write_text(
        TINY.replace("formats: [bnb-nf4]", "formats: [gptq-int4, awq-int4@forget-aware]").replace(
            "gate:\n", "gate:\n  formats: [awq-int4@forget-aware]\n"
        )
    )
    parsed = load_recipe(recipe)
    assert parsed.export.formats == ("gptq-int4-g128", "awq-int4-g128@forget-aware")
    assert parsed.gate.formats == ("awq-int4-g128@forget-aware",)
    chosen = choose_calibrations(parsed, load_bundle(parsed))
    assert {name: item.kind for name, item in chosen.items()} == {
        "gptq-int4-g128": "generic",
        "awq-int4-g128@forget-aware": "forget-aware",
    }


def test_the_same_format_twice_is_refused_under_its_full_name(recipe, refused, tmp_path):
    recipe.write_text(TINY.replace("formats: [bnb-nf4]", "formats: [gptq-int4, gptq-int4-g128]"))
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run")
    assert sentence.endswith("export.formats names 'gptq-int4-g128' twice: remove one")


def test_another_text_makes_calibrated_formats_again_and_no_others(calibrated, tmp_path):
    calibrated.write_text(calibrated.read_text().replace(f"[{AWQ}]", f"[bnb-nf4, {AWQ}, {AWQ}@forget-aware]"))
    rows = [{"text": f"Number {n} is the one after {n - 1}, as always."} for n in range(60)]
    sources = [f"export.calibration.source.path={write_rows(tmp_path / 'text.jsonl', rows)}"]
    target = Subject("target", "target", tmp_path, "digest")

    def inputs(overrides):
        recipe = load_recipe(calibrated, overrides)
        context = RunContext(recipe, tmp_path, load_bundle(recipe), Workers(0), Progress(Console(quiet=True)))
        made = {name: context.export_unit(target, name).inputs for name in recipe.export.formats}
        scored = {
            name: evaluation_unit(context, target, target, name, context.bundle.scored_sets()).inputs for name in made
        }
        return {name: (fingerprint(made[name]), fingerprint(scored[name])) for name in made}

    first, other = inputs([]), inputs(sources)
    assert first == inputs([])
    assert first["bnb-nf4"] == other["bnb-nf4"]
    for name in (AWQ, f"{AWQ}@forget-aware"):
        assert all(a != b for a, b in zip(first[name], other[name], strict=True))
    write_rows(tmp_path / "text.jsonl", rows[1:])
    assert inputs(sources)[AWQ] != other[AWQ], "the file's text counts, not its name"


@pytest.mark.slow
def test_both_texts_in_one_run(calibrated, tmp_path):
    folder, aware = tmp_path / "run", f"{AWQ}@forget-aware"
    # One head, because AWQ needs outputs in multiples of 64.
    text = calibrated.read_text().replace("heads: 2", "heads: 1")
    calibrated.write_text(text.replace(f"[{AWQ}]", f"[bnb-nf4, {AWQ}, {aware}]"))
    for stage in ("train", "export", "evaluate"):
        assert run(calibrated, folder, command=stage) == 0
    infos = {name: json.loads((folder / "export" / name / "export.json").read_text()) for name in (AWQ, aware)}
    kinds = {name: (info["calibration"]["kind"], info["calibration"]["forget_rows"]) for name, info in infos.items()}
    assert kinds == {AWQ: ("generic", 0), aware: ("forget-aware", 48)}
    weights = [(folder / "export" / name / "model.safetensors").read_bytes() for name in (AWQ, aware)]
    assert weights[0] != weights[1]
