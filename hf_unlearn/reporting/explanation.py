"""The report's explanation, typed: models beside the target on every grid, noise beside formats, pooled retention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..verification.report_rows import Share, entries, number, section
from .results import Results
from .words import listed, metric_phrase, show

SPACE = "\N{NO-BREAK SPACE}"
# A format brought something back where its share is so much above that of the model as it stands.
CAME_BACK = 0.10
_NOISE = "noise-"


@dataclass(frozen=True)
class OnGrid:
    """A model beside the target on the grid of one format.

    Attributes:
        format: The format.
        grid: Its grid.
        codes_changed: Share of weights with another code.
        scales_changed: Share of groups with another scale.
        update_over_step: Mean update in steps of the grid.
        share: The model's largest judged recovered share in this format (of the reported ones if none is judged).
        noise: Mean recovered share under noise of this grid's error in the same metric; ``None`` if not measured.
        noise_range: Least and largest over the draws, in words; empty if not measured.
    """

    format: str
    grid: str
    codes_changed: float | None
    scales_changed: float | None
    update_over_step: float | None
    share: Share | None
    noise: float | None
    noise_range: str


@dataclass(frozen=True)
class Layer:
    """One layer: number, share of weights that moved, share of those lost in bfloat16, codes changed by format."""

    name: str
    moved: float | None
    lost: float | None
    codes: Mapping[str, float | None]


@dataclass(frozen=True)
class Magnitude:
    """Weights of similar magnitude: where they lie, how many there are, which share of them moved."""

    label: str
    low: float | None
    high: float | None
    weights: float
    moved: float


@dataclass(frozen=True)
class Explained:
    """One model's weights beside the target's.

    Attributes:
        model: The model.
        reason: Why there is nothing else; empty where there is.
        moved: Share of weights that differ from the target's.
        lost: Of them, the share whose update is gone once rounded to bfloat16.
        saved: What the saved checkpoint lost, in words; empty where it was not measured.
        grids: By format, in the order of the gate.
        layers: In the order of the model.
        magnitudes: Smallest first.
    """

    model: str
    reason: str
    moved: float | None
    lost: float | None
    saved: str
    grids: tuple[OnGrid, ...]
    layers: tuple[Layer, ...]
    magnitudes: tuple[Magnitude, ...]


def explained(results: Results) -> tuple[Explained, ...]:
    """Every model that the report explains, in the order models are shown."""
    found = {row.model: row for row in (_explained(results, entry) for entry in _models(results))}
    shown = [subject.name for subject in results.judged if subject.name in found]
    return tuple(found[name] for name in [*shown, *(name for name in found if name not in shown)])


def came_back_sentences(results: Results, row: Explained) -> list[str]:
    """For every format that brought something back: whether noise of the same size does so too."""
    sentences = []
    for on in row.grids:
        if on.noise is None or on.share is None or on.share.share is None:
            continue
        as_is = next(
            (
                share.share
                for share in results.shares(row.model)
                if (share.transform, share.metric) == ("identity", on.share.metric)
            ),
            None,
        )
        if as_is is not None and on.share.share - as_is >= CAME_BACK:
            sentences.append(
                f"{row.model} in {on.format}: recovered share {show(on.share.share, 2)} by "
                f"{metric_phrase(on.share.metric)}, {show(as_is, 2)} as it stands, {show(on.noise, 2)} under noise as "
                f"large as the rounding error ({on.noise_range})"
            )
    return sentences


def pooled_sentence(results: Results) -> str:
    """Pooled retention under every transform; empty where the run has one method."""
    rows = entries(results.report, "pooled")
    if not rows:
        return ""
    methods, metrics = rows[0].get("methods") or (), rows[0].get("metrics") or ()
    parts = [
        f"{results.transform_label(str(row.get('transform')))} {percent(number(row.get('retention')))}"
        for row in rows
        if not str(row.get("transform")).startswith(_NOISE)
    ]
    over = listed([metric_phrase(metric) for metric in metrics])
    return f"Pooled retention of {len(methods)} methods ({', '.join(methods)}) by {over}: {', '.join(parts)}."


def formats_table(results: Results) -> list[tuple[str, ...]]:
    """Format, library, bits, size, share of weights quantized, reload error and calibration, as texts."""
    rows: list[tuple[str, ...]] = []
    for info in entries(results.report, "formats"):
        size = number(info.get("bytes"))
        rows.append(
            (
                str(info.get("format")),
                f"{info.get('library', '–')} {info.get('version', '')}".strip(),
                f"{number(info.get('bits')) or 0:g}" if info.get("bits") is not None else "–",
                "–" if size is None else f"{size / 1e6:,.1f} MB",
                percent(number(info.get("quantized_share"))),
                f"{number(info.get('reload_error')) or 0:.1e}",
                calibration_words(info.get("calibration")),
            )
        )
    return rows


def calibration_words(calibration: Any) -> str:
    """What a format was calibrated with, in one line."""
    if not isinstance(calibration, Mapping) or not calibration:
        return "none"
    plain = {key: value for key, value in calibration.items() if not isinstance(value, (Mapping, list))}
    return ", ".join(f"{str(key).replace('_', ' ')} {value}" for key, value in plain.items() if value is not None)


def percent(share: float | None) -> str:
    """A share as a percentage: whole ones, with decimals where it is small or nearly all."""
    if share is None:
        return "–"
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}{SPACE}%"
    digits = 0 if 0.1 <= share <= 0.9 else 1 if 0.01 <= share <= 0.99 else 2
    text = f"{100 * share:.{digits}f}"
    if not float(text):
        return f"<{SPACE}0.01{SPACE}%"
    return f">{SPACE}99.99{SPACE}%" if float(text) == 100 else f"{text}{SPACE}%"


def _models(results: Results) -> list[Mapping[str, Any]]:
    return entries(section(results.report, "explanation"), "models")


def _explained(results: Results, entry: Mapping[str, Any]) -> Explained:
    model = str(entry.get("model"))
    named = section(section(results.report, "explanation"), "grids")
    order = {transform.name: place for place, transform in enumerate(results.transforms)}
    formats = sorted(map(str, named), key=lambda name: order.get(name, len(order)))
    return Explained(
        model,
        str(entry.get("reason") or ""),
        number(entry.get("moved")),
        number(entry.get("lost_in_bf16")),
        _saved_words(section(entry, "saved")),
        tuple(
            _on_grid(results, model, name, str(named[name]), section(section(entry, "grids"), str(named[name])))
            for name in formats
            if named[name] in section(entry, "grids")
        ),
        tuple(
            Layer(
                str(row.get("layer")),
                number(row.get("moved")),
                number(row.get("lost_in_bf16")),
                {
                    name: number(section(section(row, "grids"), str(named[name])).get("codes_changed"))
                    for name in formats
                },
            )
            for row in entries(entry, "layers")
        ),
        tuple(_magnitude(row) for row in entries(entry, "magnitudes")),
    )


def _on_grid(results: Results, model: str, name: str, grid: str, values: Mapping[str, Any]) -> OnGrid:
    share = results.largest_share(model, name)
    if share is None:
        shares = [row for row in results.shares(model) if row.transform == name and row.share is not None]
        share = max(shares, key=lambda row: row.share or 0.0, default=None)
    noise = next(
        (
            row
            for row in entries(section(results.report, "explanation"), "noise")
            if share is not None
            and (row.get("model"), row.get("format"), row.get("metric")) == (model, name, share.metric)
        ),
        None,
    )
    return OnGrid(
        name,
        grid,
        number(values.get("codes_changed")),
        number(values.get("scales_changed")),
        number(values.get("update_over_step")),
        share,
        number(noise.get("noise_share")) if noise else None,
        _range_words(noise) if noise else "",
    )


def _range_words(noise: Mapping[str, Any]) -> str:
    if noise.get("draws") == 1:
        return "one draw"
    low, high = (number(value) for value in noise.get("noise_range") or (None, None))
    return f"{show(low, 2)} to {show(high, 2)} over {noise.get('draws')} draws"


def _saved_words(saved: Mapping[str, Any]) -> str:
    if not saved:
        return ""
    return (
        f"Saving in {saved.get('dtype')} dropped {percent(number(saved.get('lost')))} of the updates "
        f"({percent(number(saved.get('moved')))} of the trained weights had moved)."
    )


def _magnitude(row: Mapping[str, Any]) -> Magnitude:
    low, high = number(row.get("from")), number(row.get("to"))
    if low is None:
        label = f"under {high:.2g}" if high is not None else "all"
    else:
        label = f"{low:.2g} to {high:.2g}" if high is not None else f"{low:.2g} and more"
    return Magnitude(label, low, high, number(row.get("weights")) or 0.0, number(row.get("moved")) or 0.0)
