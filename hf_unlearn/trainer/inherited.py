"""Settings of ``transformers`` that this trainer cannot honour. They are refused: a setting never does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from transformers import TrainingArguments

from ..errors import RequestError

_BY_STRATEGY = "rows are scored while the model unlearns if eval_strategy says when"
_OWN_SCORES = "scores are computed over whole sets, whatever it says"
_ROUNDED = "it would round the model's weights for good: bf16=True scores in bfloat16"
_NO_BEST = "a checkpoint that forgets more may keep less, so none is the best: the last step is what is saved"
_OWN_ROWS = "rows are read by their own columns, whatever it says"
_OWN_COUNTS = "losses are divided by what the whole step counts, on all processes, whatever it says"

REFUSED_FIELDS: dict[str, str] = {
    **dict.fromkeys(("do_eval", "do_predict"), _BY_STRATEGY),
    **dict.fromkeys(
        (
            *("eval_do_concat_batches", "eval_use_gather_object", "batch_eval_metrics", "prediction_loss_only"),
            "include_for_metrics",
        ),
        _OWN_SCORES,
    ),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), _ROUNDED),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _NO_BEST),
    **dict.fromkeys(("remove_unused_columns", "label_names", "length_column_name"), _OWN_ROWS),
    "label_smoothing_factor": "the losses of unlearning do not smooth labels",
    "average_tokens_across_devices": _OWN_COUNTS,
    "include_num_input_tokens_seen": "tokens of forget and retain rows are not counted",
    "parallelism_config": "tensor and context parallelism are not supported: use DeepSpeed or FSDP by accelerate",
    "logging_nan_inf_filter": "a loss that is not finite stops the run, so that none is left to filter",
}
"""Fields of ``TrainingArguments`` that may only have the value that does nothing, and why."""


def refuse_idle_fields(config: TrainingArguments) -> None:
    """Refuse settings that would change nothing.

    Args:
        config: As it was given: the parent class has not changed anything yet.

    Raises:
        RequestError: Names the field, and why it cannot be honoured.
    """
    for name, default in idle_values().items():
        value = getattr(config, name)
        plain = getattr(value, "value", value)
        if plain != default and not (name == "include_num_input_tokens_seen" and plain is False):
            raise RequestError(f"{name} is {plain!r}, which would do nothing: {REFUSED_FIELDS[name]}; leave it out")
    if getattr(config.save_strategy, "value", config.save_strategy) == "best":
        raise RequestError(f"save_strategy is 'best', which would save nothing: {_NO_BEST}; use steps, epoch or no")


def idle_values() -> dict[str, Any]:
    """The one value that each of :data:`REFUSED_FIELDS` may have."""
    known = {each.name: each for each in fields(TrainingArguments)}
    values = {}
    for name in REFUSED_FIELDS:
        if name in known:  # a version of transformers may not have it
            each: Any = known[name]
            values[name] = each.default_factory() if each.default is MISSING else each.default
    values["logging_nan_inf_filter"] = False
    return {name: getattr(value, "value", value) for name, value in values.items()}


def loading_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for ``from_pretrained``, with the old name of ``dtype`` brought to the new one.

    Raises:
        RequestError: Both names are there, with different values.
    """
    settings = dict(given)
    if "torch_dtype" in settings:
        old = settings.pop("torch_dtype")
        if settings.setdefault("dtype", old) != old:
            raise RequestError(
                f"model_init_kwargs has torch_dtype {old!r} and dtype {settings['dtype']!r}: torch_dtype is the old "
                "name of dtype, leave it out"
            )
    return settings
