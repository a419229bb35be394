"""YAML that is made to break a reader ends in one sentence with file and line, at once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.recipe import builtin_recipes, load_recipe
from hf_unlearn.runtime.strict_yaml import LARGEST_FILE, override, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 20000 values"),
        (CHAIN, "more than 50 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 50 levels"),
        ("a: " + "{b: " * 5000 + "1" + "}" * 5000, "more than 50 levels"),
        ("a: " + "[" * 5000, "more than 50 levels"),
        ("a: " + "- " * 3000 + "1", "not valid YAML"),
        ("a: &a [*a]", "contains itself"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ("a: 1" + ":59" * 3000, "digits"),
        ('a: "\\0"', "NUL"),
        ('"\\0": 1', "NUL"),
        ('a: "\\ud800"', "surrogate"),
        ("? [a]\n: 1", "a key must be a word"),
        ("? {a: 1}\n: 1", "a key must be a word"),
        ("a: !!python/object/apply:os.system [ls]", "cannot be read"),
        ("a: !!binary '*'", "cannot be read"),
        ("a: !!int x", "cannot be read"),
        ("a: \x01", "not valid YAML"),
    ],
    ids=range(19),
)
def test_what_breaks_readers_is_refused(text: str, said: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(RequestError) as caught:
        read_yaml(path).plain()
    assert time.process_time() - started < 5
    assert said in str(caught.value) and f"{path}:" in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_superscripts_are_text(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text("a: ²\nb: 1e²\nc: [1]\nd: ٣e٤\n", encoding="utf-8")
    tree = read_yaml(path)
    assert tree.plain() == {"a": "²", "b": "1e²", "c": [1], "d": "٣e٤"}
    with pytest.raises(RequestError, match="not a position"):
        override(tree, "c.²=1")


def test_paths_that_cannot_be(tmp_path: Path):
    for path in (Path("a\0b.yaml"), tmp_path / ("x" * 5000), Path("~nosuchuser/x.yaml")):
        with pytest.raises(RequestError):
            read_yaml(path)
    big = tmp_path / "big.yaml"
    big.write_text("#" * (LARGEST_FILE + 1))
    with pytest.raises(RequestError, match="larger than"):
        read_yaml(big)


@pytest.mark.parametrize("override", ["name=" + "x" * 250, "name=" + "ü" * 120, "methods.0.name=" + "y" * 250])
def test_names_too_long_for_a_folder(override: str):
    with pytest.raises(RequestError, match="too long for a folder"):
        load_recipe("quickstart", [override])


def mutated(text: str, dice: random.Random) -> str:
    """A recipe with a few things that people and machines do to files."""
    strange = ["[", "]", "{", "}", ":", "- ", "&a ", "*a ", "\t", "\n", "'", '"', "#", "|", ">", "%", "!!int ", "\0"]
    strange += ["²", "\u2028", "9" * 30, "1e999", ".nan", ".inf", "null", "true", "~", "-1", "0", "1e-4", "2001-01-01"]
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(text))
        match dice.randrange(5):
            case 0:
                text = text[:at] + dice.choice(strange) + text[at:]
            case 1:
                text = text[:at] + text[at + dice.randint(1, 8) :]
            case 2:
                lines = text.split("\n")
                lines.insert(dice.randrange(len(lines)), dice.choice(lines))
                text = "\n".join(lines)
            case 3:
                words = text.split(" ")
                words[dice.randrange(len(words))] = dice.choice(strange)
                text = " ".join(words)
            case 4:
                words = text.split(" ")
                one, other = dice.randrange(len(words)), dice.randrange(len(words))
                words[one], words[other] = words[other], words[one]
                text = " ".join(words)
    return text


def test_no_recipe_ends_in_a_traceback(tmp_path: Path):
    """Seeded: what fails here fails again."""
    dice = random.Random(22)
    texts = [path.read_text() for path in builtin_recipes().values()]
    path, refused = tmp_path / "r.yaml", 0
    for number in range(200):
        text = mutated(dice.choice(texts), dice)
        path.write_text(text, encoding="utf-8")
        started = time.process_time()
        try:
            load_recipe(path)
        except (RequestError, EnvironmentFailure) as error:
            refused += 1
            each = getattr(error, "errors", (error,))  # several mistakes are a line each
            assert not any("\n" in str(one) for one in each), (number, text)
        except Exception as error:
            raise AssertionError(f"recipe {number} ended in {error!r}:\n{text}") from error
        assert time.process_time() - started < 10, (number, text)
    assert 20 < refused < 200
