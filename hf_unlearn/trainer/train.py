"""One method of a recipe, from the target's folder to the unlearned model's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat, load_tokenizer
from ..data.example import DataBundle
from ..errors import RequestError
from ..registry import suggest
from .callback import FINAL_STEP
from .checkpoints import last_whole_checkpoint
from .config import UnlearnConfig
from .settings import coerce
from .unlearn_trainer import UnlearnTrainer

GIVEN_BY_THE_RUN = ("output_dir", "seed")
"""Fields of UnlearnConfig that a method cannot set."""


def make_config(settings: Mapping[str, Any], work_dir: Path, seed: int, dtype: str) -> UnlearnConfig:
    """Settings of a recipe as a configuration.

    Args:
        settings: Fields of :class:`UnlearnConfig`.
        work_dir: Where checkpoints go.
        seed: Seed of everything that is drawn.
        dtype: Precision the weights are stored and stepped in, ``float32`` unless the loss of small steps is wanted.

    Raises:
        RequestError: If a field is unknown (the message has the nearest one), or a value cannot be used.
    """
    known = {field.name: field for field in fields(UnlearnConfig) if field.init}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key in GIVEN_BY_THE_RUN:
            raise RequestError(f"a method cannot set {key!r}: it belongs to the run")
        if key not in known:
            raise RequestError(f"a method has no setting {key!r}: {suggest(key, sorted(known))}")
        values[key] = coerce(key, value, _default(known[key]))
    values["model_init_kwargs"] = {"dtype": dtype, **(values.get("model_init_kwargs") or {})}
    try:
        return UnlearnConfig(output_dir=str(work_dir), seed=seed, **values)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the method's settings cannot be used: {error}") from error


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


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
        dtype: Precision of the weights.

    Returns:
        ``steps``, ``seconds`` of this call, and means of the last step: ``loss/forget``, ``logps/forget`` and, with a
        retain loss, ``loss/retain``, ``logps/retain`` and ``kl/retain``.

    Raises:
        RequestError: If settings, data or model cannot be used, or the loss is not finite.
    """
    started = time.monotonic()
    args = make_config(settings, work_dir, seed, dtype)
    trainer = UnlearnTrainer(
        model=str(model_dir),
        args=args,
        forget_dataset=bundle.forget.train,
        retain_dataset=bundle.retain.train or None,
        processing_class=load_tokenizer(str(model_dir)),
        text_format=fmt,
    )
    checkpoint = last_whole_checkpoint(work_dir)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_merged(str(out_dir))
    return {
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
        **_final_means(trainer.state.log_history),
    }


def _final_means(log_history: list[dict[str, float]]) -> dict[str, float]:
    entries = [entry for entry in log_history if any(key.startswith(FINAL_STEP) for key in entry)]
    last = entries[-1] if entries else {}
    return {key[len(FINAL_STEP) :]: value for key, value in last.items() if key.startswith(FINAL_STEP)}
