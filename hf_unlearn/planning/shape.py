"""The sizes of a model that decide what it costs, read from the model without weights (on the ``meta`` device)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import RequestError
from ..models.decoder import decoder_layers
from ..models.head import output_head

_LISTED_EXPERT = re.compile(r"\bexperts\.\d+\.")
_ACTIVE_KEYS = ("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts", "num_experts_per_token")
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Attention:
    """What the softmax attention of one decoder layer multiplies.

    Attributes:
        scores: Heads times their width in queries and keys.
        values: Heads times their width in values.
    """

    scores: int
    values: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, adapters included.

    Attributes:
        family: ``model_type`` of its configuration.
        parameters: Numbers in all weights; shared ones once.
        trained: Those that are trained.
        body: Multiplications per token in the matrices of the decoder layers; of experts only those that a token
            meets.
        body_trained: Those with matrices that are trained.
        attention: One entry per layer with softmax attention over earlier tokens.
        layers: Decoder layers.
        width: Of the hidden states.
        inner: Width of the widest matrix in a layer.
        vocabulary: Tokens.
        head_trained: Whether the output head is trained.
        tied: Whether input embeddings and output head are one matrix.
        ends: Numbers in embeddings and head, which formats leave as they are.
        layer_parameters: Numbers in the largest decoder layer.
        largest: Numbers in the largest trained matrix.
    """

    family: str
    parameters: int
    trained: int
    body: float
    body_trained: float
    attention: tuple[Attention, ...]
    layers: int
    width: int
    inner: int
    vocabulary: int
    head_trained: bool
    tied: bool
    ends: int
    layer_parameters: int
    largest: int

    @property
    def head(self) -> int:
        """Numbers in the output head."""
        return self.vocabulary * self.width


def shape_of(model: Any) -> ModelShape:
    """The sizes of a causal language model, or of one with adapters on it.

    Args:
        model: On any device; parameters that want no gradient count as frozen.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    stack = decoder_layers(inner)
    head = output_head(inner)
    embeddings = inner.get_input_embeddings()
    matrices = list(_matrices(stack, config))
    if not matrices:
        raise RequestError("its layers have no matrices that are known: a model of this kind has no plan")
    ends = {id(weight): weight for module in (embeddings, head) for weight in module.parameters()}
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    vocabulary, width = _sides(head, config)
    return ModelShape(
        family=str(getattr(config, "model_type", "")),
        parameters=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in trained),
        body=sum(count for _, count in matrices),
        body_trained=sum(count for weight, count in matrices if weight.requires_grad),
        attention=tuple(_attentions(config, len(stack), width)),
        layers=len(stack),
        width=width,
        inner=max(max(weight.shape[-2:]) for weight, _ in matrices),
        vocabulary=vocabulary,
        head_trained=any(weight.requires_grad for weight in head.parameters()),
        tied=any(id(weight) in {id(each) for each in embeddings.parameters()} for weight in head.parameters()),
        ends=sum(weight.numel() for weight in ends.values()),
        layer_parameters=max(sum(weight.numel() for weight in layer.parameters()) for layer in stack),
        largest=max((weight.numel() for weight in trained), default=0),
    )


def _sides(head: nn.Module, config: Any) -> tuple[int, int]:
    """Vocabulary and width of the output head.

    Raises:
        RequestError: Neither the head nor the configuration tells them.
    """
    weight: Any = getattr(head, "weight", None)
    sides = weight.shape if weight is not None and weight.ndim == 2 else ()
    vocabulary, width = sides or (getattr(config, "vocab_size", None), getattr(config, "hidden_size", None))
    if not vocabulary or not width:
        raise RequestError("the configuration has no vocab_size or hidden_size: a model of this kind has no plan")
    return int(vocabulary), int(width)


def _matrices(stack: nn.ModuleList, config: Any) -> Iterator[tuple[nn.Parameter, float]]:
    """Every matrix of the decoder layers that tokens are multiplied with, and how many multiplications a token costs.

    Experts are one matrix of three dimensions in a layer, or modules of their own in a list.
    """
    active = next((count for key in _ACTIVE_KEYS if (count := getattr(config, key, None))), None)
    experts = next((count for key in _EXPERT_KEYS if (count := getattr(config, key, None))), None)
    share = active / experts if active and experts else 1.0
    looked_up = {
        id(weight)
        for module in stack.modules()
        if isinstance(module, nn.Embedding)
        for weight in [*module.parameters()]
    }
    for name, weight in stack.named_parameters():
        if id(weight) in looked_up or not name.rpartition(".")[2].endswith(("weight", "proj")):
            continue
        if weight.ndim == 2:
            yield weight, weight.numel() * (share if _LISTED_EXPERT.search(name) else 1.0)
        elif weight.ndim == 3 and "experts" in name:
            yield weight, weight.numel() * share


def _attentions(config: Any, layers: int, width: int) -> Iterator[Attention]:
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return  # a model of another kind, such as Mamba
    each = getattr(config, "head_dim", None) or width // heads
    scores = getattr(config, "qk_head_dim", None) or each
    values = getattr(config, "v_head_dim", None) or each
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    for kind in kinds[:layers]:
        if "attention" in kind and not kind.startswith("linear"):
            yield Attention(heads * scores, heads * values)
