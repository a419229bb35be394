"""From a quantized file back to weights that can be trained: the first step of an attacker who only has that file.

A quantized layer represents the weights that it multiplies by. Whatever the library, they are the layer's outputs
for the unit vectors, so one reader serves every format that loads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EnvironmentFailure

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

#: Largest relative difference of logits between a quantized model and the one made of its weights: formats that
#: quantize activations too (LLM.int8, int8 and fp8 kernels) do not multiply exactly by what they hold.
TOLERANCE = 0.1
_UNIT_VECTORS = 1024


def is_quantized(folder: Path) -> bool:
    """Whether a model folder holds quantized weights."""
    from ..models.loading import gguf_file_in

    if gguf_file_in(folder) is not None:
        return True
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "quantization_config" in config


def write_dequantized(folder: Path, out: Path) -> None:
    """Write the weights that a quantized folder represents as a plain float32 model, with its tokenizer.

    Args:
        folder: A quantized model that loads with ``from_pretrained``.
        out: An existing, empty folder.

    Raises:
        RequestError: The folder holds no causal language model.
        EnvironmentFailure: Its library is missing, or the plain model does not compute what the quantized one does.
    """
    from ..models.loading import copy_tokenizer, load_model
    from ..models.memory import release_memory
    from ..quantization.base import probe_logits

    model = load_model(folder)
    expected = probe_logits(model)
    plain = plain_model(model)
    del model
    release_memory()
    error = float((probe_logits(plain) - expected).norm() / expected.norm())
    if not error <= TOLERANCE:
        raise EnvironmentFailure(
            f"{folder}: the weights read from its quantized layers do not give its logits (relative error "
            f"{error:.3g}, at most {TOLERANCE:g} is allowed), so they cannot be attacked"
        )
    plain.save_pretrained(out)
    copy_tokenizer(folder, out)


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """A float32 model on the CPU with the weights that a quantized model represents.

    Args:
        model: Loaded in its format; it is not changed.
    """
    from ..models.loading import plain_model_of

    plain = plain_model_of(model.config)
    wanted = dict(plain.named_parameters())
    # GPTQ and AWQ layers keep their bias among the buffers.
    held = (*model.named_buffers(), *model.named_parameters())
    weights = {name: tensor.detach().float().cpu() for name, tensor in held if name in wanted}
    for name, layer in packed_layers(model, plain).items():
        weights[f"{name}.weight"] = read_weight(layer)
    plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    if missing := [name for name, parameter in plain.named_parameters() if parameter.is_meta]:
        raise EnvironmentFailure(
            f"the quantized model does not show its weight {missing[0]}, so it cannot be attacked"
        )
    return plain.eval()


def packed_layers(model: PreTrainedModel, plain: PreTrainedModel) -> dict[str, nn.Module]:
    """Layers that do not hold their weight as a plain tensor of its shape, by name."""
    from torch import Tensor, nn
    from torch.nn import Parameter

    found = {}
    for name, layer in plain.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        held = model.get_submodule(name)
        weight = getattr(held, "weight", None)
        stored = weight.data if isinstance(weight, Parameter) else weight
        plain_tensor = type(stored) is Tensor and stored.is_floating_point() and stored.element_size() > 1
        if type(held) is not nn.Linear or not plain_tensor or held.weight.shape != layer.weight.shape:
            found[name] = held
    return found


def read_weight(layer: nn.Module) -> Tensor:
    """The weight ``[out, in]`` in float32 that a linear layer multiplies by, read off the unit vectors."""
    import torch

    inputs = int(layer.in_features)  # type: ignore[arg-type]
    device = next((tensor.device for tensor in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    bias = getattr(layer, "bias", None)
    rows = []
    with torch.inference_mode():
        for start in range(0, inputs, _UNIT_VECTORS):
            stop = min(start + _UNIT_VECTORS, inputs)
            units = torch.zeros(stop - start, inputs, device=device)
            units[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
            given = layer(units).float()
            rows.append((given if bias is None else given - bias.float()).cpu())
    return torch.cat(rows).T.clone()
