"""The rows of a run: every set that a recipe names, read or generated, and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..data.checks import check_bundle, holding_forgotten
from ..data.columns import Columns
from ..data.example import EMPTY_SET, DataBundle, RowSet
from ..data.planted import make_planted
from ..data.repeats import repeats
from ..data.sources import Source, load_source, scored_apart
from ..errors import HfUnlearnError, RequestError, about, one_error
from ..recipe import Recipe
from .earlier_rows import with_earlier
from .known_rows import only_known
from .settled import Begun, Target, settle_dtype, settle_form, with_other_form
from .target_answers import TargetAnswers
from .world import make_world


def load_bundle(recipe: Recipe, say: Callable[[str], None] = lambda text: None) -> DataBundle:
    """Every set of a recipe, see :func:`load_data`."""
    return load_data(recipe, say)[1]


def load_data(
    recipe: Recipe, say: Callable[[str], None] = lambda text: None, begun: Begun | None = None
) -> tuple[Recipe, DataBundle]:
    """Read or generate every set of a recipe and check them, and settle what the recipe leaves to the target.

    All processes call this together.

    Args:
        recipe: The recipe.
        say: Told what is about to take time.
        begun: What the run's folder was begun with, if something was made in it: its decisions stay.

    Returns:
        The recipe without an ``auto``, and the sets. Their notes say what was decided.

    Raises:
        RequestError: Missing file or column, an empty set, a row in both forget and retain (with file and line), or
            neither a never-knew model nor a holdout set to compare with.
        EnvironmentFailure: The Hub could not be reached.
    """
    data, target, begun = recipe.data, Target(recipe.model), begun or {}
    if data.planted is not None:
        recipe, told = settle_form(recipe, None, target, begun)
        with about("data.planted"):
            bundle = make_planted(data.planted)
    elif data.world is not None:
        recipe, told = settle_form(recipe, None, target, begun)
        with about("data.world"):
            bundle = make_world(data.world, _target(recipe, "data.world"), say)
    else:
        main = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout, "generic": data.generic}
        named = {(f"data.{name}", name): source for name, source in main.items() if source is not None}
        named |= {(f"data.score.{name}", name): source for name, source in data.score.items()}
        named |= {(f"data.extra.{name}", name): source for name, source in data.extra.items()}
        loaded = _load_sets(named)
        sets = {name: loaded[f"data.{name}"] for name in main if f"data.{name}" in loaded}
        for name in data.score:
            sets[name] = replace(sets[name], score=scored_apart(loaded[f"data.score.{name}"].score))
        extra = {name: loaded[f"data.extra.{name}"] for name in data.extra}
        holdout, generic = (sets.get(name, EMPTY_SET) for name in ("holdout", "generic"))
        recipe, told = settle_form(recipe, sets["forget"], target, begun)
        bundle = _without_unknown(recipe, DataBundle(sets["forget"], sets["retain"], holdout, generic, extra))
    bundle = with_earlier(recipe, bundle)
    check_bundle(bundle)
    if not recipe.model.has_never_knew and not bundle.holdout.score:
        raise RequestError(
            "there is nothing to compare with: give a never-knew model (model.never_knew) or a holdout set "
            "(data.holdout)"
        )
    recipe, of_dtype = settle_dtype(recipe, target, begun)
    recipe, of_attacks = with_other_form(recipe, bundle, target, begun)
    return recipe, replace(bundle, notes=(*bundle.notes, *told, *of_dtype, *of_attacks))


def _target(recipe: Recipe, key: str) -> TargetAnswers:
    if recipe.model.target is None:
        raise RequestError(f"{key} asks the target what it knows, and model.scratch builds one: name model.target")
    with about("model.target"):
        return TargetAnswers.of(recipe)


def _without_unknown(recipe: Recipe, bundle: DataBundle) -> DataBundle:
    """The sets without the rows that their ``known`` leaves out."""
    data = recipe.data
    main = {"forget": data.forget, "retain": data.retain}
    asking = {name: source for name, source in main.items() if source is not None and source.known is not None}
    if not asking:
        return bundle
    first = f"data.{next(iter(asking))}.known"
    with about(first):
        target, notes = _target(recipe, first), []
    sets = {"forget": bundle.forget, "retain": bundle.retain}
    for name, source in asking.items():
        with about(f"data.{name}.known"):
            if name in data.score:
                raise RequestError(
                    f"data.{name}.known: data.score.{name} names other rows to ask for: remove one of them"
                )
            assert source.known is not None
            sets[name], told = only_known(sets[name], source.known, target, name)
        notes.append(told)
    return replace(bundle, forget=sets["forget"], retain=sets["retain"], notes=tuple(notes))


def notes_on(bundle: DataBundle) -> list[str]:
    """How the rows were chosen, and one sentence for each scored set with rows which say what an earlier one says."""
    return [*bundle.notes, *told_repeats(bundle)]


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


def _load_sets(named: Mapping[tuple[str, str], Source]) -> dict[str, RowSet]:
    """Sets by key. What is wrong with any of them is told at once."""
    loaded: dict[str, RowSet] = {}
    errors: list[HfUnlearnError] = []
    for (key, name), source in named.items():
        try:
            with about(key):
                loaded[key] = _load_set(source, name, key)
        except HfUnlearnError as error:
            errors.append(error)
            if not isinstance(error, RequestError):
                break  # a Hub that does not answer would be waited for once more
    if errors:
        raise one_error(errors)
    return loaded


def _load_set(source: Source, name: str, key: str) -> RowSet:
    try:
        if name in ("forget", "retain"):  # those that the target does not know are left out later
            source = replace(source, known=None)
        return load_source(source, name)
    except RequestError as error:
        with about(f"{key}.{_blamed(source, str(error))}"):
            raise RequestError(f"{key}: {error}") from error


def _blamed(source: Source, message: str) -> str:
    """The key of a source that a message about it leads to: the one it begins with, a named column, or the file."""
    named = {name: value for name, value in vars(source).items() if isinstance(value, str)}
    first = message.partition(" ")[0].partition("=")[0]
    if first in vars(source):
        return first
    columns = [name for name, value in named.items() if name in vars(Columns()) and f"column {value!r}" in message]
    return columns[0] if columns else "path" if source.path else "dataset"
