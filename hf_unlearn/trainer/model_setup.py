"""A model made ready for training: loaded, checked, with adapters, with the parameters that are trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._compat import TRAINER_STATE_NAME
from ..data.encoding import load_tokenizer
from ..errors import RequestError
from ..losses.base import Loss
from ..models.adapters import add_adapters, refuse_quantized
from ..models.decoder import MLP_OUTPUTS, check_layer, decoder_layers
from ..models.foreign import UNUSABLE_CONFIG, refuse_foreign, refuse_other_kinds
from ..models.gguf_source import fetch_model, is_gguf_source
from ..models.head import output_head
from ..models.loading import check_there, read_pretrained, refuse_gguf
from ..registry import suggest
from ..robust.weights import trained_parameters
from .config import UnlearnConfig
from .rounded_steps import check_stepping, round_model

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def load_causal_lm(model: str | nn.Module, loading: Mapping[str, Any]) -> nn.Module:
    """Loads a model in float32 (or as ``loading["dtype"]`` says), or returns the one given.

    Raises:
        RequestError: If there is no such model, or it lacks some of its weights.
    """
    if not isinstance(model, str):
        return model
    return read_pretrained(model, **{"dtype": "float32", **loading})


def tokenizer_of(model: str | nn.Module, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that lies where a model came from.

    Raises:
        RequestError: The model came from nowhere, or there is none.
        EnvironmentFailure: The Hub cannot be reached.
    """
    source = model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", "")
    if not source:
        raise RequestError(
            f"the {type(model).__name__} was built from a configuration, so there is no folder or Hub id to load its "
            "tokenizer from: give it as processing_class"
        )
    return load_tokenizer(source, trust_remote_code=trust_remote_code)


def plain_source(model: Any, key: str) -> Any:
    """A model as it was given, a path as text; for the name of a GGUF file, the folder that it is converted to.

    Raises:
        RequestError: It is neither a name nor a model, there is no such file, or it cannot be read.
        EnvironmentFailure: The package that it is in, or the library ``gguf``, is not installed.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str | Path):
        raise RequestError(f"{key} is {model!r}: give a folder, an id on the Hub or a model")
    name = str(model)
    return str(fetch_model(name, None, key)) if is_gguf_source(name) else name


def check_source(model: str | nn.Module | None, name: str, loading: Mapping[str, Any]) -> None:
    """Refuse a folder that holds no whole model, or that asks for foreign code, before anything else is read of it.

    Args:
        model: An id, a folder or a model; ``None`` for none.
        name: What messages call it.
        loading: Keyword arguments that it is loaded with.

    Raises:
        RequestError: It is not there, an adapter, a GGUF file, its code is elsewhere, or it is no decoder-only model.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if isinstance(model, str):
        refuse_gguf(model, name)
        check_there(model, name, loading)
        if not loading.get("trust_remote_code"):
            refuse_foreign(Path(model), name)
    refuse_other_kinds(model, name, loading.get("revision"))


def only_adapters(given: PeftConfig | None, args: UnlearnConfig) -> PeftConfig | None:
    """The adapters of a run, which are named in one place.

    Args:
        given: The trainer's argument ``peft_config``.
        args: ``peft`` is used.

    Raises:
        RequestError: Both name some.
    """
    if given is not None and args.peft is not None:
        raise RequestError(
            "peft_config and the peft of args both name adapters, and only one of them could be trained: leave one out"
        )
    return args.build_peft_config() if given is None else given


