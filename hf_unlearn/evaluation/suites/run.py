"""Evaluating a model with a suite: rows, scores, harness tasks, aggregates, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...data.encoding import TextFormat, generated_otherwise, load_tokenizer, read_otherwise
from ...errors import RequestError
from ...runtime.processes import is_main_process, wait_for_everyone
from ...verification.intervals import mean_estimate
from ..aggregates import AGGREGATES, AggregateInput
from ..metrics import SCORE_VERSION
from ..records import ScoredRow
from ..run import RECORDS_FILE, SUMMARY_FILE, EvalSpec, evaluate_folder, fact_scores
from ..spec import NEEDS, SetScoring
from .harness import check_harness, harness_chat, read_harness, run_harness
from .references import Reference, check_same_rows, find_reference, read_reference
from .result import (
    SCHEMA_VERSION,
    SUITE_FILE,
    all_records,
    bootstrap_for,
    by_set,
    describe_sets,
    model_digest,
    open_folder,
    read_result,
    rows_digest,
    score_versions,
    suite_digest,
    suite_settings,
    versions,
    write_result,
)
from .rows import SuiteRows, load_rows, missing
from .spec import GENERIC, Suite

REFERENCE_FOLDER = "reference"


@dataclass(frozen=True)
class Request:
    """What is evaluated.

    Attributes:
        model: Folder of model and tokenizer.
        name: What the user calls the model.
        suite: What is measured.
        out_dir: Where the results go.
        dtype: Type of the weights that are not quantized.
        limit: Score only the first so many rows of each set.
        target: Folder of the model before unlearning, for the KL on generic text.
    """

    model: Path
    name: str
    suite: Suite
    out_dir: Path
    dtype: str = "float32"
    limit: int | None = None
    target: Path | None = None


def evaluate_suite(request: Request, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Evaluate a model, resuming an evaluation that was killed.

    Args:
        request: What is evaluated.
        say: Gets a short line before each step.

    Returns:
        What ``suite.json`` in the output folder holds.

    Raises:
        RequestError: The data, the model, the reference or the output folder does not fit; see the parts.
        EnvironmentFailure: The Hub cannot be reached, or a library that the model's format needs is missing.
    """
    suite = request.suite
    if request.limit is not None and request.limit < 1:
        raise RequestError(f"--limit is {request.limit}: it must be at least 1")
    if suite.harness:
        check_harness(suite.harness)
    reference = find_reference(suite.reference) if suite.reference else None
    tokenizer = load_tokenizer(str(request.model))
    rows = load_rows(suite, tokenizer, request.limit)
    chat = suite.harness is not None and harness_chat(suite.harness, bool(tokenizer.chat_template))
    known = read_reference(reference, rows) if reference and reference.kind != "model" else None
    asked = _asked(request, rows, reference, chat)
    if is_main_process():
        open_folder(request.out_dir, asked)
    wait_for_everyone()
    if (request.out_dir / SUITE_FILE).exists():
        return read_result(request.out_dir)
    computable = set(suite.aggregates) - not_computable(suite, rows, reference is not None).keys()
    scoring = _scoring(suite, computable)
    if rows.sets:
        say(f"scoring {sum(map(len, rows.sets.values()))} rows of {', '.join(rows.sets)}")
    _score(request, rows, request.model, request.out_dir, scoring)
    if reference and reference.kind == "model":
        say(f"scoring the reference {reference.name}")
        _score(request, rows, reference.path, request.out_dir / REFERENCE_FOLDER, scoring)
    if not is_main_process():
        return {}
    if suite.harness:
        say(f"tasks of lm-evaluation-harness: {', '.join(suite.harness.tasks)}")
        run_harness(request.model, request.dtype, suite.harness, chat, request.limit, request.out_dir)
    if reference and reference.kind == "model":
        known = read_reference(Reference("records", request.out_dir / REFERENCE_FOLDER, reference.name), rows)
    result = _result(request, rows, reference, known, asked)
    write_result(request.out_dir, result)
    return result


def _asked(request: Request, rows: SuiteRows, reference: Reference | None, harness_chat: bool) -> dict[str, Any]:
    """What must be the same for a folder to be gone on with."""
    return {
        "suite": suite_digest(request.suite),
        "rows": {name: rows_digest(members) for name, members in rows.sets.items()},
        "model": model_digest(request.model),
        "dtype": request.dtype,
        "limit": request.limit,
        "score versions": {**score_versions(request.suite), "records": record_version(rows, harness_chat)},
        "reference": reference.name if reference else None,
        "target": str(request.target) if request.target else None,
        **({"chat template": TextFormat().template_arguments.values()} if "chat" in rows.kinds.values() else {}),
        **({"harness chat template": TextFormat().template_arguments.values()} if harness_chat else {}),
    }


def record_version(rows: SuiteRows, harness_chat: bool) -> int:
    """Version of the records: a later one where 0.4.0 read what is asked otherwise, so that its results are not
    compared with those of today."""
    plain = TextFormat()
    otherwise = any(
        read_otherwise(members, plain) or generated_otherwise(members, plain) for members in rows.sets.values()
    )
    return SCORE_VERSION + (otherwise or harness_chat or "chat" in rows.kinds.values())


