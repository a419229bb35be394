"""A tokenizer as GGUF files hold it: pieces, their kinds, merges or scores, and the name of the splitting rule.

llama.cpp knows splitting rules by name only, so a tokenizer whose rule is not among those below is refused: the file
would cut text in other places than the model was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

# Numbers of llama.cpp's token kinds.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_RULES = {
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORDS + r"\p{N}" + _REST: "qwen2",
}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokenizer.

    Attributes:
        model: ``gpt2`` (bytes as letters, merges) or ``llama`` (SentencePiece, scores).
        rule: llama.cpp's name of the splitting rule.
        pieces: One for each row of the embedding.
        kinds: Numbers of llama.cpp's token kinds.
        merges: Pairs with a space between them, best first.
        scores: Of SentencePiece pieces: the higher, the sooner merged.
        special: ``bos``, ``eos``, ``pad``, ``unk`` to their ids, as far as there are any.
        adds_bos, adds_eos: What the tokenizer puts around a text.
        template: Chat template.
    """

    model: str
    rule: str
    pieces: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    template: str | None

    def write(self, writer: GGUFWriter) -> None:
        """Put it among the metadata of a file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.rule)
        writer.add_token_list(self.pieces)
        writer.add_token_types(self.kinds)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        adders = {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "pad": writer.add_pad_token_id,
            "unk": writer.add_unk_token_id,
        }
        for name, number in self.special.items():
            adders[name](number)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.template:
            writer.add_chat_template(self.template)


def read_vocabulary(source: Path, size: int) -> Vocabulary:
    """The tokenizer of a folder.

    Args:
        source: A folder with a fast tokenizer.
        size: Rows of the model's embedding; pieces without a token fill it up.

    Raises:
        RequestError: There is no tokenizer, or one that llama.cpp has no rule for, or it is larger than the embedding.
    """
    tokenizer = _load(source)
    data: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if data["model"]["type"] != "BPE":
        raise RequestError(f"{source}: a GGUF file can be made with a BPE tokenizer, not with {data['model']['type']}")
    bytewise = not data["model"].get("byte_fallback")
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if max(vocabulary.values()) >= size:
        raise RequestError(
            f"{source}: the tokenizer has token {max(vocabulary.values())}, but the embedding only {size} rows"
        )
    pieces, kinds = _pieces(vocabulary, data, size)
    pairs = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in data["model"]["merges"]]
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    ids: list[int] = tokenizer("a")["input_ids"]
    template = getattr(tokenizer, "chat_template", None)
    return Vocabulary(
        model="gpt2" if bytewise else "llama",
        rule=_rule(source, data) if bytewise else "default",
        pieces=pieces,
        kinds=kinds,
        merges=[" ".join(pair) for pair in pairs] if bytewise else [],
        scores=[] if bytewise else _scores(pieces, pairs),
        special={name: number for name, number in named.items() if number is not None},
        adds_bos=named["bos"] is not None and ids[:1] == [named["bos"]],
        adds_eos=named["eos"] is not None and ids[-1:] == [named["eos"]],
        template=template if isinstance(template, str) else None,
    )


def _load(source: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the library raises what its parsers do
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"{source} has no tokenizer that can be read ({reason}): a GGUF file holds its own, so put it beside the "
            "weights"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise RequestError(f"{source} has no tokenizer.json: save its tokenizer as a fast one first")
    return tokenizer


def _pieces(vocabulary: dict[str, int], data: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    pieces = [f"[PAD{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    for piece, number in vocabulary.items():
        pieces[number] = piece
        is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
        kinds[number] = _BYTE if is_byte and data["model"].get("byte_fallback") else _NORMAL
    for token in data["added_tokens"]:
        kinds[token["id"]] = _CONTROL if token["special"] else _USER
    unknown = data["model"].get("unk_token")
    if unknown in vocabulary:
        kinds[vocabulary[unknown]] = _UNKNOWN
    return pieces, kinds


def _scores(pieces: list[str], pairs: list[list[str]]) -> list[float]:
    """The sooner a piece is merged, the higher; single letters after all of them, as SentencePiece has it."""
    merged: dict[str, float] = {}
    for rank, pair in enumerate(pairs):
        merged.setdefault("".join(pair), -float(rank))
    return [merged.get(piece, -float(len(pairs) + number)) for number, piece in enumerate(pieces)]


def _rule(source: Path, data: dict[str, Any]) -> str:
    """llama.cpp's name for how text is cut before merges."""
    splitter = data.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    kinds = [part.get("type") for part in parts]
    prefixed = any(part.get("add_prefix_space") for part in parts)
    if not prefixed and kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if not prefixed and kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if not prefixed and kinds == ["Split", "ByteLevel"]:
        pattern = parts[0]["pattern"].get("Regex")
        if pattern in _RULES and parts[0].get("behavior") == "Isolated":
            return _RULES[pattern]
    raise RequestError(
        f"{source}: the tokenizer cuts text by a rule that this GGUF converter has no name for "
        f"({', '.join(map(str, kinds)) or 'none'}); it knows those of GPT-2, Llama 3, Qwen 2 and 3 and SmolLM"
    )
