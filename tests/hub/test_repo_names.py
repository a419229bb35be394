"""Names of repositories and branches."""

from __future__ import annotations

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.options import branches, repo_ids, suffix
from hf_unlearn.quantization import FORMATS


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("bnb-nf4", "bnb-nf4"),
        ("bnb-int8", "bnb-int8"),
        ("bf16", "BF16"),
        ("gptq-int4-g128", "GPTQ-Int4"),
        ("gptq-int4-g32", "GPTQ-Int4-g32"),
        ("gptq-int4-g128@forget-aware", "GPTQ-Int4-forget-aware"),
        ("awq-int4-g128", "AWQ"),
        ("rtn-int4-g128", "RTN-Int4-g128"),
        ("gguf-q4_k_m", "Q4_K_M-GGUF"),
        ("ct-fp8", "FP8"),
        ("something-new", "something-new"),
    ],
)
def test_formats_are_called_as_publishers_call_them(name: str, there: str) -> None:
    assert suffix(name) == there
    assert repo_ids("org/model", [name]) == {name: f"org/model-{there}"}


def test_every_format_has_a_name_of_its_own() -> None:
    names = [name for name in FORMATS.names() if getattr(FORMATS.get(name).value, "published", True)]
    assert len(set(repo_ids("org/model", names).values())) == len(set(branches(names).values())) == len(names) > 5


def test_names_that_will_not_do() -> None:
    with pytest.raises(RequestError, match="would both be published as"):
        repo_ids("org/model", ["gptq-int4-g128", "GPTQ-Int4"])
    with pytest.raises(RequestError, match="choose a shorter --repo-id"):
        repo_ids(f"org/{'x' * 88}", ["bnb-nf4"])
