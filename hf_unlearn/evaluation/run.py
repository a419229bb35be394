"""Scoring a model folder: records of every row, and their means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..data.encoding import TextFormat, check_chat_template, encode_row, load_tokenizer
from ..data.example import Example
from ..runtime.files import whole_file, write_atomically
from ..runtime.processes import is_main_process, rank, wait_for_everyone, world_size
from .metrics import SCORE_VERSION, apply_metrics
from .records import ScoredRow, fact_scores, summarize, write_records
from .spec import EvalSpec, Sampling, SetRequest, SetScoring, set_requests

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .batch_runner import Passes

RECORDS_FILE = "records.jsonl"
SUMMARY_FILE = "summary.json"

__all__ = [
    "RECORDS_FILE",
    "SUMMARY_FILE",
    "EvalSpec",
    "Sampling",
    "SetScoring",
    "evaluate_folder",
    "fact_scores",
    "summarize",
]


def evaluate_folder(
    folder: Path,
    sets: Mapping[str, Sequence[Example]],
    generic: Sequence[Example],
    reference_folder: Path | None,
    fmt: TextFormat,
    spec: EvalSpec,
    out_dir: Path,
    dtype: str = "float32",
    *,
    scoring: Mapping[str, SetScoring] | None = None,
    runtime: str = "transformers",
) -> None:
    """Score a model folder and write ``records.jsonl`` and ``summary.json``.

    Results of finished batches are kept in ``records.partial-*.jsonl`` until both files are written: the same call
    after a kill resumes from there, and ends with the same files. The processes of a launcher share the batches; the
    first one writes, and all return when the files are there.

    Args:
        folder: Model and tokenizer, quantized or not.
        sets: Rows by set name.
        generic: Ordinary text; its records are the set ``generic``.
        reference_folder: The target under the same transform, for the KL on generic text; ``None`` leaves it out.
        fmt: How prompt and answer become one text.
        spec: What is measured.
        out_dir: Where the two files go; made if it is not there.
        dtype: Type of the weights that are not quantized.
        scoring: Settings of single sets that differ from ``spec``.
        runtime: What runs the model: ``transformers``, or ``llama.cpp`` for a GGUF folder.

    Raises:
        RequestError: The folder, a row or a metric's name is wrong, or a row lacks what a metric of its set needs.
        EnvironmentFailure: A library that the folder's format needs is missing, or one row is too much for memory.
    """
    from ..models.llama_cpp import RUNTIME, check_needs, load_llama_cpp
    from ..models.loading import files_digests, load_model
    from ..models.memory import batch_budget
    from ..models.placement import input_device, spread_devices
    from .batch_runner import Journal, Passes

    requests = set_requests(sets, spec, scoring or {})
    if runtime == RUNTIME:
        check_needs(need for request in requests.values() for need in request.needs)

    def load(path: Path) -> PreTrainedModel:
        if runtime == RUNTIME:
            return cast("PreTrainedModel", load_llama_cpp(path))
        return load_model(path, dtype, None if spread_devices(path, dtype) else device)

    tokenizer = load_tokenizer(str(folder))
    check_chat_template(tokenizer, fmt, [row for members in (*sets.values(), generic) for row in members])
    device = _own_device()
    model = load(folder)
    inputs = {
        "folder": [str(folder), files_digests(folder)],
        "reference": reference_folder and [str(reference_folder), files_digests(reference_folder)],
        "rows": [[name, [asdict(row) for row in members]] for name, members in sets.items()],
        "generic": [asdict(row) for row in generic],
        "format": asdict(fmt),
        "spec": asdict(spec),
        "scoring": {name: asdict(settings) for name, settings in (scoring or {}).items()},
        "dtype": dtype,
        "runtime": runtime,
        "device": input_device(model).type,
        "versions": [SCORE_VERSION, *(version(package) for package in ("hf_unlearn", "torch", "transformers"))],
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(out_dir, hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(), rank())
    with journal.open():
        # llama.cpp runs one row at a time.
        budget = 1 if runtime == RUNTIME else batch_budget(spec.batch_tokens, input_device(model))
        passes = Passes(budget, journal, shared=True)
        records = score_sets(model, tokenizer, sets, fmt, requests, passes)
        if generic:
            from .generic import score_generic

            same = reference_folder is not None and reference_folder.resolve() == folder.resolve()
            reference = model if same else load(reference_folder) if reference_folder else None
            records += score_generic(
                model, reference, tokenizer, generic, fmt, max_new_tokens=spec.fluency_tokens, passes=passes
            )
    if is_main_process():
        with whole_file(out_dir / RECORDS_FILE) as partial:
            write_records(partial, records)
        write_atomically(out_dir / SUMMARY_FILE, json.dumps(summarize(records), indent=2, sort_keys=True) + "\n")
    wait_for_everyone()
    journal.remove()


def score_sets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Sequence[Example]],
    fmt: TextFormat,
    requests: Mapping[str, SetRequest],
    passes: Passes,
) -> list[ScoredRow]:
    """Records of all rows with their metric values.

    Args:
        model: In eval mode.
        tokenizer: The model's tokenizer.
        sets: Rows by set name.
        fmt: How prompt and answer become one text.
        requests: What is asked of each set.
        passes: Runs the batches.

    Raises:
        RequestError: See :func:`evaluate_folder`.
    """
    from .generation import add_continuations
    from .gradients import check_can_differentiate
    from .scoring import score_rows

    needs = {name: request.needs for name, request in requests.items()}
    if any("gradient" in wanted for wanted in needs.values()):
        check_can_differentiate(model)
    records = score_rows(model, tokenizer, sets, fmt, needs=needs, passes=passes)
    rows = [row for members in sets.values() for row in members]
    records = _add_gradients(records, rows, needs, model, tokenizer, fmt, passes)
    records = add_continuations(records, rows, requests, model, tokenizer, fmt, passes)
    return [
        record
        for name, request in requests.items()
        for record in apply_metrics([record for record in records if record.set == name], request.metrics)
    ]


def _add_gradients(
    records: Sequence[ScoredRow],
    rows: Sequence[Example],
    needs: Mapping[str, frozenset[str]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fmt: TextFormat,
    passes: Passes,
) -> list[ScoredRow]:
    from .gradients import gradient_norms

    done = list(records)
    places = [place for place, record in enumerate(records) if "gradient" in needs[record.set]]
    encoded = [encode_row(rows[place], tokenizer, fmt, eos=False) for place in places]
    for place, norm in zip(places, gradient_norms(model, encoded, passes), strict=True):
        done[place] = replace(done[place], grad_norm=norm)
    return done


def _own_device() -> torch.device | None:
    """The accelerator of this process if a launcher started several; otherwise the usual one."""
    import os

    import torch

    if world_size() == 1 or not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
