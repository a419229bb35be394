"""What an attacker trains of a model (all weights, or low-rank adapters: LoRA), and with which steps.

Source of the adapters: Hu et al., "LoRA" (arXiv 2106.09685), as peft implements them. They leave the weights alone, so
a model too large to be trained in full can be attacked, and the next job starts from the same base by taking them
off.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.version import Version

from ..errors import EnvironmentFailure, MissingExtraError, RequestError
from ..models.gptqmodel import import_before_peft

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Kind = Literal["full", "lora", "auto"]
OptimizerName = Literal["adamw", "lion", "adamw_8bit", "paged_adamw_8bit"]
OPTIMIZERS: Mapping[OptimizerName, str] = {
    "adamw": "AdamW",
    "lion": "Lion",
    "adamw_8bit": "AdamW with 8-bit states",
    "paged_adamw_8bit": "AdamW with paged 8-bit states",
}
"""What reports call them."""
LORA_RATE_FACTOR = 3.0
"""Adapters want larger rates than whole weights: ``benchmarks/tuning_strength.md``."""


@dataclass(frozen=True)
class Tuning:
    """What is trained.

    Attributes:
        kind: ``full`` trains all weights, ``lora`` adapters on every linear layer but the output head. ``auto`` is
            one of the two, and is settled before anything is trained.
        rank: Rank of the adapters; their scale is twice of it.
        targets: Names of the layers that get adapters, in place of all linear ones.
    """

    kind: Kind = "full"
    rank: int = 16
    targets: tuple[str, ...] = ()

    def check(self, name: str) -> None:
        """Refuse what makes no sense, under the name of the attack.

        Raises:
            RequestError: The rank is below 1, or layers are named and nothing would be put on them.
        """
        if self.rank < 1:
            raise RequestError(f"{name}.lora_rank is {self.rank}: it must be at least 1")
        if self.targets and self.kind == "full":
            raise RequestError(f"{name}.lora_targets is only for tuning: lora: remove it, or set tuning")

    def check_model(self, name: str, folder: Path) -> None:
        """Refuse a model that these adapters do not fit. Only its config is read.

        Raises:
            RequestError: It has no layer of these names, or one that is narrower than the adapters' rank.
            MissingExtraError: peft is not installed.
        """
        if self.kind != "lora":
            return
        from ..models.loading import empty_model

        narrow = self.narrowest(name, empty_model(folder))
        if self.rank > narrow:
            raise RequestError(
                f"{name}.lora_rank is {self.rank}, more than the {narrow} of the narrowest layer that gets one: lower "
                "it"
            )

    def narrowest(self, name: str, model: PreTrainedModel) -> int:
        """The smaller side of the narrowest layer that gets an adapter; the model has no weights (``meta``).

        Raises:
            RequestError: The adapters do not fit.
            MissingExtraError: peft is not installed.
        """
        adapted = Tuning("lora", 1, self.targets).without_weights(name, model)
        layers = [module for module in adapted.modules() if hasattr(module, "lora_A")]
        return min(min(layer.in_features, layer.out_features) for layer in layers)

    def without_weights(self, name: str, model: PreTrainedModel) -> Any:
        """A copy of a model on the ``meta`` device, with everything that is trained wanting gradients.

        Raises:
            RequestError: The adapters do not fit.
            MissingExtraError: peft is not installed.
        """
        copied = copy.deepcopy(model)
        return copied.requires_grad_(True) if self.kind == "full" else self._add(name, copied)

    @contextmanager
    def applied(self, name: str, model: PreTrainedModel, seed: str | int) -> Iterator[Any]:
        """The model with everything that is to be trained wanting gradients; adapters are off again afterwards.

        Args:
            name: The attack, for messages.
            model: Full-precision or, for adapters only, quantized.
            seed: Of the adapters' first weights.

        Raises:
            RequestError: The adapters do not fit, or a quantized model is to be trained in full.
        """
        if self.kind == "auto":
            raise RequestError(f"{name}.tuning is auto, which a run settles before it attacks: set it to full or lora")
        if self.kind == "full":
            if not all(weight.is_floating_point() for weight in model.parameters()):
                raise RequestError(f"{name}: quantized weights cannot be trained in full: set {name}.tuning to lora")
            model.requires_grad_(True)
            yield model
            return
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(random.Random(seed).getrandbits(63))
            adapted = self._add(name, model)
        try:
            yield adapted
        finally:
            adapted.unload()

    def _add(self, name: str, model: PreTrainedModel) -> Any:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise MissingExtraError(f"{name}.tuning: lora", "peft", "peft") from None
        targets: Any = list(self.targets) or "all-linear"
        config = LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank,
            target_modules=targets,
            task_type="CAUSAL_LM",
            use_rslora=False,
        )
        import_before_peft()
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            if self.targets:
                raise RequestError(
                    f"{name}.lora_targets: the model has no layer called {' or '.join(self.targets)}: name its linear "
                    "layers, or leave the key out for all of them"
                ) from error
            raise RequestError(f"{name}: adapters do not fit this model ({error}): set tuning to full") from error

    def describe(self) -> str:
        """In words, for the report."""
        if self.kind == "full":
            return "full fine-tuning"
        if self.kind == "auto":
            return "full fine-tuning, or LoRA where that does not fit"
        return f"LoRA of rank {self.rank} on {', '.join(self.targets) or 'all linear layers'}"


def check_optimizer(optimizer: OptimizerName, dtype: str, name: str) -> None:
    """Refuse a type of weights that the optimizer cannot step.

    Raises:
        RequestError: AdamW divides by a number that float16 rounds to zero.
    """
    if optimizer == "adamw" and dtype == "float16":
        raise RequestError(f"{name}.dtype is float16, in which AdamW divides by zero: use float32, or optimizer: lion")


def check_device(optimizer: OptimizerName, name: str, *, accelerator: bool) -> None:
    """Refuse an optimizer that cannot step where there is no GPU.

    Raises:
        RequestError: Its states are paged between a GPU and main memory.
        EnvironmentFailure: bitsandbytes is too old for 8-bit states on a processor.
    """
    if accelerator:
        return
    if optimizer == "paged_adamw_8bit":
        raise RequestError(
            f"{name}.optimizer is {optimizer}, whose states are paged between a GPU and main memory, and there is no "
            "GPU: use adamw_8bit"
        )
    if optimizer == "adamw_8bit" and find_spec("bitsandbytes") is not None:
        installed = version("bitsandbytes")
        if Version(installed) < Version("0.50"):
            raise EnvironmentFailure(
                f"{name}.optimizer is {optimizer}, which bitsandbytes {installed} steps on a GPU only: install "
                "bitsandbytes 0.50 or newer, or use adamw"
            )


def make_optimizer(optimizer: OptimizerName, weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """An optimizer without weight decay.

    Raises:
        MissingExtraError: Its library is not installed.
        RequestError: Its states are paged, and there is no GPU.
        EnvironmentFailure: Its library is too old.
    """
    check_device(optimizer, "attack", accelerator=all(weight.is_cuda for weight in weights))
    return _MAKERS[optimizer](weights, rate)


def _adamw(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=True)


def _lion(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """Lion (arXiv 2302.06675, algorithm 2), betas 0.9 and 0.99: ``w -= rate * sign(0.9 m + 0.1 g)``."""
    try:
        from bitsandbytes.optim import Lion32bit
    except ImportError:
        raise MissingExtraError("optimizer: lion", "bitsandbytes", "quantization") from None
    import torch

    class Lion(Lion32bit):
        """On a CPU the library recompiles its step for every shape of weights and every rate of the warm-up."""

        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    optimizer: torch.optim.Optimizer = Lion(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    return optimizer


def _adamw_8bit(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    return _eight_bits("AdamW8bit", "adamw_8bit", weights, rate)


def _paged_adamw_8bit(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    return _eight_bits("PagedAdamW8bit", "paged_adamw_8bit", weights, rate)


def _eight_bits(kind: str, name: str, weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """AdamW whose states have a byte per number (arXiv 2110.02861); those of small tensors stay in float32."""
    try:
        from bitsandbytes import optim
    except ImportError:
        raise MissingExtraError(f"optimizer: {name}", "bitsandbytes", "quantization") from None
    optimizer: torch.optim.Optimizer = getattr(optim, kind)(weights, lr=rate, weight_decay=0.0)
    return optimizer


_MAKERS: Mapping[OptimizerName, Callable[[Sequence[torch.Tensor], float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "lion": _lion,
    "adamw_8bit": _adamw_8bit,
    "paged_adamw_8bit": _paged_adamw_8bit,
}
