"""The registry idiom."""

from dataclasses import dataclass

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.registry import Registry, suggest


def make() -> Registry:
    registry = Registry("thing")

    @registry.register("alpha", summary="first", paper="a paper", defaults={"rate": 1}, needs=("reference",))
    def alpha() -> int:
        return 1

    registry.register("beta", summary="second")(lambda: 2)
    return registry


def test_entry_carries_what_people_need_to_know():
    entry = make().get("alpha")
    assert entry.value() == 1
    assert entry.to_dict() == {
        "name": "alpha",
        "summary": "first",
        "paper": "a paper",
        "defaults": {"rate": 1},
        "needs": ["reference"],
    }


def test_defaults_may_be_names_of_fields():
    @dataclass
    class Shared:
        rates: tuple[float, ...] = (0.1, 0.2)
        steps: int = 3

    registry = Registry("thing")

    @registry.register("gamma", summary="third", defaults=("steps", "rates"))
    @dataclass
    class Gamma(Shared):
        steps: int = 5

    assert list(registry.get("gamma").defaults.items()) == [("steps", 5), ("rates", [0.1, 0.2])]
    assert registry.get("gamma").value is Gamma


def test_names_are_sorted_and_complete():
    assert make().names() == ["alpha", "beta"]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(RequestError, match=r"no thing called 'alpa': did you mean 'alpha'\?"):
        make().get("alpa")


def test_a_name_cannot_be_taken_twice():
    registry = make()
    with pytest.raises(ValueError, match="twice"):
        registry.register("beta", summary="again")(lambda: 3)


@pytest.mark.parametrize(
    ("wrong", "clause"),
    [
        ("share", "did you mean one of share_formats, share_attacks?"),
        ("share_f", "did you mean 'share_formats'?"),
        ("shrae_formats", "did you mean 'share_formats'?"),
        ("attacks", "did you mean 'share_attacks'?"),
        ("ATT", "did you mean 'share_attacks'?"),
    ],
)
def test_suggest_knows_words_by_their_beginning_and_their_parts(wrong, clause):
    assert suggest(wrong, ["share_formats", "share_attacks", "min"]) == clause


def test_suggest_names_all_when_nothing_is_near():
    assert suggest("zzz", ["one", "two"]) == "there are one, two"