def _score(request: Request, rows: SuiteRows, model: Path, out_dir: Path, scoring: Mapping[str, SetScoring]) -> None:
    sets = {name: members for name, members in rows.sets.items() if name != GENERIC}
    generic = rows.sets.get(GENERIC, ())
    done = all((out_dir / name).exists() for name in (RECORDS_FILE, SUMMARY_FILE))
    # What these files hold is what is asked for: request.json says so.
    if done or not (sets or generic):
        return
    # Chat rows are marked as such, so that one suite can have sets of both kinds.
    evaluate_folder(
        model,
        sets,
        generic,
        request.target,
        TextFormat(),
        EvalSpec(fluency_tokens=request.suite.fluency_tokens, batch_tokens=request.suite.batch_tokens),
        out_dir,
        request.dtype,
        scoring=scoring,
    )


def _scoring(suite: Suite, aggregates: Collection[str]) -> dict[str, SetScoring]:
    """Settings of each set; what aggregates need of a set is added to what its metrics need."""
    return {
        name: SetScoring(
            metrics=spec.metrics,
            max_new_tokens=spec.max_new_tokens,
            stop=spec.stop,
            sampling=spec.sampling,
            generate_limit=spec.generate_limit,
            needs=_needs_of_aggregates(suite, aggregates, name),
        )
        for name, spec in suite.scored.items()
    }


def _needs_of_aggregates(suite: Suite, aggregates: Collection[str], set_name: str) -> tuple[str, ...]:
    needs: set[str] = set()
    for label in aggregates:
        name, settings = suite.aggregate(label)
        if set_name in aggregate_sets(name, settings):
            needs |= NEEDS & set(AGGREGATES.get(name).needs)
    return tuple(sorted(needs))


def aggregate_sets(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The sets that an aggregate reads; settings may call them by other names."""
    entry = AGGREGATES.get(name)
    words = [word for need in entry.needs if need.startswith("sets:") for word in need[len("sets:") :].split(",")]
    options = {**entry.defaults, **settings}
    return tuple(str(options.get(word, word)) for word in words)


def not_computable(suite: Suite, rows: SuiteRows, has_reference: bool) -> dict[str, str]:
    """Why aggregates cannot be computed, as far as that is known before anything is scored."""
    reasons = {}
    for label in suite.aggregates:
        name, settings = suite.aggregate(label)
        needs = AGGREGATES.get(name).needs
        reason = _lacking(aggregate_sets(name, settings), needs, suite, rows)
        if not reason and "reference" in needs and not has_reference:
            reason = "it needs a reference (--reference FOLDER, LOG or MODEL)"
        if reason:
            reasons[label] = reason
    return reasons


def _lacking(sets: Sequence[str], needs: Sequence[str], suite: Suite, rows: SuiteRows) -> str:
    for name in sets:
        if name not in suite.scored:
            return f"the suite has no set {name} (or it is off)"
        for need in sorted(NEEDS & set(needs)):
            for row in rows.sets[name]:
                if lacking := missing(need, row, suite.set[name]):
                    return f"{row.origin or row.id}: {lacking}"
    return ""


def _result(
    request: Request,
    rows: SuiteRows,
    reference: Reference | None,
    known: Mapping[str, Sequence[ScoredRow]] | None,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    suite = request.suite
    harness = read_harness(request.out_dir, suite.harness)[1] if suite.harness else {}
    sets = describe_sets(rows.sets, rows.repeated, rows.kinds)
    records = all_records(request.out_dir, {"sets": sets, "harness": harness})
    grouped = by_set(records)
    for name, members in rows.sets.items():
        check_same_rows(grouped.get(name, []), members, str(request.out_dir / RECORDS_FILE))
    reasons = not_computable(suite, rows, reference is not None)
    aggregates, not_computed = _aggregates(suite, grouped, known, reasons)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "suite": {"name": suite.name, "summary": suite.summary, "digest": asked["suite"]},
        "settings": suite_settings(suite),
        "model": {"name": request.name, "digest": asked["model"]},
        "dtype": request.dtype,
        "limit": request.limit,
        "sets": sets,
        "scores": _scores(records, suite),
        "aggregates": aggregates,
        "not_computed": not_computed,
        "reference": {"name": reference.name, "kind": reference.kind} if reference else None,
        "harness": harness,
        "score_versions": asked["score versions"],
        "versions": versions(),
    }


def _scores(records: Sequence[ScoredRow], suite: Suite) -> dict[str, dict[str, Any]]:
    """Mean over facts with its interval, by set and metric, in the order of the suite."""
    found: dict[str, dict[str, Any]] = {}
    for (name, metric), facts in sorted(fact_scores(records).items(), key=lambda item: _place(suite, *item[0])):
        estimate = mean_estimate(facts, bootstrap_for(facts))
        interval = list(estimate.interval) if estimate.interval else None
        found.setdefault(name, {})[metric] = {"mean": facts.mean, "n": len(facts.values), "ci95": interval}
    return found


def _place(suite: Suite, name: str, metric: str) -> tuple[int, int, str]:
    sets = [*suite.set, *(suite.harness.tasks if suite.harness else ())]
    metrics = suite.set[name].metrics if name in suite.set else ()
    place = metrics.index(metric) if metric in metrics else len(metrics)
    return (sets.index(name) if name in sets else len(sets), place, metric)


def _aggregates(
    suite: Suite,
    records: Mapping[str, Sequence[ScoredRow]],
    known: Mapping[str, Sequence[ScoredRow]] | None,
    reasons: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by label, and for those without one the reason."""
    values: dict[str, Any] = {}
    without = dict(reasons)
    for label in suite.aggregates:
        if label in reasons:
            continue
        name, settings = suite.aggregate(label)
        try:
            value = AGGREGATES.get(name).value(AggregateInput(records, known, settings))
        except RequestError as error:
            without[label] = str(error)
            continue
        if value is None:
            without[label] = "it does not apply to these rows"
        else:
            values[label] = value.to_dict()
    return values, without
