"""Weights of the unlearned models compared with the target's, as quantizers see them: a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from .report_sections import NoiseRow
from .typed_json import Maybe, Schema
from .values import Part


@dataclass(frozen=True)
class OnGrid:
    """Two versions of the same weights on the grid of one format."""

    codes_changed: Annotated[Part, Schema("Share of weights with another code.")]
    scales_changed: Annotated[Part, Schema("Share of groups with another scale.")]
    update_over_step: Annotated[float | None, Schema("Mean |update| over the width of the bin.")]


OnGrids = Annotated[Mapping[str, OnGrid], Schema(define="on_grids")]


@dataclass(frozen=True)
class MagnitudeRow:
    """Weights of similar magnitude."""

    low: Annotated[float | None, Schema("Least |w| before; null for no least.", key="from")]
    high: Annotated[float | None, Schema(key="to")]
    weights: Annotated[Part, Schema("Of all weights.")]
    moved: Annotated[Part, Schema("Of these weights.")]
    mean_update: float | None


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        layer: Its number, or its name.
        weights: How many weights it has.
        moved: Share of them that differ from the target's.
        mean_update: Mean absolute difference.
        lost_in_bf16: Of the moved ones, the share whose update is gone once rounded to bfloat16.
        grids: By name of the grid.
    """

    layer: str
    weights: int
    moved: Part
    mean_update: float | None
    lost_in_bf16: Part
    grids: OnGrids


@dataclass(frozen=True)
class ComparedWeights:
    """All weights that quantizers replace, as in :class:`LayerRow`, with the moved ones by magnitude and by layer."""

    magnitudes: tuple[MagnitudeRow, ...]
    layers: tuple[LayerRow, ...]
    weights: int
    moved: Part
    mean_update: float | None
    lost_in_bf16: Part
    grids: OnGrids


@dataclass(frozen=True)
class SavedWeights:
    """What the checkpoint's own 16 bits dropped.

    Attributes:
        dtype: How it was saved.
        moved: Share of the trained weights that had moved.
        lost: Share of these that saving put back.
    """

    dtype: str
    moved: Part
    lost: Part


@dataclass(frozen=True)
class ExplainedModel:
    """One model's weights compared with the target's.

    Attributes:
        model: The model.
        reason: Why they could not be compared.
        saved: What saving dropped, where it was measured.
        compared: What was found; ``None`` where there is a reason.
    """

    model: str
    reason: Annotated[Maybe[str], Schema("Why there is nothing else.")] = None
    saved: Annotated[Maybe[SavedWeights], Schema("Updates that the checkpoint's own 16 bits dropped.")] = None
    compared: Annotated[ComparedWeights | None, Schema(inline=True)] = None


@dataclass(frozen=True)
class Explanation:
    """What unlearning did to weights, as quantizers see them.

    Attributes:
        grids: Format to the name of the grid it rounds to; formats without one are left out.
        models: Every model that was made from the target.
        noise: Formats compared with noise; made from the recovered shares when the report is built.
    """

    grids: Annotated[Mapping[str, str], Schema("Format to the name of its grid.")]
    models: tuple[ExplainedModel, ...]
    noise: Annotated[
        tuple[NoiseRow, ...],
        Schema("Recovered share in a format compared with that under noise as large as the format's error."),
    ] = ()
