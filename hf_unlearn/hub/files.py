"""Which files a published folder may hold. Everything else is not published."""

from __future__ import annotations

import re

CARD_FILE = "README.md"
SIGNATURE_FILE = "unlearning_report.json.sig"
"""A signature over the report's bytes, see :mod:`hf_unlearn.hub.signatures`. It is not in the report's own list."""
PLOT_FOLDER = "plots"
PAGE_FILE = "report.html"
"""The report as a page, in the main folder of a release."""

_MODEL_FILES = (
    r"model\.safetensors",
    r"model-\d{5}-of-\d{5}\.safetensors",
    r"model\.safetensors\.index\.json",
    r"model-[A-Z0-9_]+\.gguf",
    r"config\.json",
    r"generation_config\.json",
    r"tokenizer\.json",
    r"tokenizer_config\.json",
    r"special_tokens_map\.json",
    r"added_tokens\.json",
    r"vocab\.json",
    r"vocab\.txt",
    r"merges\.txt",
    r"tokenizer\.model",
    r"spiece\.model",
    r"sentencepiece\.bpe\.model",
    r"chat_template\.jinja",
    r"additional_chat_templates/[\w.-]+\.jinja",
    r"(LICENSE|NOTICE)(\.txt|\.md)?",
)
_ADDED_FILES = (
    r"README\.md",
    r"unlearning_report\.json(\.sig)?",
    r"plots/[\w.-]+\.(png|svg)",
    r"report\.html",
    r"\.eval_results/[\w.-]+\.yaml",
)

_MODEL = re.compile("|".join(f"(?:{pattern})" for pattern in _MODEL_FILES))
_PUBLISHED = re.compile("|".join(f"(?:{pattern})" for pattern in (*_MODEL_FILES, *_ADDED_FILES)))


def is_model_file(name: str) -> bool:
    """Whether a file of a model folder is published: safetensors or GGUF weights, configuration, tokenizer, license.

    Pickles, training state, optimizer state and code are not.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    return _MODEL.fullmatch(name) is not None


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights, or says which file holds which.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    return is_model_file(name) and (".safetensors" in name or name.endswith(".gguf"))


def may_be_published(name: str) -> bool:
    """Whether a published folder may hold this file: a model file, the card, the report, its page or a plot.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    return _PUBLISHED.fullmatch(name) is not None


def is_vocabulary(name: str) -> bool:
    """Whether a file lists the tokens of a tokenizer, which are neighbours by chance.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    return name in ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")


def is_tokenizer_file(name: str) -> bool:
    """Whether a file belongs to the tokenizer, which every model that is made from another one shares with it.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    settings = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    return is_vocabulary(name) or name in settings or name.startswith("additional_chat_templates/")


def is_text(name: str) -> bool:
    """Whether a file is text that people, templates or reports write, so forget text could be in it.

    Args:
        name: Path relative to the folder, with forward slashes.
    """
    kinds = (".md", ".json", ".jinja", ".svg", ".html", ".txt", ".yaml")
    return not is_vocabulary(name) and (name.endswith(kinds) or name in ("LICENSE", "NOTICE"))
