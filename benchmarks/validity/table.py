"""From the reports of the runs to the table: truth beside verdict, error rates with intervals, and what found what."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.validity.rows import ROWS, TRUTHS, Truth
from hf_unlearn.verification.verdict import RULES

SMALL_P = 0.025
SHOWN_VERSIONS = ("hf_unlearn", "torch", "transformers", "bitsandbytes", "compressed-tensors")


@dataclass(frozen=True)
class Found:
    """What the gate said of one model.

    Attributes:
        name: Its row.
        seed: Its seed.
        status: The verdict.
        causes: What failed: ``knowledge``, ``over-forgetting``, ``utility``.
        found_by: Transforms under which forgotten knowledge was found, by its mean or by counting single facts.
        counted_by: Those of them under which the count found it.
        alone: Those under which only the count did.
        survived: Transforms that were passed.
        forget: Forget facts answered greedily as it stands.
        retain: Retain facts answered greedily as it stands.
        worst: Transform to largest recovered share among the gate's metrics, reported transforms too.
        counts: Transform to the count of single facts by all metrics together.
        undecided: Why what is undecided is so: one sentence per number.
    """

    name: str
    seed: int
    status: str
    causes: tuple[str, ...]
    found_by: tuple[str, ...]
    counted_by: tuple[str, ...]
    alone: tuple[str, ...]
    survived: tuple[str, ...]
    forget: float
    retain: float
    worst: Mapping[str, float]
    counts: Mapping[str, Mapping[str, Any]]
    undecided: tuple[str, ...]


def wilson(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate.

    Args:
        count: How often it happened.
        total: Out of how many.
        z: Normal quantile.

    Returns:
        Both ends; 0 and 1 where there is nothing to count.
    """
    if total == 0:
        return 0.0, 1.0
    rate, square = count / total, z * z / total
    middle = (rate + square / 2) / (1 + square)
    half = z * math.sqrt(rate * (1 - rate) / total + square / (4 * total)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_run(folder: Path, seed: int) -> list[Found]:
    """What the gate said of every row of one run, from its report."""
    report = json.loads((folder / "verify" / "unlearning_report.json").read_text(encoding="utf-8"))
    statuses = {each["name"]: each["status"] for each in (*report["controls"], *report["candidates"])}
    return [_found(report, row.name, seed, statuses[row.name]) for row in ROWS if row.name in statuses]


def _found(report: Mapping[str, Any], name: str, seed: int, status: str) -> Found:
    shares = [row for row in report["recovered"] if row["model"] == name]
    judged = [row for row in shares if row["status"] != "reported"]
    utility = [row for row in report["utility"] if row["model"] == name]
    counts = [row for row in report.get("known_facts", ()) if row["model"] == name]
    by_mean = {row["transform"] for row in judged if row["status"] == "failed" and not row["over_forgotten"]}
    by_count = {row["transform"] for row in counts if row["status"] == "failed"}
    causes = {
        "knowledge": bool(by_mean | by_count),
        "over-forgetting": any(row["over_forgotten"] for row in judged),
        "utility": any(row["status"] == "failed" for row in utility),
    }
    transforms = list(dict.fromkeys(row["transform"] for row in judged))
    bad = {row["transform"] for row in (*judged, *utility, *counts) if row["status"] in ("failed", "inconclusive")}
    metrics = report["gate"]["metrics"]
    worst: dict[str, float] = {}
    for row in shares:
        if row["metric"] in metrics and row["recovered_share"] is not None:
            worst[row["transform"]] = max(worst.get(row["transform"], -math.inf), row["recovered_share"])
    return Found(
        name,
        seed,
        status,
        tuple(cause for cause, there in causes.items() if there),
        tuple(each for each in transforms if each in by_mean | by_count),
        tuple(each for each in transforms if each in by_count),
        tuple(each for each in transforms if each in by_count - by_mean),
        tuple(transform for transform in transforms if transform not in bad),
        _score(report, name, "forget"),
        _score(report, name, "retain"),
        worst,
        {row["transform"]: row for row in counts if row["metric"] == "combined"},
        tuple(
            f"{row['transform']}, {row.get('metric') or row.get('kind')}: {row['reason']}"
            for row in (*judged, *counts, *utility)
            if row["status"] == "inconclusive"
        ),
    )


def _score(report: Mapping[str, Any], model: str, split: str) -> float:
    return next(
        row["value"]
        for row in report["scores"]
        if (row["model"], row["transform"], row["split"], row["metric"]) == (model, "identity", split, "exact_match")
    )


def page(found: Sequence[Found], reports: Sequence[Mapping[str, Any]], *, on_real: bool = False) -> str:
    """The whole page.

    Args:
        found: From :func:`read_run`, of all seeds.
        reports: The reports of the runs.
        on_real: The models were made of a real pretrained one.
    """
    if not found:
        return "There is nothing to report yet."
    seeds = sorted({one.seed for one in found})
    versions = reports[0]["environment"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
    budget = next((run["budget"] for run in reports[0]["attacks"] if run["name"] == "rtt"), {})
    command = f"python -m benchmarks.validity{' --real' if on_real else ''} --write"
    reported = [name for name in found[0].worst if name not in ("identity", "rtt", *reports[0]["gate"]["formats"])]
    lines = [
        f"# What the gate says of models whose truth is known{', made of SmolLM2 135M' if on_real else ''}",
        "",
        f"Made by `{command}`, {datetime.date.today().isoformat()}; {named}; CPU; rules {RULES} of the verdict. "
        f"{len(found)} models over {len(seeds)} seed{'s' * (len(seeds) > 1)}, besides the "
        "targets and never-knew models they are compared with. What the rows are and how they are made: "
        f"`{'real.py' if on_real else 'rows.py'}`; what was predicted: `docs/validity.md`.",
        "",
        f"Gate: {', '.join(reports[0]['gate']['metrics'])} as each model stands, in "
        f"{', '.join(reports[0]['gate']['formats'])} and under RTT ({_words(budget)})."
        + "".join(f" `{name}` is reported, not judged." for name in reported),
        "",
        "## Error rates",
        "",
        rates_table(found),
        "",
        "## Row by row",
        "",
        rows_table(found),
        "",
        "Scores are forget / retain facts answered greedily as the model stands, means over seeds. Shares are the "
        "largest recovered share among the gate's metrics, means over seeds. *Counted*: found by counting single "
        "facts; *alone* where their mean did not show it.",
        "",
        "## Largest recovered share by transform",
        "",
        shares_table(found),
        "",
        "## Single facts",
        "",
        "Facts that are still known by all metrics together, of those asked, and in brackets how many a model that "
        "never knew shows; sums over seeds. *Pushed*: seeds in which more facts are anti-known as it stands than "
        "chance makes (p at most 0.025). *Distribution*: seeds in which the scores are distributed in another way "
        "than those of the never-knew model, as it stands.",
        "",
        counts_table(found),
        "",
        "## Undecided",
        "",
        *undecided_lines(found),
        "",
    ]
    return "\n".join(lines)


def _words(budget: Mapping[str, Any]) -> str:
    keys = ("folds", "run_folds", "learning_rates", "epochs")
    return ", ".join(f"{key.replace('_', ' ')} {budget[key]}" for key in keys if key in budget)


def rates_table(found: Sequence[Found]) -> str:
    """Both kinds of error, each with its interval."""
    truth = {row.name: row.truth for row in ROWS}

    def of(kind: Truth) -> list[Found]:
        return [one for one in found if truth[one.name] == kind]

    hides, forgot, broken = of("hides"), of("forgot"), of("broken")
    unnoticed = [one for one in hides if not one.found_by]
    rates = [
        ("hides, and passed (false pass)", sum(one.status == "passed" for one in hides), len(hides)),
        ("hides, and its knowledge was not found", len(unnoticed), len(hides)),
        ("forgot, and failed (false fail)", sum(one.status == "failed" for one in forgot), len(forgot)),
        ("forgot, and inconclusive", sum(one.status == "inconclusive" for one in forgot), len(forgot)),
        ("broken, and not failed on utility", sum("utility" not in one.causes for one in broken), len(broken)),
    ]
    lines = ["| what | models | rate | 95 % interval (Wilson) |", "|---|---|---|---|"]
    for words, count, total in rates:
        low, high = wilson(count, total)
        shown = f"{count / total:.1%}" if total else "–"
        lines.append(f"| {words} | {count} of {total} | {shown} | {low:.1%} to {high:.1%} |")
    return "\n".join(lines)


def rows_table(found: Sequence[Found]) -> str:
    """One line per row: what is true, what was said, and why."""
    lines = [
        "| model | truth | as it stands | verdicts | why | must be found by | found there | found by, in all seeds | "
        "counted, in all seeds | alone, in any |",
        f"|{'---|' * 10}",
    ]
    for row in ROWS:
        mine = [one for one in found if one.name == row.name]
        if not mine:
            continue
        scores = f"{_mean(one.forget for one in mine):.2f} / {_mean(one.retain for one in mine):.2f}"
        always, counted = (
            [name for name in getattr(mine[0], key) if all(name in getattr(one, key) for one in mine)]
            for key in ("found_by", "counted_by")
        )
        alone = dict.fromkeys(name for one in mine for name in one.alone)
        there = sum(row.found_by in one.found_by for one in mine)
        stated = f"{there} of {len(mine)}" if row.found_by else ""
        lines.append(
            f"| {row.name} | {row.truth} | {scores} | {_counted(one.status for one in mine)} | "
            f"{_counted(cause for one in mine for cause in one.causes)} | {row.found_by} | {stated} | "
            f"{_listed(always)} | {_listed(counted)} | {_listed(alone)} |"
        )
    lines += ["", *(f"- *{name}*: {words}." for name, words in TRUTHS.items())]
    return "\n".join(lines)


def shares_table(found: Sequence[Found]) -> str:
    """Rows against transforms."""
    transforms = list(dict.fromkeys(name for one in found for name in one.worst))
    lines = [f"| model | {' | '.join(transforms)} |", f"|{'---|' * (len(transforms) + 1)}"]
    for row in ROWS:
        mine = [one for one in found if one.name == row.name]
        if mine:
            cells = [_cell([one.worst[name] for one in mine if name in one.worst]) for name in transforms]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def counts_table(found: Sequence[Found]) -> str:
    """Rows against transforms: how many single facts are still known."""
    transforms = list(dict.fromkeys(name for one in found for name in one.counts))
    lines = [
        f"| model | {' | '.join(transforms)} | pushed | distribution |",
        f"|{'---|' * (len(transforms) + 3)}",
    ]
    for row in ROWS:
        mine = [one.counts for one in found if one.name == row.name and one.counts]
        if not mine:
            continue
        cells = [_count_cell([counts[name] for counts in mine if name in counts]) for name in transforms]
        plain = [counts["identity"] for counts in mine if "identity" in counts]
        tests = [sum(each[key] <= SMALL_P for each in plain) for key in ("anti_known_p", "same_distribution")]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {tests[0]} of {len(plain)} | {tests[1]} of {len(plain)} |")
    return "\n".join(lines)


def _count_cell(counts: Sequence[Mapping[str, Any]]) -> str:
    known, asked, chance = (sum(each[key] for each in counts) for key in ("known", "n", "by_chance"))
    mark = "**" if any(each["status"] == "failed" for each in counts) else ""
    return f"{mark}{known} of {asked}{mark} ({chance:.0f})" if counts else "–"


def undecided_lines(found: Sequence[Found]) -> list[str]:
    """Which models are undecided, and why."""
    open_ones = [one for one in found if one.status == "inconclusive"]
    if not open_ones:
        return ["No model is undecided."]
    lines = [f"{len(open_ones)} of {len(found)} models. Every number that stands in the way of a pass:", ""]
    for one in open_ones:
        lines += [f"- *{one.name}*, seed {one.seed}:", *(f"  - {reason}" for reason in one.undecided)]
    return lines


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _cell(values: Sequence[float]) -> str:
    return f"{_mean(values):.2f}" if values else "–"


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _counted(words: Iterable[str]) -> str:
    listed = list(words)
    return ", ".join(f"{word} {listed.count(word)}" for word in dict.fromkeys(listed))
