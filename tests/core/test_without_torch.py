"""What answers at once: lists, help and misspelled recipes import neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hf_unlearn.cli.listing import LISTS
from hf_unlearn.recipe.method_settings import _hints, method_settings
from hf_unlearn.recipe.setting_names import declared_settings, fit, is_enum
from hf_unlearn.registry import Registry
from hf_unlearn.registry_index import indexed_entries
from hf_unlearn.trainer.config import UnlearnConfig

SLOW = ("torch", "transformers", "accelerate", "peft", "datasets")
SCRIPT = f"""
import sys
from hf_unlearn.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print("imported:", sorted(set({SLOW!r}) & sys.modules.keys()))
sys.exit(code)
"""
RECIPE = """\
name: mine
model: {target: my-org/my-model}
data:
  forget: {path: forget.jsonl}
  retain: {path: retain.jsonl}
methods:
  - {name: auto, robust: auto, learning_rate: auto}
controls:
  - {name: hides, kind: bin_hidden, expected: failed, settings: {max_steps: 5}}
export: {formats: [bnb-nf4]}
attack: {tier: quick}
"""


def ended(*words: str, cwd: Path) -> tuple[int, str, str]:
    """Exit code, what was said, and what was imported, of a command in a process of its own."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False, cwd=cwd)
    said, _, imported = done.stdout.rpartition("imported: ")
    return done.returncode, said + done.stderr, imported.strip()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--version",
        "--help",
        "run --help",
        "list",
        "list --json",
        *(f"list {what}" for what in LISTS if what != "suites"),
        "accelerate-config",
    ],
)
def test_what_only_tells_what_there_is(words, tmp_path):
    code, said, imported = ended(*words.split(), cwd=tmp_path)
    assert (code, imported) == (0, "[]") and said


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("export:", "output_dir: x\nexport:", "'output_dir': that is the option --output-dir DIR of the command line"),
        ("export:", "exprot:", "unknown key 'exprot': did you mean 'export'?"),
        ("model: {target", "model: {taget", "unknown key 'model.taget': did you mean 'target'?"),
        ("learning_rate: auto", "lr: 1e-5", "unknown key 'methods.0.lr': did you mean 'learning_rate'?"),
        ("learning_rate: auto", "max_steps: six", "methods.0: max_steps is 'six'"),
        ("learning_rate: auto", "weight_decay: -1", "methods.0: weight_decay is -1.0, it must be a number of at"),
        ("learning_rate: auto", "loss_type: npoo", "no forget loss called 'npoo': did you mean 'npo'?"),
        ("learning_rate: auto", "retain_loss_type: kll", "no retain loss called 'kll': did you mean 'kl'?"),
        ("robust: auto", "robust: [sre]", "no robust part called 'sre': did you mean 'sure'?"),
        (
            "robust: auto",
            "robust: [{name: sure, percentil: 9}]",
            "no parameter 'percentil': did you mean 'percentile'?",
        ),
        ("settings: {max_steps", "settings: {max_stesp", "unknown key 'controls.0.settings.max_stesp'"),
        ("[bnb-nf4]", "[awq]", "no format called 'awq': did you mean one of awq-int4-g128, awq-int4-g32?"),
        ("[bnb-nf4]", "[gptq-int4@foo]", "the part after @ must be the calibration text"),
        ("tier: quick", "tier: quik", "there is no tier called 'quik': did you mean 'quick'?"),
        ("tier: quick", "rrt: {}", "there is no attack called 'rrt': did you mean 'rtt'?"),
    ],
)
def test_a_misspelled_recipe(right, wrong, message, tmp_path):
    assert RECIPE.count(right) == 1
    (tmp_path / "mine.yaml").write_text(RECIPE.replace(right, wrong))
    code, said, imported = ended("run", "mine.yaml", cwd=tmp_path)
    assert (code, imported) == (2, "[]")
    assert message in said


def registries() -> list[Registry]:
    from hf_unlearn.controls import CONTROLS
    from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES
    from hf_unlearn.quantization import FORMATS
    from hf_unlearn.robust import ROBUST

    return [FORGET_LOSSES, RETAIN_LOSSES, ROBUST, CONTROLS, FORMATS]


@pytest.mark.parametrize("registry", registries(), ids=lambda registry: registry.kind)
def test_the_index_is_what_is_registered(registry):
    """If not: python docs/tables.py --write."""
    registry.entries()
    registered = json.loads(json.dumps(registry.described()))
    assert indexed_entries(registry.kind, registry.modules) == registered


def test_a_module_that_the_index_does_not_know_is_read():
    (loss, *_) = registries()
    assert indexed_entries(loss.kind, [*loss.modules, "hf_unlearn.losses.forget.mine"]) is None


def test_what_is_registered_beside_the_index_is_there(tmp_path):
    script = (
        "import sys\\nfrom hf_unlearn.losses import FORGET_LOSSES\\n"
        "FORGET_LOSSES.register('mine', summary='of my own')(object)\\n"
        "assert 'torch' not in sys.modules and {'mine', 'npo'} <= set(FORGET_LOSSES.names())\\n"
        "assert 'torch' not in sys.modules and FORGET_LOSSES.get('mine').value is object\\n"
        "assert FORGET_LOSSES.get('npo').value.__name__ == 'NPOLoss' and 'torch' in sys.modules\\n"
    ).replace("\\n", "\n")
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0


def test_settings_are_those_of_the_class():
    assert declared_settings().keys() == method_settings().keys()


def test_types_of_settings_are_those_of_the_class():
    """A type that is told from the source accepts and refuses what the class's own type does."""
    hints, told = _hints(), {name: hint for name, hint in declared_settings().items() if hint is not None}
    assert len(told) > len(method_settings()) / 2
    for name, hint in told.items():
        assert not is_enum(hints[name])
        for value in ("six", "1", 1, 0.5, True, None, ["a"], {"a": 1}):
            outcomes = []
            for kind in (hint, hints[name]):
                try:
                    outcomes.append(fit(name, value, kind))
                except Exception as error:
                    outcomes.append(str(error))
            assert outcomes[0] == outcomes[1], (name, value)


def test_every_default_of_a_setting_has_the_type_that_is_told():
    for field in fields(UnlearnConfig):
        hint = declared_settings().get(field.name)
        if hint is not None and isinstance(field.default, str | int | float | bool):
            assert fit(field.name, field.default, hint) == field.default
