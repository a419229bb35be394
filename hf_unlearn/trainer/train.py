"""One method of a recipe, from the target's folder to the unlearned model's."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from ..data.encoding import TextFormat, load_tokenizer
from ..data.example import DataBundle
from ..errors import EnvironmentFailure, RequestError
from ..quantization.explain import lost_when_saved
from ..registry import suggest
from ..robust.weights import trained_parameters
from .callback import FINAL_STEP
from .checkpoints import last_whole_checkpoint
from .config import UnlearnConfig
from .presets import completed
from .settings import fit, part_name
from .sharding import forget_deepspeed, in_pieces
from .unlearn_trainer import UnlearnTrainer

_NOT_FOR_A_METHOD = {
    "it belongs to the run": ("output_dir", "seed", "resume_from_checkpoint", "local_rank"),
    "publishing has its own section and comes after the verdict": (
        *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
        "hub_revision",
    ),
    "nothing is evaluated while a method trains, the evaluate stage does that": (
        *("do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
        *("eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "batch_eval_metrics"),
        *("per_device_eval_batch_size", "prediction_loss_only", "include_for_metrics", "bf16_full_eval"),
        *("fp16_full_eval", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    ),
    "the losses of unlearning do not use it": ("label_smoothing_factor", "label_names", "length_column_name"),
}
GIVEN_BY_THE_RUN = {name: why for why, names in _NOT_FOR_A_METHOD.items() for name in names}
"""Fields of UnlearnConfig that a method cannot set, and why."""


def method_settings() -> dict[str, Field[Any]]:
    """Fields of :class:`UnlearnConfig` that a method can set, by name."""
    return {field.name: field for field in fields(UnlearnConfig) if field.init and field.name not in GIVEN_BY_THE_RUN}


def suggest_setting(wrong: str) -> str:
    """A clause that names the nearest setting, or those that unlearning adds: all together are over a hundred."""
    near = suggest(wrong, sorted(method_settings()))
    if near.startswith("did you mean"):
        return near
    inherited = {field.name for field in fields(TrainingArguments)}
    own = ", ".join(sorted(name for name in method_settings() if name not in inherited))
    return f"there are {own}, and the fields of transformers.TrainingArguments (learning_rate, max_steps ...)"


def make_config(settings: Mapping[str, Any], work_dir: Path, seed: int) -> UnlearnConfig:
    """Settings of a recipe as a configuration.

    Args:
        settings: Fields of :class:`UnlearnConfig`.
        work_dir: Where checkpoints go.
        seed: Seed of everything that is drawn.

    Raises:
        RequestError: If a field is unknown (the message has the nearest one), or a value cannot be used.
        EnvironmentFailure: If a setting needs a library that is not installed.
    """
    known, hints = method_settings(), _hints()
    values: dict[str, Any] = {}
    for key, value in completed(settings).items():
        if key in GIVEN_BY_THE_RUN:
            raise RequestError(f"a method cannot set {key!r}: {GIVEN_BY_THE_RUN[key]}")
        if key not in known:
            raise RequestError(f"a method has no setting {key!r}: {suggest_setting(key)}")
        values[key] = fit(key, value, hints[key], _default(known[key]))
    if isinstance(values.get("model_init_kwargs"), str):
        raise RequestError("model_init_kwargs must be a mapping of keys to values")
    # A bar that redraws itself is for a terminal; elsewhere the logged losses are lines.
    values.setdefault("disable_tqdm", not sys.stderr.isatty())
    values["model_init_kwargs"] = {"dtype": "float32", **(values.get("model_init_kwargs") or {})}
    try:
        config = UnlearnConfig(output_dir=str(work_dir), seed=seed, **values)
    except ImportError as error:
        raise _missing_library(error) from error
    except (TypeError, ValueError) as error:
        raise RequestError(f"the method's settings cannot be used: {_one_line(error)}") from error
    _check_reporters(config.report_to)
    return config


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


def _hints() -> dict[str, Any]:
    """Types of all settings; where the parent class has an enumeration, that, because it knows the choices."""
    parent = get_type_hints(TrainingArguments)
    listed = {name: hint for name, hint in parent.items() if any(_is_enum(part) for part in get_args(hint))}
    return {**get_type_hints(UnlearnConfig), **listed}


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _check_reporters(names: Any) -> None:
    """Refuse a tracker that does not exist, or is not installed, before anything is trained."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise RequestError(f"report_to cannot be {name!r}: {suggest(str(name), sorted(INTEGRATION_TO_CALLBACK))}")
        if name not in get_available_reporting_integrations():
            raise EnvironmentFailure(f"report_to: {name} is not installed: run  pip install {name}")


