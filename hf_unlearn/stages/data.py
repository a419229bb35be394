"""The rows of a run: every set that a recipe names, read or generated, and checked against each other."""

from __future__ import annotations

from dataclasses import replace

from ..data.checks import check_bundle, holding_forgotten
from ..data.example import EMPTY_SET, DataBundle, RowSet
from ..data.planted import make_planted
from ..data.repeats import repeats
from ..data.sources import Source, load_source, scored_apart
from ..errors import RequestError
from ..recipe import Recipe


def load_bundle(recipe: Recipe) -> DataBundle:
    """Read or generate every set of a recipe and check them.

    Raises:
        RequestError: Missing file or column, an empty set, a row in both forget and retain (with file and line), or
            neither a never-knew model nor a holdout set to compare with.
        EnvironmentFailure: The Hub could not be reached.
    """
    data = recipe.data
    if data.planted is not None:
        bundle = make_planted(data.planted)
    else:
        sets = {
            name: _load_set(source, name, f"data.{name}")
            for name, source in (
                ("forget", data.forget),
                ("retain", data.retain),
                ("holdout", data.holdout),
                ("generic", data.generic),
            )
            if source is not None
        }
        for name, source in data.score.items():
            asked = scored_apart(_load_set(source, name, f"data.score.{name}").score)
            sets[name] = replace(sets[name], score=asked)
        extra = {name: _load_set(source, name, f"data.extra.{name}") for name, source in data.extra.items()}
        holdout, generic = (sets.get(name, EMPTY_SET) for name in ("holdout", "generic"))
        bundle = DataBundle(sets["forget"], sets["retain"], holdout, generic, extra)
    check_bundle(bundle)
    if not recipe.model.has_never_knew and not bundle.holdout.score:
        raise RequestError(
            "there is nothing to compare with: give a never-knew model (model.never_knew) or a holdout set "
            "(data.holdout)"
        )
    return bundle


def told_repeats(bundle: DataBundle) -> list[str]:
    """One sentence for each set that is scored and has rows which say what an earlier one says, and one for generic
    rows in which text to be forgotten stands."""
    found = {name: repeats(rows) for name, rows in bundle.scored_sets().items()}
    inside = holding_forgotten(bundle)
    told = f"{inside} rows of the generic set hold text of the forget set, which is kept with them: take them out."
    return ([told] if inside else []) + [
        f"{count} of the {len(bundle.scored_sets()[name])} rows of the {name} set say what an earlier row says: they "
        "count as the same fact."
        for name, count in found.items()
        if count
    ]


def _load_set(source: Source, name: str, key: str) -> RowSet:
    try:
        return load_source(source, name)
    except RequestError as error:
        raise RequestError(f"{key}: {error}") from error
