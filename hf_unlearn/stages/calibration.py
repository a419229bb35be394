"""The calibration text of a run: chosen once, before anything is trained, and the same for every model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data.sources import Source, load_source
from ..errors import RequestError
from ..quantization import calibration_kinds
from ..quantization.calibration import Calibration, Text, choose

if TYPE_CHECKING:
    from ..data.example import DataBundle
    from ..recipe import Recipe


def choose_calibrations(recipe: Recipe, bundle: DataBundle) -> dict[str, Calibration]:
    """Calibration text by format; empty if none needs it.

    Raises:
        RequestError: The text is not usable: it is missing, empty, short, the forget set, or scored.
        EnvironmentFailure: The Hub could not be reached.
    """
    kinds = calibration_kinds(recipe.export.formats, recipe.export.calibration.kind)
    if not kinds:
        return {}
    spec = recipe.export.calibration
    text = _text(recipe, bundle)
    by_kind = {
        kind: choose(kind, spec, text, bundle, recipe.data.format.text_format(), recipe.seed)
        for kind in dict.fromkeys(kinds.values())
    }
    return {name: by_kind[kind] for name, kind in kinds.items()}


def _text(recipe: Recipe, bundle: DataBundle) -> Text:
    source = recipe.export.calibration.source
    if source is not None:
        try:
            return Text(load_source(source, "calibration").train, public_name(source), source.revision)
        except RequestError as error:
            raise RequestError(f"export.calibration.source: {error}") from error
    if recipe.data.planted is not None:
        return Text(bundle.generic.train, "ordinary sentences made beside the planted facts")
    if recipe.data.world is not None:
        return Text(bundle.generic.train, "ordinary sentences made beside facts about the world")
    generic = recipe.data.generic
    if generic is None:
        raise RequestError(
            "formats are calibrated on ordinary text, and the recipe names none: add data.generic, or name a text in "
            "export.calibration.source"
        )
    return Text(bundle.generic.train, public_name(generic), generic.revision)


def public_name(source: Source) -> str:
    """What a report may call a source: its Hub id, never a local path."""
    return "a local file" if source.path else source.label
