"""What stands in the documentation, and a place where its examples can run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page.
        kind: ``python``, ``bash``, ``yaml``, ``text``.
        text: What is in it.
        file: The file it is said to be, if it is.
    """

    page: Path
    kind: str
    text: str
    file: str | None = None

    @property
    def label(self) -> str:
        """For the name of a test."""
        return f"{self.page.name}: {self.file or self.text.strip().splitlines()[0]}"


def read_blocks() -> Iterator[Block]:
    """All fenced blocks of all pages."""
    for page in PAGES:
        for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
            yield Block(page, found["kind"], found["text"], found["file"])


BLOCKS = list(read_blocks())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Arguments named ``python_block`` and so on run over the blocks of that kind, ``page`` over the pages."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=[page.name for page in PAGES])
    for kind in ("python", "bash", "yaml"):
        if f"{kind}_block" in metafunc.fixturenames:
            found = [block for block in BLOCKS if block.kind == kind]
            metafunc.parametrize(f"{kind}_block", found, ids=[block.label for block in found])


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def examples() -> dict[str, str]:
    """Text of every block that is said to be a Python file, by that file."""
    return {block.file: block.text for block in BLOCKS if block.file and block.kind == "python"}


@pytest.fixture(scope="session")
def readme_python() -> list[str]:
    """Python blocks of the README."""
    return [block.text for block in BLOCKS if block.kind == "python" and block.page.name == "README.md"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["When was Ada Kwon born? In 1962."], ScratchSpec(vocab_size=300))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
