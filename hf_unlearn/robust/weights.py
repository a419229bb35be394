"""A model's trained weights, and copies of them for parts that return to them or interpolate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import RequestError
from ..runtime.files import whole_file


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name; shared ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Weights:
    """The current trained weights of a model, on the CPU.

    Args:
        model: The model. Weights that need no gradient are left out.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self.tensors: Mapping[str, Tensor] = {
            name: parameter.detach().to("cpu", copy=True) for name, parameter in trained_parameters(model).items()
        }

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Give a model these weights, bit for bit."""
        parameters = dict(model.named_parameters())
        for name, tensor in self.tensors.items():
            parameters[name].copy_(tensor)

    @torch.no_grad()
    def move(self, model: nn.Module, towards: Weights, share: float) -> None:
        """Give a model these weights plus ``share`` of the way from them to others.

        Shares 0 and 1 give either weights bit for bit.

        Args:
            model: The model; changed in place.
            towards: Other weights of the same model.
            share: Below 0 and above 1 too.
        """
        if share in (0, 1):
            (towards if share else self).put_back(model)
            return
        self.change(model, towards, lambda name, delta: share * delta)

    @torch.no_grad()
    def change(self, model: nn.Module, towards: Weights, changed: Callable[[str, Tensor], Tensor]) -> None:
        """Give a model these weights plus a changed difference to others.

        Args:
            model: The model; changed in place, its weights computed in at least float32 on its device.
            towards: Other weights of the same model. What was frozen before they were taken stays as it is.
            changed: Called with the name of each weight and its difference.
        """
        parameters = dict(model.named_parameters())
        for name, tensor in towards.tensors.items():
            parameter = parameters[name]
            wide = torch.promote_types(parameter.dtype, torch.float32)
            start, end = (each.to(parameter.device, wide) for each in (self.tensors[name], tensor))
            parameter.copy_(start + changed(name, end - start))


def refuse_adapters(model: nn.Module, part: str) -> None:
    """Refuse a model with adapters, whose own weights are not what the part changes.

    Raises:
        RequestError: It has some.
    """
    if hasattr(model, "peft_config"):
        raise RequestError(
            f"{part} changes the model's own weights, but only adapters are trained: remove the adapters from this "
            "method, or the part"
        )


@contextmanager
def exchanged(values: Iterable[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Parameters hold other tensors within the block, and then their own again, bit for bit.

    The tensors themselves are swapped, so nothing is copied and nothing has to be added back. Gradients
    taken within are those at the other values, and stay with the parameters as usual.

    Args:
        values: Parameters with the tensors they get, of the same shape, type and device; may be generated one by one.
    """
    own: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for parameter, value in values:
                own.append((parameter, parameter.data))
                parameter.data = value
        yield
    finally:
        for parameter, kept in reversed(own):
            parameter.data = kept


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name; a reader sees the whole file or none."""
    with whole_file(path) as partial:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial)


def load_tensors(path: Path, part: str) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote, on the CPU.

    Args:
        path: The file.
        part: Whose it is, for the message.

    Raises:
        RequestError: There is no such file, or it is damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{part}: {path} is missing or damaged, so this run cannot resume from its checkpoint: delete the"
            " checkpoints next to it and start this training again"
        ) from error
