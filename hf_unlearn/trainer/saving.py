"""One whole, plain model at the end of a run, however it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_NAME

from ..errors import RequestError
from ..models.adapters import merge_into
from ..models.sharding import alone, in_pieces

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer

ADAPTERS_FOLDER = "adapters"
"""In a trainer's output folder: adapters that are about to be merged into their base."""


def save_merged(trainer: UnlearnTrainer, output_dir: Path, dtype: str | None, has_adapters: bool) -> None:
    """Saves the model with its adapters merged. Every process has to call this; the first one writes.

    Args:
        trainer: At the end of its training: the model in memory may be merged and cast.
        output_dir: Where to.
        dtype: Precision to save in; by default that of the trained weights.
        has_adapters: Whether adapters were put on the model for this run.

    Raises:
        RequestError: The base of the adapters cannot be read again.
    """
    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise RequestError(f"the model cannot be saved in {dtype!r}: use float32, bfloat16 or float16")
    pieces = in_pieces(trainer.accelerator)
    base = trainer.accelerator.unwrap_model(trainer.model)
    if has_adapters and (pieces or getattr(base, "hf_quantizer", None) is not None or _is_quantized(base)):
        _merge_anew(trainer, output_dir, dtype)
    elif pieces:
        _save_gathered(trainer, output_dir, dtype)
    else:
        if has_adapters:
            trainer.model = trainer.model_wrapped = base.merge_and_unload()
        if dtype is not None:
            trainer.model.to(getattr(torch, dtype))
        if has_adapters and trainer.is_deepspeed_enabled:
            trainer._save(str(output_dir))  # the engine that save_model asks is gone with the adapters
        else:
            trainer.save_model(str(output_dir))


def _is_quantized(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, "hf_quantizer", None) is not None


def _merge_anew(trainer: UnlearnTrainer, output_dir: Path, dtype: str | None) -> None:
    folder = Path(str(trainer.args.output_dir)) / ADAPTERS_FOLDER
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        base = trainer.accelerator.unwrap_model(trainer.model).config._name_or_path
        with alone():
            merge_into(base, folder, output_dir, dtype)
        trainer.processing_class.save_pretrained(output_dir)
        shutil.rmtree(folder)
    trainer.accelerator.wait_for_everyone()


def _save_gathered(trainer: UnlearnTrainer, output_dir: Path, dtype: str | None) -> None:
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if dtype is not None:
        kind = getattr(torch, dtype)
        whole = {name: each.to(kind) if each.is_floating_point() else each for name, each in (whole or {}).items()}
    trainer._save(str(output_dir), state_dict=whole)
    if dtype is not None and trainer.args.should_save:
        # save_pretrained wrote the precision of the model in memory.
        file = output_dir / CONFIG_NAME
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
