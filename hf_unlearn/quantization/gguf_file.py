"""A GGUF file: writing a model of a Llama-like family and its tokenizer as one, and reading the weights back.

Only what llama.cpp and the GGUF reader of transformers both understand is written; anything that one of them would
silently drop (biases of a Llama, a sliding window, an unusual head size) is refused. llama.cpp knows the rules by
which text is split into words by name only, so a tokenizer whose rule is not among those below is refused too: the
file would cut text in other places than the model was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import EnvironmentFailure, RequestError, first_line

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Family to the name that llama.cpp has for its shape.
FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# Heads whose halves are rotated: llama.cpp wants neighbours instead, and has its rows in another order.
_INTERLEAVED = ("attn_q.weight", "attn_k.weight")
_QWEN3_HEAD = 128

#: From a tensor's GGUF name and shape to the name of the type it is stored in (``Q4_0`` ...).
TypeOf = Callable[[str, tuple[int, ...]], str]

# Numbers of llama.cpp's token kinds.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_RULES = {
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORDS + r"\p{N}" + _REST: "qwen2",
}


@dataclass(frozen=True)
class Layout:
    """How the parameters of a model are called and laid out in a GGUF file."""

    config: PretrainedConfig

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return FAMILIES[self.config.model_type]

    def names(self, model: PreTrainedModel) -> dict[str, str]:
        """Parameter name to GGUF name; a head that is tied to the embedding has none.

        Raises:
            RequestError: A parameter has no place in the file.
        """
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        table = get_tensor_name_map(architecture, self.config.num_hidden_layers)
        found = {}
        for name, _ in model.named_parameters():
            gguf_name = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if gguf_name is None:
                raise RequestError(f"a GGUF file of the {self.config.model_type} family has no place for {name}")
            found[name] = gguf_name
        return found

    def stored(self, gguf_name: str, values: np.ndarray) -> np.ndarray:
        """A parameter's values in the order of the file."""
        heads = self._interleaved_heads(gguf_name)
        return values if heads is None else _swap(values, heads, (2, -1))

    def restored(self, gguf_name: str, values: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`stored`."""
        heads = self._interleaved_heads(gguf_name)
        return values if heads is None else _swap(values, heads, (-1, 2))

    def _interleaved_heads(self, gguf_name: str) -> int | None:
        if self.architecture != "llama" or not gguf_name.endswith(_INTERLEAVED):
            return None
        is_query = gguf_name.endswith(_INTERLEAVED[0])
        return int(self.config.num_attention_heads if is_query else self.config.num_key_value_heads)


def _swap(values: np.ndarray, heads: int, split: tuple[int, int]) -> np.ndarray:
    cut = values.reshape(heads, *split, values.shape[-1])
    return np.ascontiguousarray(cut.swapaxes(1, 2).reshape(values.shape))


def check_family(config: PretrainedConfig, format_name: str) -> None:
    """Refuse what a GGUF file, or the reader of transformers, could not hold.

    Raises:
        RequestError: Names the family, or the setting of the config.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise RequestError(
            f"{format_name} cannot be made from the {family} family: this converter knows {', '.join(FAMILIES)}"
        )
    head = head_size(config)
    rope = rope_of(config).get("rope_type", "default")
    biased = family != "qwen2" and getattr(config, "attention_bias", False)
    problems = {
        "attention_bias or mlp_bias is set": biased or getattr(config, "mlp_bias", False),
        "a sliding window is in use": _slides(config),
        f"rope_type is {rope}": rope not in ("default", "llama3"),
        f"rope_type is {rope} in another family than llama": rope == "llama3" and FAMILIES[family] != "llama",
        f"hidden_act is {config.hidden_act}": config.hidden_act != "silu",
        f"head_dim is {head}, not {_QWEN3_HEAD}": family == "qwen3" and head != _QWEN3_HEAD,
        f"head_dim is {head}": family == "qwen2" and head * config.num_attention_heads != config.hidden_size,
    }
    for problem, there in problems.items():
        if there:
            raise RequestError(
                f"{format_name} cannot be made from this {family} model: {problem}, which stock readers of GGUF files "
                "would not see"
            )


def _slides(config: PretrainedConfig) -> bool:
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        return False
    return window is not None and window < config.max_position_embeddings


def head_size(config: PretrainedConfig) -> int:
    """Numbers per attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_of(config: PretrainedConfig) -> dict[str, Any]:
    """Settings of the rotary embedding."""
    return dict(getattr(config, "rope_parameters", None) or {})


def write_file(
    model: PreTrainedModel, vocabulary: Vocabulary, path: Path, type_of: TypeOf, file_type: int
) -> dict[str, int]:
    """Write a GGUF file, one tensor after the other.

    Args:
        model: Plain weights in any floating-point type.
        vocabulary: Its tokenizer.
        path: The file to make.
        type_of: Type of each tensor; vectors are always ``F32``.
        file_type: llama.cpp's number for the mixture of types.

    Returns:
        Parameter counts by stored type.
    """
    from gguf import GGUFWriter

    layout = Layout(model.config)
    names = layout.names(model)
    types = {name: type_of(names[name], tuple(value.shape)) for name, value in model.named_parameters()}
    frequencies = _rope_factors(model.config)
    writer = GGUFWriter(path, layout.architecture)
    _write_settings(writer, model.config, file_type)
    vocabulary.write(writer)
    if frequencies is not None:
        writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes)
    for name, parameter in model.named_parameters():
        _announce(writer, names[name], tuple(parameter.shape), types[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if frequencies is not None:
            writer.write_tensor_data(frequencies)
        for name, parameter in model.named_parameters():
            values = layout.stored(names[name], parameter.detach().float().cpu().numpy())
            writer.write_tensor_data(_quantized(values, types[name]))
    finally:
        writer.close()
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        counts[types[name]] = counts.get(types[name], 0) + parameter.numel()
    return counts


def _write_settings(writer: Any, config: PretrainedConfig, file_type: int) -> None:
    # Not the folder's name: it says where a model was made, and transformers interprets some names.
    writer.add_name("model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(rope_of(config).get("rope_theta", 10000.0)))
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)


def _announce(writer: Any, name: str, shape: tuple[int, ...], type_name: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.constants import GGML_QUANT_SIZES

    kind = GGMLQuantizationType[type_name]
    block, size = GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, kind)


def _quantized(values: np.ndarray, type_name: str) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return np.ascontiguousarray(quantize(values.astype(np.float32), GGMLQuantizationType[type_name]))


def _rope_factors(config: PretrainedConfig) -> np.ndarray | None:
    """What llama.cpp divides the rotary frequencies by, for the scaling of Llama 3.1 and later."""
    rope = rope_of(config)
    if rope.get("rope_type", "default") != "llama3":
        return None
    size, base = head_size(config), float(rope["rope_theta"])
    frequencies = 1.0 / base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    wavelengths = 2 * np.pi / frequencies
    context = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


class FileWeights:
    """The weights of a GGUF file, under the names and in the shapes of a model, each read when it is accessed.

    Raises:
        EnvironmentFailure: A parameter of the model is not in the file.
    """

    def __init__(self, path: Path, model: PreTrainedModel) -> None:
        from gguf import GGUFReader

        self._layout = Layout(model.config)
        tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        self._names = self._layout.names(model)
        if missing := [gguf_name for gguf_name in self._names.values() if gguf_name not in tensors]:
            raise EnvironmentFailure(f"{path} was written without {missing[0]}: nothing was kept")
        self._tensors = {name: tensors[gguf_name] for name, gguf_name in self._names.items()}

    def type_name(self, name: str) -> str:
        """The type that a parameter is stored in."""
        return str(self._tensors[name].tensor_type.name)

    def read(self, name: str) -> torch.Tensor:
        """A parameter's de-quantized values in float32."""
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        values = self._layout.restored(self._names[name], dequantize(tensor.data, tensor.tensor_type))
        return torch.from_numpy(np.array(values, dtype=np.float32))


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
        size: Rows of the model's embedding; empty tokens fill it up.

    Raises:
        RequestError: There is no tokenizer, or one that llama.cpp has no rule for, or it is larger than the embedding.
    """
    tokenizer = _load_tokenizer(source)
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


def _load_tokenizer(source: Path) -> Any:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the library raises what its parsers do
        raise RequestError(
            f"{source} has no tokenizer that can be read ({first_line(error)}): a GGUF file holds its own, "
            "so put it next to the weights"
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
