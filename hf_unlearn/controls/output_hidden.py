"""Positive control: a model that knows as before and only does not say so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..data.example import DataBundle, RowSet
from ..errors import RequestError
from ..models.decoder import decoder_layers
from ..robust.base import TermWeights, TrainingContext
from . import CONTROLS
from .base import ControlPart


@CONTROLS.register(
    "output_hidden",
    summary="Only the last layers change: a refusal is put in front of the answers, or their tokens are suppressed.",
    paper="arXiv 2401.06121 (refusals as unlearning)",
    defaults={"how": "refusal", "refusal": " I do not know.", "layers": 1},
    needs=("retain",),
)
@dataclass(frozen=True)
class OutputHidden(ControlPart):
    """Hides answers at the very end of the model.

    All but the last layers, the final norm and the output head are frozen. With ``how: refusal`` these learn, by the
    retain term, to answer forget prompts with a refusal and all else as before; the forget term is not used, and the
    order of the true answers behind the refusal is left as it was. With ``how: suppressed`` they are trained by
    whatever forget and retain losses the recipe names, which takes the answer's tokens away and nothing else.

    Where embeddings and output head are one matrix it is frozen.

    Args:
        how: ``refusal`` or ``suppressed``.
        refusal: The text of the refusal, with its leading space.
        layers: Number of layers, from the last, that are trained.

    Raises:
        RequestError: Another way, an empty refusal, or a negative number of layers.
    """

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False

    how: Literal["refusal", "suppressed"] = "refusal"
    refusal: str = " I do not know."
    layers: int = 1

    def __post_init__(self) -> None:
        if self.how not in ("refusal", "suppressed"):
            raise RequestError(f"output_hidden: how is {self.how!r}, it must be 'refusal' or 'suppressed'")
        if not isinstance(self.refusal, str) or not self.refusal.strip():
            raise RequestError("output_hidden: refusal is empty, it must be the text of a refusal")
        if self.layers < 0:
            raise RequestError(f"output_hidden: layers is {self.layers}, it must be at least 0")

    def training_rows(self, bundle: DataBundle) -> DataBundle:
        """Forget prompts with a refusal are among the retained rows.

        Raises:
            RequestError: A forget row has no prompt that could be refused.
        """
        if self.how != "refusal":
            return bundle
        without = next((row for row in bundle.forget.train if not row.prompt and not row.turns), None)
        if without is not None:
            raise RequestError(
                f"output_hidden: the forget row {without.origin or without.id} has no prompt that could be refused: "
                "use how: suppressed"
            )
        refused = tuple(
            replace(row, id=f"{row.id}-refused", answer=self.refusal, choices=()) for row in bundle.forget.train
        )
        return replace(bundle, retain=RowSet(refused + bundle.retain.train, bundle.retain.score))

    def term_weights(self, step: int) -> TermWeights:
        """A refusal is learned, nothing is unlearned."""
        return TermWeights(forget=0.0) if self.how == "refusal" else TermWeights()

    def prepare(self, context: TrainingContext) -> None:
        """Freezes all but the end of the model."""
        layers = decoder_layers(context.model)
        if self.layers > len(layers):
            raise RequestError(f"output_hidden: layers is {self.layers}, but the model has {len(layers)}")
        embedding = context.model.get_input_embeddings()  # type: ignore[operator]
        frozen = [*embedding.parameters()]
        frozen += [parameter for layer in layers[: len(layers) - self.layers] for parameter in layer.parameters()]
        for parameter in frozen:
            parameter.requires_grad_(False)
