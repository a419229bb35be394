"""The tables of a model card, as rows that the template only has to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..reporting.forgotten_rows import auc_words, limit_words, never_words, signals_words
from ..reporting.known_facts import allowed_words, counts_to_show, salted_ids
from ..reporting.results import Results
from ..reporting.words import metric_label, metric_phrase, show
from ..verification.references import IDENTITY
from ..verification.report import FormatInfo, Report
from ..verification.utility import UtilityRow
from ..verification.values import Interval, Settings


@dataclass(frozen=True)
class MetricRow:
    """One transform: what the three models score, and how much came back by one metric."""

    transform: str
    label: str
    target: float | None
    unlearned: float | None
    never_knew: float | None
    share: float | None = None
    interval: Interval = None
    ratio: float | None = None
    status: str = ""


@dataclass(frozen=True)
class MetricTable:
    """One set by one metric; ``shares`` says whether recovered shares belong to it."""

    rows: list[MetricRow]
    shares: bool


@dataclass(frozen=True)
class Metric:
    """All measurements of one metric."""

    name: str
    gated: bool
    forget: MetricTable
    retain: MetricTable


@dataclass(frozen=True)
class HeadlineRow:
    """One transform in the first table."""

    transform: str
    label: str
    target: float | None
    unlearned: float | None
    never_knew: float | None
    retain_target: float | None
    retain: float | None
    most: str
    status: str


@dataclass(frozen=True)
class HeadlineTable:
    """Forget and retain scores by one metric, and what all metrics say about each transform."""

    metric: str
    rows: list[HeadlineRow]


@dataclass(frozen=True)
class KnownFactsLine:
    """One transform: how many single facts are still known, and which by salted id."""

    label: str
    metric: str
    known: str
    by_chance: float | None
    allowed: str
    anti_known: str
    status: str
    ids: str


@dataclass(frozen=True)
class ForgottenRowsLine:
    """One transform: how well the model alone tells forgotten rows from holdout rows."""

    label: str
    auc: str
    signals: str
    never_knew: str
    allowed: str
    status: str


@dataclass(frozen=True)
class UtilityColumn:
    """One utility check."""

    kind: str
    metric: str
    title: str


@dataclass(frozen=True)
class UtilityTableRow:
    """One transform: a cell per utility check."""

    label: str
    cells: list[str]


@dataclass(frozen=True)
class UtilityTable:
    """Utility checks across, transforms down."""

    columns: list[UtilityColumn]
    rows: list[UtilityTableRow]


def headline_table(results: Results, candidate: str) -> HeadlineTable:
    """Forget and retain score before and after under each transform, and the verdict on each."""
    metric = results.headline
    forget = {row.transform: row for row in _metric_rows(results, candidate, "forget", metric or "")}
    rows = []
    for transform in results.transforms:
        row = forget.get(transform.name)
        status = results.status_under(candidate, transform.name)
        if row is None and status is None:
            continue  # neither scored by this metric nor judged by another one
        target = results.value("target", transform.name, "retain", metric)
        kept = results.value(candidate, transform.name, "retain", metric)
        top = results.largest_share(candidate, transform.name)
        most = f"{show(top.recovered_share, 2)} by {metric_phrase(top.metric)}" if top else "–"
        rows.append(
            HeadlineRow(
                transform.name,
                transform.label,
                row.target if row else None,
                row.unlearned if row else None,
                row.never_knew if row else None,
                target,
                kept,
                most,
                status or "reported",
            )
        )
    return HeadlineTable(metric_label(metric), rows)


def known_facts_table(results: Results, candidate: str) -> list[KnownFactsLine]:
    """Single facts that are still known, a line per transform; none where an older report has no counts."""
    return [
        KnownFactsLine(
            results.transform_label(row.transform),
            metric_phrase(row.metric),
            f"{row.known} of {row.n}",
            row.by_chance,
            allowed_words(row),
            f"{row.anti_known} ({show(row.anti_known_by_chance, 1)})",
            row.status or "",
            salted_ids(row),
        )
        for row in counts_to_show(results, candidate)
    ]


def forgotten_rows_table(results: Results, candidate: str) -> list[ForgottenRowsLine]:
    """How well the candidate alone tells forgotten rows, a line per transform; none without holdout rows."""
    return [
        ForgottenRowsLine(
            results.transform_label(row.transform),
            auc_words(row),
            signals_words(row),
            never_words(results, row.transform) or "–",
            limit_words(row),
            row.status or "",
        )
        for row in results.forgotten_rows(candidate)
    ]


def metric_tables(results: Results, candidate: str) -> list[Metric]:
    """Every metric that was scored on the forget set: those of the gate first."""
    gated = [name for name in results.gate_metrics if results.has_scores("forget", name)]
    others = [name for name in results.metrics if name not in gated and results.has_scores("forget", name)]
    return [
        Metric(
            metric_label(name),
            name in gated,
            MetricTable(_metric_rows(results, candidate, "forget", name), shares=True),
            MetricTable(_metric_rows(results, candidate, "retain", name), shares=False),
        )
        for name in (*gated, *others)
    ]


def utility_table(results: Results, candidate: str) -> UtilityTable:
    """What the model kept: the judged number and its verdict, a column per check."""
    checks = results.utility(candidate)
    columns = {(row.kind, row.metric): UtilityColumn(row.kind, row.metric, _utility_title(row)) for row in checks}
    found = {(row.transform, row.kind, row.metric): row for row in checks}
    rows = [
        UtilityTableRow(
            results.transform_label(name), [_utility_cell(found.get((name, *column))) for column in columns]
        )
        for name in dict.fromkeys(row.transform for row in checks)
    ]
    return UtilityTable(list(columns.values()), rows)


def _metric_rows(results: Results, candidate: str, split: str, metric: str) -> list[MetricRow]:
    shares = {share.transform: share for share in results.shares(candidate) if share.metric == metric}
    rows = []
    for transform in results.transforms:
        own = results.value(candidate, transform.name, split, metric)
        if own is None:
            continue
        share = shares.get(transform.name) if split == "forget" else None
        rows.append(
            MetricRow(
                transform.name,
                transform.label,
                results.value("target", transform.name, split, metric),
                own,
                results.floor(candidate, transform.name, split, metric),
                share.recovered_share if share else None,
                share.ci95 if share else None,
                share.retention_ratio if share else None,
                (share.status or "") if share else "",
            )
        )
    return rows


def _utility_title(row: UtilityRow) -> str:
    bound = f"at {'most' if row.is_ceiling else 'least'} {show(row.threshold, 2)}"
    if row.kind == "generic_kl":
        return f"{metric_label(row.metric)}, {bound}"
    what = f"retain {metric_phrase(row.metric)}" if row.kind == "retain_score" else metric_phrase(row.metric)
    return f"{what} / target, {bound}"


def _utility_cell(row: UtilityRow | None) -> str:
    if row is None:
        return "–"
    parts = "" if row.kind == "generic_kl" else f" ({show(row.value)} / {show(row.target_value)})"
    return f"{show(row.shown, 2)}{parts} {row.status}"


_LONGEST_HASH = 16


@dataclass(frozen=True)
class FormatNote:
    """How the weights of a format are stored and what its scales were fitted on."""

    name: str
    text: str


@dataclass(frozen=True)
class VariantLink:
    """Where a variant is published."""

    name: str
    repo_id: str
    revision: str | None


def format_notes(report: Report, transform: str) -> list[FormatNote]:
    """Notes from the report's ``formats`` section: about all formats on the main card, about its own on a variant's.

    Args:
        report: The report; without that section there are no notes.
        transform: ``identity`` or a format.
    """
    notes = [
        FormatNote(info.format, _format_words(info))
        for info in report.formats
        if info.format and transform in (IDENTITY, info.format)
    ]
    return sorted(notes, key=lambda note: note.name)


def _format_words(info: FormatInfo) -> str:
    parts = []
    if info.bits:
        group = f", a scale for each {info.group_size} of them" if info.group_size else ""
        parts.append(f"{info.bits} bits per quantized weight{group}")
    if info.quantized_share is not None:
        parts.append(f"{show(100 * info.quantized_share, 1)} % of the parameters are quantized")
    if info.library:
        parts.append(f"written by {info.library} {info.version or ''}".strip())
    if info.bytes:
        parts.append(f"{show(info.bytes / 1e6, 1)} MB of weights")
    if info.calibration:
        known = ", ".join(
            f"{key} {_short(value)}" for key, value in info.calibration.items() if value not in (None, "")
        )
        parts.append(f"calibrated on text of this kind: {known}")
    return "; ".join(parts) or "nothing more is recorded"


def _short(value: Any) -> str:
    """A hash is recognized by its first digits; everything else is written out."""
    text = str(value)
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return f"`{text[:_LONGEST_HASH]}…`" if is_hash else text


def variant_links(repo_id: str | None, repo_ids: Mapping[str, str], revisions: Mapping[str, str]) -> list[VariantLink]:
    """Where the variants are, by format.

    Args:
        repo_id: The main repository.
        repo_ids: Format to repository, if it has its own.
        revisions: Format to branch of the main repository, if it has one.
    """
    links = [VariantLink(name, repo, None) for name, repo in repo_ids.items()]
    if repo_id:
        links += [VariantLink(name, repo_id, branch) for name, branch in revisions.items()]
    return sorted(links, key=lambda link: link.name)


def gguf_file(report: Report, transform: str) -> str | None:
    """The file that a GGUF variant consists of; ``None`` for any other."""
    names = report.models.unlearned.files.get(transform, ())
    return next((name for name in names if name.endswith(".gguf")), None)


def emissions(report: Report) -> Settings | None:
    """The run's emissions, if they were measured: at least ``grams`` of CO2 equivalents, maybe more."""
    found = report.environment.get("emissions")
    if not isinstance(found, Mapping):
        return None
    grams = found.get("grams")
    return found if isinstance(grams, (int, float)) and not isinstance(grams, bool) else None
