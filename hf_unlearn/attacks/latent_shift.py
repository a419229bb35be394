"""Latent perturbations: a bounded shift of hidden states after some layers, fitted on T and asked on V.

Sources: Sheshadri et al., "Latent Adversarial Training Improves Robustness to Persistent Harmful Behaviors in LLMs"
(arXiv 2407.15549), and its released code (``latent_at/laa/attacks.py``: a perturbation of hidden states that projected
gradient steps keep within an L2 norm); as attacks on unlearned models arXiv 2502.05209. There every question gets
perturbations of its own, token by token, fitted to its answer. Here it is one vector for each layer, the same at every
token of every question, for what is fitted on T must be usable on V. The bound is a share of the usual length of a
hidden state after that layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import EncodedRow
from ..errors import RequestError
from . import ATTACKS
from .base import Attacked
from .fitted import FittedAttack, Lent
from .model_cache import CachedModel
from .retraining_settings import check_least

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_LOOKED_AT = 64
"""Rows of T that the usual length of a hidden state is taken from."""


@ATTACKS.register(
    "latent-shift",
    summary="shift hidden states by a bounded vector per layer, fitted on some facts, and ask for the others",
    paper="arXiv 2407.15549 (latent perturbations), arXiv 2502.05209 (on unlearning)",
    defaults=("bounds", "layers", "step", "epochs", "batch_size", "folds", "run_folds"),
    needs=("groups", "never-knew control"),
    tier="deep",
)
@dataclass(frozen=True, kw_only=True)
class LatentShift(FittedAttack):
    """Settings of latent perturbations. They are reported, and judged only if a gate names the attack.

    Attributes:
        bounds: Greatest length of each vector, as a share of the usual length of a hidden state after its layer; the
            attacker keeps the best.
        layers: Number of layers whose states are shifted, evenly spread, including the last.
        step: How far one step moves a vector at most, as a share of its bound.
    """

    bounds: tuple[float, ...] = (0.1, 0.5)
    layers: int = 4
    step: float = 0.1

    name: ClassVar[str] = "latent-shift"
    turned: ClassVar[str] = "bound"

    def __post_init__(self) -> None:
        check_least(self.name, "layers", self.layers, 1)
        if not self.bounds or min(self.bounds) <= 0:
            raise RequestError(f"{self.name}.bounds must name at least one share above 0, and only such")
        if len(set(self.bounds)) < len(self.bounds):
            raise RequestError(f"{self.name}.bounds names one twice: once is enough")
        if not 0 < self.step <= 1:
            raise RequestError(f"{self.name}.step is {self.step}: it must be above 0 and at most 1")
        super().__post_init__()

    @property
    def swept(self) -> Sequence[float]:
        """The bounds."""
        return self.bounds

    def shown(self) -> dict[str, Any]:
        """Where states are shifted, and how far at most."""
        return {
            "trained": f"a shift of hidden states after {self.layers} layers",
            "layers": self.layers,
            "bounds": list(self.bounds),
        }

    def check(self, attacked: Attacked) -> None:
        """Refuse a model whose layers are not known."""
        from ..models.decoder import decoder_layers
        from ..models.loading import empty_model

        decoder_layers(empty_model(attacked.folder))

    def lend(self, cached: CachedModel, rows: Sequence[EncodedRow], setting: float) -> tuple[Lent, float]:
        """Shifts that begin at nothing."""
        lengths = cached.once((self.layers, tuple(rows)), lambda: usual_lengths(cached.model, rows, self.layers))
        lent = Shifts(cached.model, {number: setting * length for number, length in lengths.items()})
        return lent, self.step / lent.width**0.5


def usual_lengths(model: PreTrainedModel, rows: Sequence[EncodedRow], layers: int) -> dict[int, float]:
    """The median length of hidden states over the tokens of the first rows, by number of layer (from 1).

    A median, since many models have a first token whose state outweighs all others.
    """
    import torch

    from ..evaluation.batch import padded_batch
    from ..evaluation.hidden import spread_layers
    from ..models.decoder import decoder_layers, watched_layers

    stack = decoder_layers(model)
    numbers = spread_layers(len(stack), layers)
    found: dict[int, list[Tensor]] = {number: [] for number in numbers}
    backbone: Any = model.get_decoder()
    for row in rows[:_LOOKED_AT]:
        batch = padded_batch([row.input_ids], model.device)
        with torch.no_grad(), watched_layers({number: stack[number - 1] for number in numbers}) as caught:
            backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        for number in numbers:
            found[number].append(caught[number][0].float().norm(dim=-1).cpu())
    return {number: float(torch.cat(lengths).median()) for number, lengths in found.items()}


class Shifts(Lent):
    """One vector for each of some layers, added to every hidden state that it returns.

    Args:
        model: Its layers are hooked, its weights left alone.
        bounds: Greatest length of each vector, by number of layer (from 1).
    """

    def __init__(self, model: PreTrainedModel, bounds: Mapping[int, float]) -> None:
        import torch

        from ..models.decoder import decoder_layers

        stack = decoder_layers(model)
        self._layers = {number: stack[number - 1] for number in bounds}
        self._bounds = dict(bounds)
        self.width = int(model.config.get_text_config().hidden_size)
        # In units of the bounds, so that one rate serves layers whose states differ in length.
        self._units = {
            number: torch.zeros(self.width, device=model.device, requires_grad=True) for number in self._bounds
        }

    @property
    def weights(self) -> list[Tensor]:
        """The vectors in units of their bounds, ``[width]`` each."""
        return list(self._units.values())

    @property
    def vectors(self) -> dict[int, Tensor]:
        """What is added, by number of layer: ``[width]`` each."""
        return {number: self._bounds[number] * unit for number, unit in self._units.items()}

    def keep_bound(self) -> None:
        """Shorten what is longer than its bound: the projected gradient step of arXiv 2407.15549."""
        import torch

        with torch.no_grad():
            for unit in self._units.values():
                unit.div_(unit.norm().clamp(min=1.0))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block hidden states are shifted."""
        vectors = self.vectors
        handles = [layer.register_forward_hook(_adding(vectors[number])) for number, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adding(vector: Tensor) -> Any:
    def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden + vector.to(hidden.device, hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return change
