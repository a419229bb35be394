"""Every refusal that can be known before work starts, as three lists: by the recipe, with its rows, with its models.

A check takes its list's subject and raises; a new one is a function here and an entry in a list. What has to be
measured first, such as whether the target knows the facts, is in the :mod:`~hf_unlearn.stages.baselines` stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..attacks.base import Attack, Attacked
from ..attacks.composed import after_of
from ..data.encoding import check_chat_template, encode_row, encode_rows, load_tokenizer
from ..errors import RequestError, first_line
from ..evaluation.suites.harness import check_harness
from ..models.limits import refuse_unknown_ids
from ..models.loading import empty_model
from ..models.scratch import scratch_tokenizer
from ..quantization import FORMATS
from ..quantization.base import body_layers
from ..recipe import Recipe
from .attack import looks_at_target
from .context import Context, RunContext, Subject
from .models import tokenizer_texts, with_local_base
from .publishable import check_published_text
from .report_inputs import description
from .run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_recipe(recipe: Recipe, command: str | None) -> None:
    """Refuse what the recipe alone shows to be wrong, before anything is read.

    Args:
        recipe: A recipe that was read without an error.
        command: The command for a single stage that is given; ``None`` for the whole run.

    Raises:
        RequestError: The request cannot be met.
        EnvironmentFailure: A library is missing or has the wrong version.
    """
    if command == "publish" and recipe.is_audit:
        raise RequestError(f"{recipe.name} judges checkpoints made elsewhere: an audit publishes nothing")
    if command in (None, "publish") and not recipe.is_audit:
        description(recipe.data)
    for check in RECIPE_CHECKS:
        check(recipe)


def check_rows(context: RunContext) -> None:
    """Refuse what the rows show to be wrong, before a model is fetched or built.

    Raises:
        RequestError: The rows cannot be used as the recipe wants them.
        EnvironmentFailure: The Hub could not be reached.
    """
    for check in ROW_CHECKS:
        check(context)


def check_models(run: Run) -> None:
    """Refuse what the models show to be wrong, before anything is scored or trained.

    Raises:
        RequestError: Rows, formats or attacks do not fit the models.
        EnvironmentFailure: The Hub could not be reached.
    """
    for check in MODEL_CHECKS:
        check(run)


def check_formats(recipe: Recipe) -> None:
    """Refuse formats whose library is missing.

    Raises:
        MissingExtraError: Says which extra to install.
        EnvironmentFailure: A library has a version that the format does not work with.
    """
    for name in recipe.export.formats:
        FORMATS.get(name).value().check_available()


def check_benchmarks(recipe: Recipe) -> None:
    """Refuse tasks that do not exist.

    Raises:
        MissingExtraError: lm-evaluation-harness is not installed.
        RequestError: There is no such task or folder.
    """
    if recipe.benchmarks is not None:
        try:
            check_harness(recipe.benchmarks.harness())
        except RequestError as error:
            raise RequestError(str(error).replace("harness.", "benchmarks.", 1)) from None


def check_calibration_text(context: RunContext) -> None:
    """Refuse calibration text that is missing, empty, short, the forget set, or scored."""
    _ = context.calibrations  # chosen when they are first asked for


def check_scratch_texts(context: RunContext) -> None:
    """Check the rows with the tokenizer that a model built from scratch will have, before it is built.

    Raises:
        RequestError: See :func:`check_texts`.
    """
    spec = context.recipe.model.scratch
    if spec is None:
        return
    tokenizer = scratch_tokenizer(tokenizer_texts(context.bundle), with_local_base(spec))
    tokenizer.name_or_path = spec.base or "built from the data"
    check_texts(context, tokenizer, spec.max_positions)


def check_target_texts(run: Run) -> None:
    """Check the rows with the tokenizer of a model that was not built for them.

    Raises:
        RequestError: See :func:`check_texts`.
    """
    from transformers import AutoConfig

    if run.recipe.model.scratch is not None:
        return
    target = run.target.folder
    tokenizer = load_tokenizer(str(target))
    if tokenizer.pad_token_id is None:
        run.context.progress.say("the tokenizer has no pad token: rows are filled up with another, which is masked")
    try:
        config = AutoConfig.from_pretrained(target, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"model.target: {target} has a config.json that cannot be used: {first_line(error)}"
        ) from error
    settings = config.get_text_config()
    positions, vocabulary = (getattr(settings, key, None) for key in ("max_position_embeddings", "vocab_size"))
    check_texts(run.context, tokenizer, positions, vocabulary)


def check_texts(
    context: RunContext, tokenizer: PreTrainedTokenizerBase, positions: int | None, vocabulary: int | None = None
) -> None:
    """Tokenize every row of every set.

    Args:
        context: The run.
        tokenizer: The target's tokenizer.
        positions: Most tokens the model can read, if it has such a limit.
        vocabulary: How many tokens the model knows, where the tokenizer was not made for it.

    Raises:
        RequestError: The tokenizer cannot render the rows, rows are too long (how many, and the longest), or
            one has a token that the model does not know.
    """
    data, bundle = context.recipe.data, context.bundle
    trained = [row for rows in (bundle.forget, bundle.retain, bundle.generic) for row in rows]
    scored = [row for rows in (bundle.holdout, *bundle.extra.values()) for row in rows]
    check_chat_template(tokenizer, context.text_format, (*trained, *scored))
    # The target has not been asked yet whether ends are labels: if they may be, room is left for them.
    ends = tokenizer.eos_token_id is not None or context.text_format.end != "auto"
    encoded = encode_rows(
        trained, tokenizer, context.text_format, eos=ends, max_length=data.max_length, truncation=data.truncation
    )
    # Scoring truncates nothing.
    encoded += [encode_row(row, tokenizer, context.text_format, eos=False) for row in scored]
    for row, tokens in zip((*trained, *scored), encoded, strict=True):
        refuse_unknown_ids(tokens.input_ids, vocabulary, row.origin or row.id)
    too_long = [place for place, row in enumerate(encoded) if positions is not None and len(row.input_ids) > positions]
    if too_long:
        worst = max(too_long, key=lambda place: len(encoded[place].input_ids))
        raise RequestError(
            f"{len(too_long)} of {len(encoded)} rows have more tokens than the {positions} that the model can read, "
            f"the longest has {len(encoded[worst].input_ids)} ({(trained + scored)[worst].origin}): remove them, or "
            f"set data.max_length={positions} and data.truncation=cut"
        )


def check_calibration_length(run: Run) -> None:
    """Refuse calibration text that is too short for the target's widest layer.

    Raises:
        RequestError: Says how many tokens there are and how many are needed.
    """
    calibrations, target = run.context.calibrations, run.target.folder
    if not calibrations:
        return
    empty = empty_model(target)
    tokenizer = load_tokenizer(str(target))
    positions = getattr(empty.config.get_text_config(), "max_position_embeddings", None)
    for name, calibration in calibrations.items():
        widest = max(layer.in_features for layer in body_layers(empty, name).values())
        calibration.check_length(sum(map(len, calibration.encode(tokenizer, positions))), widest)


def check_shapes(run: Run) -> None:
    """Refuse formats that cannot hold the target: what is unlearned from it has the same shape."""
    check_exportable(run.recipe.export.formats, run.target.folder)


def check_exportable(names: Sequence[str], source: Path) -> None:
    """Refuse formats that cannot hold a model of this shape.

    Args:
        names: Formats.
        source: The model's folder.

    Raises:
        RequestError: Says which layer does not fit, or that the folder's config names no causal language model.
    """
    model = empty_model(source)
    for name in names:
        FORMATS.get(name).value().check(model)


def check_attack_fit(run: Run) -> None:
    """Refuse attacks that do not fit the models: what is unlearned from them has the same shape."""
    check_attacks(run.context, [*run.baselines, *run.audited], run.target)


def check_attacks(context: Context, subjects: Sequence[Subject], target: Subject | None) -> None:
    """Refuse attacks that do not fit models.

    Raises:
        RequestError: An attack looks at the model before unlearning, which was not named, or does not fit a model.
    """
    for name, attack in context.attacks.items():
        if target is None and looks_at_target(name, attack):
            raise RequestError(
                f"{name} uses the model before unlearning, which is not given: give it, or leave {name} out"
            )
        for subject in subjects:
            # Shapes are those of the model as it is: what is attacked after quantizing is made later.
            known = subject.folder if target is None else target.folder
            attack.check(Attacked(subject.folder, known, context.bundle, context.text_format, context.attack_metrics))


def check_after(attacks: Mapping[str, Attack]) -> None:
    """Refuse attacks on one model after a format that would need calibration text.

    Raises:
        RequestError: A format is calibrated.
        EnvironmentFailure: A format's library is missing or has the wrong version.
    """
    for name, attack in attacks.items():
        after = after_of(attack)
        if after is None:
            continue
        kind = FORMATS.get(after).value
        kind().check_available()
        if kind.calibrated:
            raise RequestError(
                f"{name}: {after} is calibrated on text, which is not given here: export it with a recipe, "
                "and attack the exported folder"
            )


RECIPE_CHECKS: tuple[Callable[[Recipe], None], ...] = (check_formats, check_benchmarks)
ROW_CHECKS: tuple[Callable[[RunContext], None], ...] = (check_calibration_text, check_scratch_texts)
MODEL_CHECKS: tuple[Callable[[Run], None], ...] = (
    check_target_texts,
    check_calibration_length,
    check_shapes,
    check_attack_fit,
    check_published_text,
)