def refuse_idle_loading(
    settings: Mapping[str, Any] | str | None, model: str | nn.Module, reference: str | nn.Module | None
) -> None:
    """Refuse settings for loading where nothing is loaded.

    Args:
        settings: ``model_init_kwargs``.
        model: An id, a folder or a model.
        reference: The same; ``None`` for none.

    Raises:
        RequestError: They would change nothing, and the models are not as they say.
    """
    if not isinstance(settings, Mapping) or isinstance(model, str) or isinstance(reference, str):
        return
    dtype = str(getattr(model, "dtype", None)).removeprefix("torch.")
    for key, value in settings.items():
        is_so = key == "dtype" and str(value).removeprefix("torch.") in ("auto", dtype)
        if not is_so and key != "trust_remote_code":
            raise RequestError(
                f"model_init_kwargs has {key} {value!r}, which would do nothing: the model is loaded already; leave "
                "it out, or give the model as a folder or Hub id"
            )


def check_trainable(model: str | nn.Module, adapters: PeftConfig | None, loading: Mapping[str, Any]) -> None:
    """Refuse quantized weights without adapters: nothing could be trained.

    Args:
        model: An id, a folder or a model.
        adapters: Adapters to put on it; ``None`` for none.
        loading: Keyword arguments that it is loaded with.

    Raises:
        RequestError: It is quantized, and gets no adapters.
    """
    if adapters is not None:
        return
    refuse_quantized(loading.get("quantization_config"), "the model")
    if not isinstance(model, str) and not hasattr(model, "peft_config"):
        refuse_quantized(getattr(model, "hf_quantizer", None), f"the {type(model).__name__}")


def check_reference(model: nn.Module, checkpoint: Path) -> None:
    """Refuse a half-trained model as the reference of a run that goes on: it is compared with the target.

    Args:
        model: As the trainer was given it.
        checkpoint: What the run goes on from.

    Raises:
        RequestError: The model was itself read from a checkpoint.
    """
    source = Path(str(getattr(getattr(model, "config", None), "_name_or_path", "")) or "nowhere")
    if (source / TRAINER_STATE_NAME).is_file():
        raise RequestError(
            f"model is {source}, a checkpoint of a training run, and the run goes on from {checkpoint}: the losses "
            "compare with the model as it was before any step, so give the target as model (or as ref_model)"
        )