def _missing_library(error: ImportError) -> EnvironmentFailure:
    return EnvironmentFailure(f"the method's settings need a library that is not installed: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def train_method(
    model_dir: Path,
    out_dir: Path,
    work_dir: Path,
    bundle: DataBundle,
    fmt: TextFormat,
    settings: Mapping[str, Any],
    seed: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Unlearns with one method, resuming from the last whole checkpoint in ``work_dir`` if there is one.

    A resumed run ends with the weights of an uninterrupted one. The caller sees to it that ``work_dir`` belongs to the
    same model, data and settings.

    Args:
        model_dir: The target model with its tokenizer.
        out_dir: Gets the unlearned model with its tokenizer, adapters merged.
        work_dir: Checkpoints, and what parts leave there.
        bundle: Training rows are those of ``forget`` and ``retain``.
        fmt: How prompt and answer become one text.
        settings: Fields of :class:`UnlearnConfig`; see :func:`make_config`.
        seed: Seed of everything that is drawn.
        dtype: Precision the unlearned model is saved in. Weights are stepped in float32 unless the method's
            ``model_init_kwargs`` say otherwise: in 16 bits, steps much smaller than a weight are lost.

    Returns:
        ``steps``, ``seconds`` of this call, ``floating_point_ops`` of all steps and of what parts tell of themselves
        (six for each token and weight, as transformers counts them), ``stepping`` (the precision weights were kept in
        between steps), ``saved`` where they are saved in 16 bits
        (:func:`~hf_unlearn.quantization.explain.lost_when_saved`), ``parts`` with what robust parts tell of what they
        did, by their names, where one does, and means of the last step: ``loss/forget``, ``logps/forget`` and, with a
        retain loss, ``loss/retain``, ``logps/retain`` and ``kl/retain``.

    Raises:
        RequestError: If settings, data or model cannot be used, or the loss is not finite.
        EnvironmentFailure: If a setting needs a library that is not installed.
    """
    started = time.monotonic()
    args = make_config(settings, work_dir, seed)
    tokenizer = load_tokenizer(str(model_dir))
    try:
        trainer = UnlearnTrainer(
            model=str(model_dir),
            args=args,
            forget_dataset=bundle.forget.train,
            retain_dataset=bundle.retain.train or None,
            processing_class=tokenizer,
            text_format=fmt,
        )
    except ValueError as error:  # settings that do not suit this machine are first looked at here
        raise RequestError(f"the method's settings cannot be used: {_one_line(error)}") from error
    checkpoint = last_whole_checkpoint(work_dir)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except ImportError as error:  # optimizers import their libraries when they are made
        raise _missing_library(error) from error
    except ValueError as error:  # so are the settings of optimizer and schedule read
        if trainer.state.global_step:
            raise
        raise RequestError(f"the method's settings cannot be used: {_one_line(error)}") from error
    trained = trained_parameters(trainer.model).values()
    stepped = sorted({str(each.dtype).removeprefix("torch.") for each in trained})
    saved = None if in_pieces(trainer.accelerator) else lost_when_saved(trainer.model, model_dir, dtype)
    trainer.save_merged(str(out_dir), dtype)
    forget_deepspeed()
    told = _outcomes(args, trainer)
    return {
        "stepping": args.stepping if args.stepping != "fp32" or stepped == ["float32"] else ", ".join(stepped),
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
        **({"saved": saved} if saved else {}),
        "floating_point_ops": trainer.state.total_flos + sum(of.get("floating_point_ops", 0) for of in told.values()),
        **({"parts": told} if told else {}),
        **_final_means(trainer.state.log_history),
    }


def _outcomes(args: UnlearnConfig, trainer: UnlearnTrainer) -> dict[str, dict[str, Any]]:
    named = zip(args.robust, trainer.parts, strict=False)  # a control and what rounds the steps come after them
    told = {part_name(spec): dict(part.outcome()) for spec, part in named}
    return {name: outcome for name, outcome in told.items() if outcome}


def _final_means(log_history: list[dict[str, float]]) -> dict[str, float]:
    entries = [entry for entry in log_history if any(key.startswith(FINAL_STEP) for key in entry)]
    last = entries[-1] if entries else {}
    return {key[len(FINAL_STEP) :]: value for key, value in last.items() if key.startswith(FINAL_STEP)}
