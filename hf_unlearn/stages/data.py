"""Every row as tokens, once and before anything is trained: what does not fit is refused while nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.checks import check_bundle
from ..data.encoding import check_tokenizer, encode_row, encode_rows, load_tokenizer
from ..data.example import DataBundle, RowSet
from ..data.planted import make_planted
from ..data.sources import Source, load_source, scored_apart
from ..errors import RequestError
from ..models.scratch import build_tokenizer
from ..recipe import Recipe
from .context import RunContext
from .models import tokenizer_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_scratch_texts(context: RunContext) -> None:
    """Check the rows with the tokenizer that a model built from scratch will have, before it is built.

    Raises:
        RequestError: See :func:`check_texts`.
    """
    spec = context.recipe.model.scratch
    assert spec is not None  # asked for only where the recipe builds its models
    tokenizer = build_tokenizer(tokenizer_texts(context.bundle), spec)
    tokenizer.name_or_path = "built from the data"
    check_texts(context, tokenizer, spec.max_positions)


def check_target_texts(context: RunContext, target: Path) -> None:
    """Check the rows with the tokenizer of a model that is there.

    Raises:
        RequestError: See :func:`check_texts`.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(str(target))
    try:
        config = AutoConfig.from_pretrained(target)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"model.target: {target} has a config.json that cannot be used: {reason}") from error
    check_texts(context, tokenizer, getattr(config.get_text_config(), "max_position_embeddings", None))


def check_texts(context: RunContext, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> None:
    """Tokenize every row of every set.

    Args:
        context: The run.
        tokenizer: The target's tokenizer.
        positions: Most tokens the model can read, if it has such a limit.

    Raises:
        RequestError: The tokenizer cannot batch or render the rows, or rows are too long (how many, and the longest).
    """
    data, bundle = context.recipe.data, context.bundle
    trained = [row for rows in (bundle.forget, bundle.retain, bundle.generic) for row in rows]
    scored = [row for rows in (bundle.holdout, *bundle.extra.values()) for row in rows]
    check_tokenizer(tokenizer, context.text_format, (*trained, *scored))
    # The target has not been asked yet whether ends are labels: where it might be, there is room for them.
    ends = tokenizer.eos_token_id is not None or context.text_format.end != "auto"
    encoded = encode_rows(
        trained, tokenizer, context.text_format, eos=ends, max_length=data.max_length, truncation=data.truncation
    )
    # Scoring cuts nothing.
    encoded += [encode_row(row, tokenizer, context.text_format, eos=False) for row in scored]
    too_long = [place for place, row in enumerate(encoded) if positions is not None and len(row.input_ids) > positions]
    if too_long:
        worst = max(too_long, key=lambda place: len(encoded[place].input_ids))
        raise RequestError(
            f"{len(too_long)} of {len(encoded)} rows have more tokens than the {positions} that the model can read, "
            f"the longest has {len(encoded[worst].input_ids)} ({(trained + scored)[worst].origin}): take them out, or "
            f"set data.max_length={positions} and data.truncation=cut"
        )


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
        bundle = DataBundle(**sets, extra=extra)
    check_bundle(bundle)
    if recipe.model.scratch is None and recipe.model.never_knew is None and not bundle.holdout.score:
        raise RequestError(
            "there is nothing to compare with: give a never-knew model (model.never_knew) or a holdout set "
            "(data.holdout)"
        )
    return bundle


def _load_set(source: Source, name: str, key: str) -> RowSet:
    try:
        return load_source(source, name)
    except RequestError as error:
        raise RequestError(f"{key}: {error}") from error
