"""Tasks of lm-evaluation-harness in this process, as records, so that they get intervals and paired differences."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import EnvironmentFailure, MissingExtraError, RequestError, first_line
from ...registry import suggest
from ...runtime.files import whole_file
from ..records import ScoredRow, read_records, write_records
from .spec import HarnessSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = "harness"


def check_harness(spec: HarnessSpec) -> None:
    """Refuse what can be seen without a model.

    Raises:
        MissingExtraError: lm-evaluation-harness is not installed.
        RequestError: A task or the folder with tasks does not exist.
    """
    _task_manager(spec)


def harness_chat(spec: HarnessSpec, has_chat_template: bool) -> bool:
    """Whether questions go through the chat template.

    Raises:
        RequestError: The suite asks for one and the model has none.
    """
    if spec.format == "chat" and not has_chat_template:
        raise RequestError("harness.format is chat and the model's tokenizer has no chat template: set it to plain")
    return has_chat_template and spec.format != "plain"


def run_harness(folder: Path, dtype: str, spec: HarnessSpec, chat: bool, limit: int | None, out_dir: Path) -> None:
    """Run all tasks that have no records yet and write ``harness/TASK.jsonl`` and ``harness/TASK.json`` of each.

    Args:
        folder: Model and tokenizer.
        dtype: Type of the weights that are not quantized.
        spec: The tasks.
        chat: Whether questions go through the chat template.
        limit: At most so many questions of each task.
        out_dir: Output folder of the evaluation.

    Raises:
        MissingExtraError: lm-evaluation-harness is not installed.
        RequestError: A task does not exist or cannot be read, or the chat template asks for the time in a form that
            only it knows.
        EnvironmentFailure: A task's data cannot be reached.
    """
    waiting = [task for task in spec.tasks if not _records_file(out_dir, task).exists()]
    if not waiting:
        return
    manager = _task_manager(spec)
    from lm_eval.models.huggingface import HFLM

    from ...data.encoding import load_tokenizer
    from ...models.loading import load_model

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    (out_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(folder))
    if chat:
        _stop_clock(tokenizer)
    model: PreTrainedModel = load_model(folder, dtype)
    wrapped = HFLM(model, tokenizer=tokenizer, batch_size=spec.batch_size)
    fewer = min((number for number in (spec.limit, limit) if number is not None), default=None)
    for task in waiting:
        _finish(out_dir, task, _run(task, wrapped, spec, chat, fewer, manager), spec)


def _stop_clock(tokenizer: Any) -> None:
    """The harness renders by itself: the same question has the same tokens on every day, as in rows of a suite."""
    from ...data.chat import TemplateArguments

    dated, template = TemplateArguments({}).dated, tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: dated(each) for name, each in template.items()}
    else:
        tokenizer.chat_template = dated(template)


def read_harness(out_dir: Path, spec: HarnessSpec) -> tuple[list[ScoredRow], dict[str, Any]]:
    """Records of all tasks, each task being a set, and what the harness itself says of each."""
    records, reported = [], {}
    for task in spec.tasks:
        records += read_records(_records_file(out_dir, task))
        reported[task] = json.loads(_report_file(out_dir, task).read_text(encoding="utf-8"))
    return records, reported


def _task_manager(spec: HarnessSpec) -> Any:
    """The harness's own list of tasks is thousands of files, which are read only if a task is not the user's own."""
    if spec.include_path and not Path(spec.include_path).is_dir():
        raise RequestError(f"harness.include_path: there is no folder {spec.include_path}")
    own = _read_tasks(spec.include_path, False) if spec.include_path else None
    if own is not None and all(task in own.all_tasks for task in spec.tasks):
        return own
    manager = _read_tasks(spec.include_path, True)
    for task in spec.tasks:
        if task not in manager.all_tasks:
            hint = suggest(task, manager.all_tasks)
            near = hint if hint.startswith("did you mean") else "`lm_eval ls tasks` lists them"
            raise RequestError(f"harness.tasks: lm-evaluation-harness has no task called {task!r}: {near}")
    return manager


@functools.lru_cache(maxsize=2)
def _read_tasks(include_path: str | None, defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingExtraError("a suite with harness tasks", "lm-eval", "lm-eval") from error
    return TaskManager(include_path=include_path, include_defaults=defaults)


def _run(task: str, model: Any, spec: HarnessSpec, chat: bool, limit: int | None, manager: Any) -> Mapping[str, Any]:
    import lm_eval
    from datasets.exceptions import DatasetNotFoundError

    try:
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            num_fewshot=spec.shots,
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            task_manager=manager,
            log_samples=True,
        )
    except DatasetNotFoundError as error:
        raise RequestError(
            f"harness.tasks: {task!r} names data that is not on the Hub: {first_line(error)}"
        ) from error
    except FileNotFoundError as error:
        raise RequestError(f"harness.tasks: a file of {task!r} does not exist: {first_line(error)}") from error
    except OSError as error:
        raise EnvironmentFailure(
            f"harness.tasks: the data of {task!r} cannot be loaded: {first_line(error)}"
        ) from error
    return dict(results or {})


def _finish(out_dir: Path, task: str, results: Mapping[str, Any], spec: HarnessSpec) -> None:
    """Write what one task gave; its records last, since their file says that it is done."""
    samples = [(leaf, sample) for leaf, listed in results["samples"].items() for sample in listed]
    records = list(_records(task, samples, spec.metrics))
    if not any(record.values for record in records):
        raise RequestError(f"harness.tasks: {task!r} gave no value per question (asked for: {spec.metrics or 'all'})")
    reported = {
        "versions": results.get("versions", {}),
        "shots": results.get("n-shot", {}),
        "results": {leaf: _plain(values) for leaf, values in results.get("results", {}).items()},
    }
    text = json.dumps(reported, indent=2, sort_keys=True, default=str)
    _report_file(out_dir, task).write_text(text + "\n", encoding="utf-8")
    with whole_file(_records_file(out_dir, task)) as partial:
        write_records(partial, records)


def _records(task: str, samples: Iterable[tuple[str, Any]], wanted: tuple[str, ...]) -> Iterable[ScoredRow]:
    """One record per question, with the values that are numbers; several filters of one metric have their names."""
    values: dict[str, dict[str, float]] = {}
    answers: dict[str, str] = {}
    for leaf, sample in samples:
        row_id = f"{leaf}-{sample['doc_id']:05d}"
        answers[row_id] = str(sample.get("target", ""))
        suffix = "" if sample.get("filter", "none") == "none" else f":{sample['filter']}"
        for metric in sample.get("metrics", ()):
            value = sample[metric]
            if (not wanted or metric in wanted) and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(row_id, {})[metric + suffix] = float(value)
    for row_id, answer in answers.items():
        yield ScoredRow(row_id, row_id, row_id, task, answer=answer, values=values.get(row_id, {}))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


def _records_file(out_dir: Path, task: str) -> Path:
    return out_dir / FOLDER / f"{_file_name(task)}.jsonl"


def _report_file(out_dir: Path, task: str) -> Path:
    return out_dir / FOLDER / f"{_file_name(task)}.json"


def _file_name(task: str) -> str:
    return "".join(char if char.isalnum() or char in "_-." else "_" for char in task)
