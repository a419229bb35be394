"""What a release holds: links that work on the package index, types, and data."""

import configparser
import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("build_step", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("[a](docs/a.md)", "[a](https://x.org/o/r/blob/v1/docs/a.md)"),
        ("[a](docs/a.md#b)", "[a](https://x.org/o/r/blob/v1/docs/a.md#b)"),
        ("![a](docs/a.png)", "![a](https://x.org/o/r/raw/v1/docs/a.png)"),
        ("[![a](a.png)](b.md)", "[![a](https://x.org/o/r/raw/v1/a.png)](https://x.org/o/r/blob/v1/b.md)"),
        ("[`a`](LICENSE), [b](#b)", "[`a`](https://x.org/o/r/blob/v1/LICENSE), [b](#b)"),
        ("[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
    ],
)
def test_links_to_files_become_addresses(step, given, wanted):
    assert step.for_the_index(given, "https://x.org/o/r", "v1") == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("see [a](docs/a.md).", "see a."),
        ("[![words](a.png)](b.md) after", " after"),
        ("![a](https://x.org/a.png) [`b`](LICENSE)", "![a](https://x.org/a.png) `b`"),
        ("[a](https://arxiv.org/abs/1) [b](#b)", "[a](https://arxiv.org/abs/1) [b](#b)"),
    ],
)
def test_links_to_files_become_words_without_an_address(step, given, wanted):
    assert step.for_the_index(given, None, "v1") == wanted


@pytest.mark.parametrize("home", ["https://x.org/o/r", None])
def test_every_link_of_the_readme_leads_somewhere_on_the_index(step, home):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    whole = step.for_the_index(text, home, "v1")
    targets = [found["target"] for found in step._LINK.finditer(whole)]
    assert targets and all(target.startswith(step._ELSEWHERE) for target in targets)
    assert not [line for line in whole.splitlines() if 'src="' in line and 'src="http' not in line]


def test_the_address_is_set_in_one_place_or_comes_from_who_publishes(step, monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    (tmp_path / "hf_unlearn").mkdir()
    version = tmp_path / "hf_unlearn" / "version.py"
    monkeypatch.setattr(step, "ROOT", tmp_path)
    version.write_text('REPOSITORY = ""')
    assert step.repository() is None
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://x.org")
    assert step.repository() == "https://x.org/o/r"
    version.write_text('REPOSITORY = "https://y.org/p/q/"')
    assert step.repository() == "https://y.org/p/q"


def test_a_wheel_holds_the_types_marker_and_all_data():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = [each.strip() for each in settings["options.package_data"]["hf_unlearn"].split(",")]
    package = ROOT / "hf_unlearn"
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert package / "py.typed" in taken
    assert [path for path in files - taken if path.suffix != ".py"] == []


def test_nothing_is_published_that_was_not_tried():
    jobs = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["publish"]["needs"] == "try" and jobs["try"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
