"""Adapters (LoRA, DoRA, QLoRA) as written in a recipe, on models that may be loaded in a few bits.

```yaml
peft: {r: 32, lora_alpha: 64, target_modules: all-linear}             # LoRA
peft: {r: 32, use_dora: true}                                         # DoRA
model_init_kwargs: {quantization_config: {load_in_4bit: true}}        # with peft: QLoRA
```
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig

from ..errors import MissingExtraError, RequestError, one_line
from ..registry import suggest
from .gptqmodel import import_before_peft
from .loading import empty_model_of, read_pretrained
from .sharding import alone

if TYPE_CHECKING:
    from peft import PeftConfig

DEFAULTS: dict[str, Any] = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}
"""Defaults; peft's own are 8, 8 and a list per model family."""

_GIVEN_HERE = ("task_type", "peft_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping")
# With other values, the model with its adapters off is not the target, which losses compare with.
_SAFE_STARTS = (True, "gaussian")


def build_peft_config(given: Mapping[str, Any] | str) -> PeftConfig:
    """A ``peft.LoraConfig`` from the mapping of a recipe, :data:`DEFAULTS` filled in.

    Args:
        given: Fields of ``peft.LoraConfig``.

    Raises:
        MissingExtraError: peft is not installed.
        RequestError: An unknown key, or a value with which the base would not stay the target.
    """
    if not isinstance(given, Mapping):
        raise RequestError(f"peft is {given!r}, it must be a mapping such as {{r: 32, target_modules: all-linear}}")
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "peft") from error
    known = sorted(item.name for item in fields(LoraConfig) if item.init and item.name not in _GIVEN_HERE)
    for key in given:
        if key not in known:
            raise RequestError(f"peft has no key {key!r}: {suggest(key, known)}")
    values = {**DEFAULTS, **given}
    if not isinstance(values["r"], int) or isinstance(values["r"], bool) or values["r"] < 1:
        raise RequestError(f"peft.r is {values['r']!r}, it must be a whole number of at least 1")
    if values.get("bias", "none") != "none":
        raise RequestError(f"peft.bias is {values['bias']!r}: biases of the base would change, use none")
    if values.get("init_lora_weights", True) not in _SAFE_STARTS:
        raise RequestError(
            f"peft.init_lora_weights is {values['init_lora_weights']!r}: the model without its adapters would no "
            "longer be the target, use true or gaussian"
        )
    try:
        return LoraConfig(task_type="CAUSAL_LM", **values)
    except (TypeError, ValueError) as error:
        raise RequestError(f"peft: {one_line(error)}") from error


def add_adapters(model: nn.Module, config: PeftConfig) -> nn.Module:
    """New adapters on a frozen model.

    Inputs of the first layer are made to need gradients: a checkpointed layer whose input needs none is skipped in the
    backward pass, and adapters would silently stay as they are.

    Raises:
        MissingExtraError: peft is not installed.
        RequestError: The model already has adapters, or none of the named modules.
    """
    try:
        from peft import PeftModel, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft_config", "peft", "peft") from error
    if isinstance(model, PeftModel):
        raise RequestError("the model already has adapters: merge them first, or leave peft_config out to train them")
    check_targets(model, config)
    import_before_peft()
    made: Any = get_peft_model(model, config)
    _refuse_shared_layers(made)
    made.enable_input_require_grads()
    return made


