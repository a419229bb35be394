"""Formats of a model with random weights: each exported (with its check), loaded and scored on this device."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import planted, saved
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import MissingExtraError
from hf_unlearn.evaluation.run import EvalSpec, evaluate_folder
from hf_unlearn.models.loading import run_device
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.calibration import CalibrationSpec, Text, choose
from hf_unlearn.runtime.log_filters import quiet_backends


def main() -> None:
    """Print figures by format, and in one line what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="+")
    parser.add_argument("--folder", type=Path, required=True, help="where the model to export is kept")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    quiet_backends()
    made = {name: attempted(name, arguments.folder, arguments.tiny) for name in arguments.formats}
    failed = [f"{name}: {figures['failed']}" for name, figures in made.items() if "failed" in figures]
    print(json.dumps({**made, **({"failed": "; ".join(failed)} if failed else {})}))


def attempted(name: str, folder: Path, tiny: bool) -> dict[str, Any]:
    """Figures of one format, or why there are none: one that fails leaves the others theirs."""
    try:
        return measured(name, folder, tiny)
    except MissingExtraError as error:
        return {"skipped": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def measured(name: str, folder: Path, tiny: bool) -> dict[str, Any]:
    """Figures of one format.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    FORMATS.get(name).value().check_available()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    facts = 8 if tiny else 64
    source = saved(folder, "tiny" if tiny else "1b", facts)
    bundle, _ = planted(facts)
    text = Text(bundle.generic.train, "made-up text")
    calibration = choose("generic", CalibrationSpec(min_tokens=1), text, bundle, TextFormat(), 0)
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "out"
        began = time.perf_counter()
        info = export_format(name, source, target, calibration)
        exported = time.perf_counter()
        spec = EvalSpec(max_new_tokens=16, generate_limit=facts // 2)
        evaluate_folder(
            target, bundle.scored_sets(), bundle.generic.score[:40], None, TextFormat(), spec, Path(work) / "scores"
        )
        scored = time.perf_counter()
        size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return {
        "export": exported - began,
        "score": scored - exported,
        "bytes": size,
        "error": info.reload_error,
        "device": run_device().type,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }


if __name__ == "__main__":
    main()