def check_optimizer_saved(checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint of the model alone: the optimizer would start anew, without a word.

    Raises:
        RequestError: It holds no state of an optimizer.
    """
    if checkpoint.is_dir() and not any(
        path.name.startswith(("optimizer", "global_step")) for path in checkpoint.iterdir()
    ):
        raise RequestError(
            f"{checkpoint} holds the model alone (save_only_model), so the optimizer would start anew and the run "
            "would end with other weights: start from the beginning, or save checkpoints without save_only_model"
        )


def check_same_vocabulary(model: str | nn.Module, reference: str | nn.Module | None) -> None:
    """Refuse a reference model with other tokens than the model. For ids and folders only the configuration is read.

    Raises:
        RequestError: The vocabularies differ in size.
    """
    if reference is None:
        return
    own, other = _vocabulary_size(model), _vocabulary_size(reference)
    if own is not None and other is not None and own != other:
        raise RequestError(
            f"ref_model has a vocabulary of {other} tokens and the model one of {own}, which cannot be compared: "
            "give a reference with the same tokenizer, or leave ref_model out"
        )


def _vocabulary_size(model: str | nn.Module) -> int | None:
    """``None`` if it cannot be determined; loading the model then reports what is wrong."""
    config: Any = getattr(model, "config", None)
    if isinstance(model, str):
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        except UNUSABLE_CONFIG:
            return None
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, "vocab_size", None)


def made_ready(model: nn.Module, args: UnlearnConfig, adapters: PeftConfig | None) -> nn.Module:
    """The model to train, which is the one given or has it inside.

    Args:
        model: The target; changed in place.
        args: The run's settings.
        adapters: Adapters to put on it; ``None`` for none.

    Raises:
        RequestError: The model cannot have such adapters, or its steps cannot be made as the settings say.
    """
    if adapters is not None:
        model = add_adapters(model, adapters)
    if args.disable_dropout:
        disable_dropout(model)
    check_stepping(args.stepping, model, args.deepspeed)
    if args.stepping != "fp32":
        round_model(model)
    if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in trained_parameters(model).values()):
        logger.warning("the trained weights are stored in 16 bits: steps much smaller than a weight are lost")
    return model


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def check_layers(model: nn.Module, losses: Sequence[Loss]) -> None:
    """Refuse losses that use a layer which the model does not have.

    Raises:
        RequestError: Names the loss and how many layers there are.
    """
    for loss in losses:
        if loss.hidden_layer is not None:
            check_layer(model, loss.hidden_layer, f"the layer of {type(loss).__name__}")


def choose_trained(model: nn.Module, patterns: Sequence[str] | None, losses: Sequence[Loss], adapters: bool) -> None:
    """Freeze what is not to be trained.

    Args:
        model: The model; only parameters that are already trainable can stay trainable.
        patterns: Shell-style patterns of parameter names, or ``None`` for what the losses are made for.
        losses: All losses of the run.
        adapters: Whether adapters were added: a loss's own choice names the model's weights, and is ignored.

    Raises:
        RequestError: A pattern matches nothing that can be trained, or the parameters that a loss is made for are not
            found.
    """
    if patterns is not None:
        _keep(model, _matching(model, patterns))
    elif not adapters:
        layers = sorted({layer for loss in losses for layer in loss.trained_layers})
        if layers:
            _keep(model, mlp_outputs(model, layers))
    _freeze_unseen(model, losses)


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    trained = list(trained_parameters(model))
    kept = set()
    for pattern in patterns:
        found = {name for name in trained if fnmatchcase(name, pattern)}
        if not found:
            near = suggest(pattern, trained).partition("there are ")[0] or f"the first is {trained[0]}"
            raise RequestError(f"trained_parameters: no trainable parameter is called {pattern!r}: {near}")
        kept |= found
    return kept


def mlp_outputs(model: nn.Module, layers: Sequence[int]) -> set[str]:
    """Names of the MLP's output projections in some decoder layers, biases left out.

    Raises:
        RequestError: A layer has none by any known name.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stack = decoder_layers(model)
    found = set()
    for layer in layers:
        own = {
            names[id(parameter)]
            for name, parameter in stack[layer].named_parameters()
            if parameter.ndim > 1
            and "attn" not in name
            and "attention" not in name
            and MLP_OUTPUTS & {*name.split(".")}
        }
        if not own:
            raise RequestError(
                f"the MLP's output projection in layer {layer} of {type(model).__name__} was not found by name: say "
                'in trained_parameters what is trained ("*" for everything)'
            )
        found |= own
    return found


def _keep(model: nn.Module, names: set[str]) -> None:
    for name, parameter in model.named_parameters():
        if name not in names:
            parameter.requires_grad_(False)


def _freeze_unseen(model: nn.Module, losses: Sequence[Loss]) -> None:
    """Modules above the last layer that any loss uses get no gradient, and need not wait for one."""
    layers = [loss.hidden_layer for loss in losses if loss.hidden_layer is not None]
    if not layers or any(loss.uses_logits for loss in losses):
        return
    stack = decoder_layers(model)
    below = {id(parameter) for layer in stack[: max(layers) + 1] for parameter in layer.parameters()}
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    below |= {id(parameter) for parameter in (embeddings.parameters() if embeddings is not None else ())}
    above = [*stack[max(layers) + 1 :], output_head(model), *_after(model, stack)]
    for module in above:
        for parameter in module.parameters():
            if id(parameter) not in below:
                parameter.requires_grad_(False)


def _after(model: nn.Module, stack: nn.ModuleList) -> list[nn.Module]:
    """Modules next to the decoder layers that come after them, such as the last norm."""
    for module in model.modules():
        children = list(module.children())
        if any(child is stack for child in children):
            return children[next(place for place, child in enumerate(children) if child is stack) + 1 :]
    return []