def merged(model: Any) -> Any:
    """The plain model with its adapters merged in, which computes what the model with adapters does.

    An output head that is tied to the embeddings is untied first where adapters changed one of the two: they were
    trained as two, and merged into the weight that both share they would change both.

    Args:
        model: A ``PeftModel``, changed in place.
    """
    for _, layer in _shared_adapted(model):
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                layer._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    plain = model.merge_and_unload()
    ends = (plain.get_input_embeddings(), plain.get_output_embeddings())
    first, last = (getattr(end, "weight", None) for end in ends)
    if first is not None and last is not None and first.data_ptr() != last.data_ptr():
        for config in {id(each): each for each in (plain.config, plain.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    return plain


def _shared_adapted(model: Any) -> list[tuple[str, nn.Module]]:
    """Layers below adapters whose weights also stand elsewhere in the model, by name."""

    def place(parameter: nn.Parameter) -> int:
        return parameter.untyped_storage().data_ptr() or id(parameter)  # without weights there is no address

    places: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        where = place(parameter)
        places[where] = places.get(where, 0) + 1
    found = []
    for name, module in model.named_modules():
        layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if layer is not module and any(places[place(parameter)] > 1 for parameter in layer.parameters(recurse=False)):
            found.append((name, layer))
    return found


def _refuse_shared_layers(model: Any) -> None:
    """Only the output head and the embeddings can be untied when they are saved.

    Raises:
        RequestError: Adapters are on another layer whose weights the model uses in several places.
    """
    base = model.get_base_model()
    untied = set()
    for end in (base.get_input_embeddings(), base.get_output_embeddings()):
        untied |= {id(module) for module in (end.modules() if end is not None else ())}
    for name, layer in _shared_adapted(model):
        if id(layer) not in untied:
            raise RequestError(
                f"peft.target_modules: {name.removeprefix('base_model.model.')} uses a weight that stands in several "
                "places of the model, and an adapter would change one of them only: leave it out, for instance by "
                "peft.exclude_modules"
            )


def check_adapters(model: str, config: PeftConfig | None) -> None:
    """Check what needs no weights: whether the named modules exist, and whether the base is quantized.

    Args:
        model: A folder or Hub id.
        config: The adapters; ``None`` for none.

    Raises:
        RequestError: See :func:`check_targets` and :func:`refuse_quantized`. A model that cannot be read at all
            is left to the loader.
    """
    try:
        settings = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return
    if config is None:
        refuse_quantized(getattr(settings, "quantization_config", None), model)
        return
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    try:
        with alone():
            empty = empty_model_of(settings)
    except (ValueError, ImportError):
        return
    check_targets(empty, config)


def refuse_quantized(quantization: Any, name: str) -> None:
    """Quantized weights cannot be trained.

    Raises:
        RequestError: There is a quantization configuration.
    """
    if quantization is not None:
        raise RequestError(
            f"{name} is loaded in a quantized format, whose weights cannot be trained: add peft, for instance "
            "peft: {r: 32} (in Python also peft_config), or load the full-precision model"
        )


def check_targets(model: nn.Module, config: Any) -> None:
    """Refuse adapters on modules or layers that do not exist. peft itself accepts them if one of the names is found.

    Experts that transformers holds as one weight may also be called what they are called in files (``w1``,
    ``gate_proj``), as peft itself allows.

    Raises:
        RequestError: Names the missing ones and those that exist, or experts of which peft cannot take a part.
    """
    names = [name for name, _ in model.named_modules()]
    found = _as_peft_reads(model, config)
    wanted = found.target_modules
    if wanted not in (None, "all-linear") and (missing := _not_found(wanted, names)):
        there = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
        raise RequestError(
            f"peft.target_modules names {', '.join(map(repr, missing))}, which {type(model).__name__} does not "
            f"have: {suggest(missing[0], [*there, *_names_in_files(model)])}"
        )
    weights = [name for name, _ in model.named_parameters()]
    if missing := _not_found(getattr(found, "target_parameters", None) or (), weights):
        there = sorted({name.rpartition(".")[2] for name, weight in model.named_parameters() if weight.ndim == 3})
        raise RequestError(
            f"peft.target_parameters names {', '.join(map(repr, missing))}, which {type(model).__name__} does not "
            f"have: {suggest(missing[0], there)}"
        )
    settings: Any = getattr(model, "config", None)
    settings = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    depth = getattr(settings, "num_hidden_layers", None)
    layers = getattr(config, "layers_to_transform", None)
    for layer in [layers] if isinstance(layers, int) else layers or ():
        if depth is not None and not 0 <= layer < depth:
            raise RequestError(
                f"peft.layers_to_transform names layer {layer}, and the model has {depth}: use 0 to {depth - 1}"
            )


def _as_peft_reads(model: nn.Module, config: Any) -> Any:
    """A copy of a configuration with the names that peft makes of those that weights only have in files."""
    try:
        from .._compat import convert_peft_config_for_transformers
    except ImportError:  # earlier releases of peft know no such names
        return config
    read = copy.deepcopy(config)
    try:
        convert_peft_config_for_transformers(read, model=model, conversions=None)
    except ValueError as error:
        raise RequestError(f"peft.target_modules: {one_line(error)}") from error
    return read


def _names_in_files(model: Any) -> list[str]:
    """Names in files of the experts that the model holds as one weight."""
    from .._compat import get_model_conversion_mapping

    patterns = [
        pattern
        for conversion in get_model_conversion_mapping(model)
        if any(target.endswith(("gate_up_proj", "down_proj")) for target in conversion.target_patterns)
        for pattern in conversion.source_patterns
        if pattern.endswith(".weight")
    ]
    return sorted({pattern.split(".")[-2] for pattern in patterns})


def _not_found(wanted: str | Iterable[str], names: list[str]) -> list[str]:
    if isinstance(wanted, str):
        return [] if any(re.fullmatch(wanted, name) for name in names) else [wanted]
    return sorted(each for each in wanted if not any(name == each or name.endswith(f".{each}") for name in names))


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not isinstance(module, nn.Embedding) and isinstance(weight, torch.Tensor) and weight.dim() == 2


def merge_into(
    base: str, adapters: Path, output_dir: Path, dtype: str | None, trust_remote_code: bool = False
) -> None:
    """Read a base model again in full precision, merge saved adapters into it, and save the plain model.

    This is for bases that cannot be merged where they are: quantized ones, and those sharded over several
    processes.

    Args:
        base: Folder or Hub id of the base.
        adapters: Folder of the adapters.
        output_dir: Gets the model.
        dtype: Precision to save in; float32 by default.
        trust_remote_code: Whether code that comes with the base may run.

    Raises:
        RequestError: The base no longer exists, or is stored quantized.
    """
    from peft import PeftModel

    model: Any = read_pretrained(base, dtype="float32", trust_remote_code=trust_remote_code)
    refuse_merge(model, base)
    import_before_peft()
    plain = merged(PeftModel.from_pretrained(model, str(adapters)))
    plain.to(getattr(torch, dtype or "float32")).save_pretrained(output_dir)


def refuse_merge(model: Any, base: str) -> None:
    """Raises :class:`RequestError` for a base whose files hold no full-precision weights."""
    if getattr(model, "hf_quantizer", None) is not None:
        raise RequestError(
            f"{base} itself is stored in a quantized format, so adapters cannot be merged into full-precision "
            "weights: start from the full-precision model with quantization_config in model_init_kwargs"
        )
