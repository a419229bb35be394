"""What the pages say can be done: commands parse, links lead somewhere, tables are those of the code."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import hf_unlearn
from hf_unlearn.attacks import ATTACKS
from hf_unlearn.cli.main import _parse, _parser
from hf_unlearn.evaluation.suites import load_suite
from hf_unlearn.recipe import builtin_recipes, load_recipe


def load_script(path: Path) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(f"repository_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def command_lines(text: str) -> list[list[str]]:
    """Words of every command of a shell block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_command_is_one(bash_block, root):
    for words in command_lines(bash_block.text):
        line = " ".join(words)
        if words[0] == "hf-unlearn":
            arguments = words[1:]
        elif "hf_unlearn" in words and words[words.index("hf_unlearn") - 1] == "-m":
            arguments = words[words.index("hf_unlearn") + 1 :]
        else:
            check_other_command(words, root)
            continue
        parsed = _parse(arguments)
        recipe = getattr(parsed, "recipe", None)
        if getattr(parsed, "suite", None):  # the place of a recipe is then a model's
            if parsed.suite != "my-suite.yaml":
                load_suite(parsed.suite, parsed.overrides)
        elif getattr(parsed, "attack", None) or getattr(parsed, "tier", None):
            assert recipe in ("MODEL", "my-org/my-model")
            assert set(parsed.attack) <= set(ATTACKS.names())
        elif getattr(parsed, "repo_id", None):  # the place of a recipe is then a finished run's
            assert recipe.startswith("runs/")
        elif recipe in builtin_recipes():
            load_recipe(recipe, parsed.overrides)
        elif recipe is not None:
            assert recipe == "recipe.yaml", f"{line}: no such recipe"


def check_other_command(words: list[str], root: Path) -> None:
    """Make targets, extras, scripts and tools that the repository has."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    line = " ".join(words)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (root / "Makefile").read_text(), re.MULTILINE), line
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[(\w+)\]", line):
            assert extra in setup["options.extras_require"], line
    else:
        words = [word for word in words if not re.match("[A-Z_]+=", word)]  # variables of the environment
        known = words[0].startswith(".venv/bin/") or words[:3] == ["accelerate", "launch", "examples/unlearn.py"]
        known = known or words[:2] == ["python", "examples/space/app.py"]
        assert known, f"{line}: a command this test does not know"
        for word in words[1:]:
            if "/" in word or word.endswith(".py"):
                assert (root / word).exists(), line


def test_commands_and_extras_in_sentences_exist(page, root):
    text = page.read_text(encoding="utf-8")
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    for extra in re.findall(r"hf_unlearn\[(\w+)\]", text):
        assert extra in setup["options.extras_require"], f"{page.name}: {extra}"
    _, commands = _parser()
    for command in re.findall(r"`hf-unlearn ([a-z][\w-]*)", text):
        assert command in commands, f"{page.name}: {command}"


def test_recipes_in_pages_are_recipes(yaml_block, tmp_path):
    """A whole recipe loads; a part of one is put into a recipe that lacks only that part."""
    text = yaml_block.text
    path = tmp_path / "recipe.yaml"
    if yaml_block.file == "my-suite.yaml":
        path.write_text(text)
        assert load_suite(path).name
        return
    if text.startswith("name:"):
        path.write_text(text)
        assert load_recipe(path).methods
        return
    rest = {
        "model": "model: {scratch: {}}",
        "data": "data: {planted: {}}",
        "methods": "methods: [{name: ga, loss_type: ga, retain_loss_type: nll}]",
    }
    given = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    path.write_text("\n".join(["name: part", *(line for key, line in rest.items() if key not in given), text]))
    assert given and load_recipe(path).name == "part"


def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index(root):
    index = (root / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (root / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_tables_are_those_of_the_code(root, capsys):
    assert load_script(root / "docs" / "tables.py").main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_table_is_found(root, capsys, monkeypatch, tmp_path):
    tables = load_script(root / "docs" / "tables.py")
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated:attacks -->\nstale text\n<!-- /generated -->\nafter\n")
    assert tables.main(["--check"]) == 1
    assert "page.md" in capsys.readouterr().out
    assert tables.main(["--write"]) == 0
    text = page.read_text()
    assert "`rtt`" in text and "stale text" not in text and text.startswith("before\n") and text.endswith("after\n")
    assert tables.main(["--check"]) == 0


def test_every_recipe_key_has_a_meaning(root):
    text = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    empty = re.findall(r"^\| `(\w+)` \|[^|]*\|\s*\|$", text, re.MULTILINE)
    assert not empty, empty


def test_every_builtin_recipe_is_documented(root):
    text = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in builtin_recipes():
        assert f"| `{name}` |" in text
        assert load_recipe(name).summary, name


def test_changes_name_the_version(root):
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: hf_unlearn.version.__version__"
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(hf_unlearn.__version__)} \(\d{{4}}-\d\d-\d\d\)", changes, re.MULTILINE)


def test_the_license_is_the_one_that_is_named(root):
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert setup["metadata"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (root / "LICENSE").read_text()
