"""The report's explanation for people: weights on every grid, noise next to formats, pooled retention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..verification.explanation import ExplainedModel, LayerRow, MagnitudeRow, OnGrid, SavedWeights
from ..verification.recovered import RecoveredRow
from ..verification.references import IDENTITY
from ..verification.report_sections import NoiseRow
from ..verification.values import Settings
from .results import Results
from .words import listed, metric_phrase, percent, show

# A format brought something back if its share is this much above that of the model as it is.
CAME_BACK = 0.10
_NOISE = "noise-"
_SHORT = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class InFormat:
    """A model in one format: its weights compared with the target's on the grid of the format, and what came back.

    Attributes:
        format: The format.
        grid: Its grid.
        weights: Both models on that grid.
        share: The model's largest judged recovered share in this format (of the reported ones if none is judged).
        noise: Recovered share under noise of this grid's error in the same metric; ``None`` if not measured.
    """

    format: str
    grid: str
    weights: OnGrid
    share: RecoveredRow | None
    noise: NoiseRow | None

    @property
    def noise_share(self) -> float | None:
        """Mean recovered share under noise."""
        return self.noise.noise_share if self.noise else None

    @property
    def noise_range(self) -> str:
        """Least and largest share over the draws of noise, in words; empty if not measured."""
        if self.noise is None:
            return ""
        if self.noise.draws == 1:
            return "one draw"
        low, high = self.noise.noise_range
        return f"{show(low, 2)} to {show(high, 2)} over {self.noise.draws} draws"


@dataclass(frozen=True)
class Explained:
    """One model's weights compared with the target's.

    Attributes:
        model: The model.
        reason: Why there is nothing else; empty otherwise.
        moved: Share of weights that differ from the target's.
        lost: Of them, the share whose update is gone once rounded to bfloat16.
        saved: What the saved checkpoint lost, in words; empty if it was not measured.
        formats: In the order of the gate.
        layers: In the order of the model.
        magnitudes: Smallest first.
    """

    model: str
    reason: str
    moved: float | None
    lost: float | None
    saved: str
    formats: tuple[InFormat, ...]
    layers: tuple[LayerRow, ...]
    magnitudes: tuple[MagnitudeRow, ...]


def explained(results: Results) -> tuple[Explained, ...]:
    """Every model that the report explains, in the order models are shown."""
    explanation = results.report.explanation
    found = {row.model: _explained(results, row) for row in (explanation.models if explanation else ())}
    shown = [subject.name for subject in results.judged if subject.name in found]
    return tuple(found[name] for name in [*shown, *(name for name in found if name not in shown)])


def came_back_sentences(results: Results, row: Explained) -> list[str]:
    """For every format that brought something back: whether noise of the same size does so too."""
    sentences = []
    for found in row.formats:
        if found.noise is None or found.share is None or found.share.recovered_share is None:
            continue
        metric, share = found.share.metric, found.share.recovered_share
        as_is = next(
            (
                other.recovered_share
                for other in results.shares(row.model)
                if (other.transform, other.metric) == (IDENTITY, metric)
            ),
            None,
        )
        if as_is is not None and share - as_is >= CAME_BACK:
            sentences.append(
                f"{row.model} in {found.format}: recovered share {show(share, 2)} by {metric_phrase(metric)}, "
                f"{show(as_is, 2)} as it stands, {show(found.noise_share, 2)} under noise as large as the rounding "
                f"error ({found.noise_range})"
            )
    return sentences


def pooled_sentence(results: Results) -> str:
    """Pooled retention under every transform; empty if the run has one method."""
    rows = results.report.pooled
    if not rows:
        return ""
    methods, metrics = rows[0].methods, rows[0].metrics
    parts = [
        f"{results.transform_label(row.transform)} {percent(row.retention)}"
        for row in rows
        if not row.transform.startswith(_NOISE)
    ]
    over = listed([metric_phrase(metric) for metric in metrics])
    return f"Pooled retention of {len(methods)} methods ({', '.join(methods)}) by {over}: {', '.join(parts)}."


def formats_table(results: Results) -> list[tuple[str, ...]]:
    """Format, library, bits, size, share of weights quantized, reload error and calibration, as texts."""
    return [
        (
            info.format,
            f"{info.library or '–'} {info.version or ''}".strip(),
            "–" if info.bits is None else f"{info.bits:g}",
            "–" if info.bytes is None else f"{info.bytes / 1e6:,.1f} MB",
            percent(info.quantized_share),
            f"{info.reload_error or 0:.1e}",
            calibration_words(info.calibration),
        )
        for info in results.report.formats
    ]


def calibration_words(calibration: Settings | None) -> str:
    """What a format was calibrated with, in one line."""
    if not calibration:
        return "none"
    plain = {key: value for key, value in calibration.items() if not isinstance(value, (Mapping, list))}
    return ", ".join(f"{str(key).replace('_', ' ')} {value}" for key, value in plain.items() if value is not None)


def magnitude_label(row: MagnitudeRow) -> str:
    """The range of a bucket's weights: ``under 0.00024``, ``0.00024 to 0.00049``, ``1 and more``."""
    if row.low is None:
        return f"under {row.high:.2g}" if row.high is not None else "all"
    return f"{row.low:.2g} to {row.high:.2g}" if row.high is not None else f"{row.low:.2g} and more"


def _explained(results: Results, row: ExplainedModel) -> Explained:
    found = row.compared
    return Explained(
        model=row.model,
        reason=row.reason or "",
        moved=found.moved if found else None,
        lost=found.lost_in_bf16 if found else None,
        saved=_saved_words(row.saved),
        formats=_in_formats(results, row.model, found.grids) if found else (),
        layers=found.layers if found else (),
        magnitudes=found.magnitudes if found else (),
    )


def _in_formats(results: Results, model: str, on_grids: Mapping[str, OnGrid]) -> tuple[InFormat, ...]:
    explanation = results.report.explanation
    grid_of = explanation.grids if explanation else {}
    order = {transform.name: place for place, transform in enumerate(results.transforms)}
    names = sorted(grid_of, key=lambda name: order.get(name, len(order)))
    found = []
    for name in (name for name in names if grid_of[name] in on_grids):
        share = _share_to_show(results, model, name)
        noise = _noise_beside(results, model, name, share.metric) if share else None
        found.append(InFormat(name, grid_of[name], on_grids[grid_of[name]], share, noise))
    return tuple(found)


def _share_to_show(results: Results, model: str, name: str) -> RecoveredRow | None:
    judged = results.largest_share(model, name)
    if judged is not None:
        return judged
    shares = [row for row in results.shares(model) if row.transform == name and row.recovered_share is not None]
    return max(shares, key=lambda row: row.recovered_share or 0.0, default=None)


def _noise_beside(results: Results, model: str, name: str, metric: str) -> NoiseRow | None:
    explanation = results.report.explanation
    rows = explanation.noise if explanation else ()
    return next((row for row in rows if (row.model, row.format, row.metric) == (model, name, metric)), None)


def _saved_words(saved: SavedWeights | None) -> str:
    if saved is None:
        return ""
    return (
        f"{percent(saved.lost)} of the changes vanish if saved in {_SHORT.get(saved.dtype, saved.dtype)} "
        f"({percent(saved.moved)} of the trained weights had moved)."
    )
