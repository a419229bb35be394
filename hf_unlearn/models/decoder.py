"""Where a causal language model keeps its decoder layers, final norm and linear layers, whatever they are called.

Also temporary changes to it: cutting it off, and recording what its layers return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..errors import RequestError

MLP_OUTPUTS = frozenset({"down_proj", "fc2", "fc_out", "dense_4h_to_h", "c_proj", "w2", "wo", "output_linear"})
"""Names of the last linear map of an MLP (or of its experts) in the model families of transformers."""

_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm", "ln_out")


@dataclass(frozen=True)
class DecoderStack:
    """Where a model keeps its decoder layers.

    Attributes:
        owner: The module they belong to.
        name: What they are called there.
        layers: The layers, in order.
    """

    owner: nn.Module
    name: str
    layers: nn.ModuleList


def text_model(model: nn.Module) -> nn.Module:
    """The part of a model that reads text: the model itself, unless it also reads images or sound.

    Towers for those and what joins them to the text, such as a projector, are outside of it.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or config.get_text_config() is config:
        return model
    decoder: nn.Module | None = getattr(model, "get_decoder", lambda: None)()
    return model if decoder is None else decoder


def decoder_stack(model: nn.Module) -> DecoderStack:
    """The outermost list of modules in the text model whose length is the number of layers in the configuration.

    Raises:
        RequestError: There is no such list.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = getattr(config, "num_hidden_layers", None)
    for owner in text_model(model).modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return DecoderStack(owner, name, child)
    raise RequestError(
        f"the decoder layers of {type(model).__name__} were not found: losses, attacks, metrics and controls that "
        "use layers do not work with it"
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order.

    Raises:
        RequestError: They were not found.
    """
    return decoder_stack(model).layers


def check_layer(model: nn.Module, layer: int, what: str) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        RequestError: Names ``what`` asked for it and how many layers there are.
    """
    count = len(decoder_layers(model))
    if not 0 <= layer < count:
        raise RequestError(f"{what} is {layer}, but {type(model).__name__} has {count} layers: use 0 to {count - 1}")


@contextmanager
def cut_after(model: nn.Module, layer: int) -> Iterator[None]:
    """Cut a model off after ``layer``, within the block. Its weights stay where they are.

    The shorter model's output means nothing; hooks on its layers see the usual values.
    """
    stack = decoder_stack(model)
    setattr(stack.owner, stack.name, stack.layers[: layer + 1])
    try:
        yield
    finally:
        setattr(stack.owner, stack.name, stack.layers)


@contextmanager
def watched_layers(
    layers: Mapping[int, nn.Module], take: Callable[[Tensor], Tensor] = lambda states: states
) -> Iterator[dict[int, Tensor]]:
    """The outputs of some layers in the forward passes made within the block.

    Args:
        layers: The layers, by the caller's numbers.
        take: What to keep of a layer's output ``[batch, time, width]``.

    Yields:
        The hidden states that were kept by the number of their layer, those of the latest pass.
    """
    kept: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[number] = take(output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [layer.register_forward_hook(keep(number)) for number, layer in layers.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def final_norm(backbone: nn.Module | None) -> nn.Module | None:
    """The norm between the last decoder layer and the output head; ``None`` if it is not known."""
    norms = (
        [child for name, child in backbone.named_children() if name in _FINAL_NORMS] if backbone is not None else []
    )
    return norms[0] if len(norms) == 1 else None


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers of the text model besides the output head, by name; none if the model has none."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    inside = set(text_model(model).modules())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module in inside
    }


def tower_layers(model: nn.Module) -> list[str]:
    """Names of linear layers outside the text model: of its towers for images or sound, and what joins them to it."""
    known = {*linear_layers(model).values(), getattr(model, "get_output_embeddings", lambda: None)()}
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module not in known]


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of :func:`linear_layers`, ``[out, in]`` each, by parameter name."""
    return {f"{name}.weight": cast(nn.Parameter, layer.weight) for name, layer in linear_layers(model).items()}
