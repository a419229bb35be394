"""``report.html``: the whole report on one page that needs no network and no scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.files import write_atomically
from ..verification.recovered import RecoveredRow
from ..verification.report import Method, ModelInfo
from ..verification.scores import ScoreRow
from ..verification.typed_json import to_json
from ..verification.utility import UtilityRow
from ..verification.values import Settings
from .budgets import budget_phrases
from .earlier import earlier_entries
from .explanation import explained, formats_table, magnitude_label, pooled_sentence
from .figures import PALETTE, STATUS_COLOURS, inline_svg
from .forgotten_rows import auc_words, forgotten_rows_sentence, limit_words, never_words
from .glossary import words_of
from .known_facts import allowed_words, anti_known_sentence, counts_to_show, salted_ids
from .plot_explanation import explanation_figure, layers_figure
from .plot_recovery import recovery_figure
from .plots import forget_figure, recovered_figure, retain_figure
from .recovery import recovery_attacks, recovery_tables
from .results import Results
from .sentences import (
    caught_by,
    control_meaning,
    control_note,
    outcome_sentences,
    summarize,
    verdict_reasons,
    warning,
)
from .words import (
    METRIC_LABELS,
    day,
    key_words,
    metric_label,
    metric_phrase,
    p_value,
    percent,
    show,
    show_interval,
    spelled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Row = RecoveredRow | UtilityRow
TEMPLATES = Path(__file__).parent / "templates"
MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
_SHOWN_APART = ("fold", "metric", "before", "after", "value", "stopped")


PagePlots = Mapping[str, Any]
"""The plots of a page by their key; ``None`` for one that the report has no numbers for."""


def page_plots(report: Mapping[str, Any]) -> PagePlots:
    """The plots of a report's page, which take most of its time: for who writes the page more than once."""
    return _plots(Results(report))


def write_html(report: Mapping[str, Any], path: Path | str, plots: PagePlots | None = None) -> Path:
    """Write the page.

    Args:
        report: The report as JSON has it. Missing parts are left out of the page.
        path: The file to write; its folder is created if missing.
        plots: From :func:`page_plots`; drawn here if left out.

    Returns:
        The path that was written.
    """
    path = Path(path)
    write_atomically(path, render_html(report) if plots is None else render_html(report, plots))
    return path


def render_html(report: Mapping[str, Any], plots: PagePlots | None = None) -> str:
    """The page as text: the same bytes for the same report.

    Args:
        report: See :func:`write_html`.
        plots: See :func:`write_html`.
    """
    from jinja2 import Environment, FileSystemLoader

    results = Results(report)
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.filters.update(
        show=show,
        short=lambda value: show(value, 2),
        metric=metric_label,
        phrase=metric_phrase,
        words=_words,
        key=key_words,
        spelled=spelled,
        transform=results.transform_label,
        percent=percent,
        magnitude=magnitude_label,
        one=lambda value: show(value, 1),
        p_value=p_value,
        allowed=allowed_words,
        salted_ids=salted_ids,
        auc=auc_words,
        auc_limit=limit_words,
    )
    return jinja.get_template("report.html.j2").render(
        results=results,
        report=results.report,
        about=about(results),
        glossary=words_of(results) if results.transforms else [],
        summary=summarize(results),
        warning=warning(results),
        reasons=verdict_reasons(results),
        outcomes=outcome_sentences(results),
        note=control_note,
        meaning=lambda control: control_meaning(results, control),
        caught_by=lambda control: caught_by(results, control),
        shares_by_transform=lambda model: _by_transform(results.shares(model)),
        utility_by_transform=lambda model: _by_transform(results.utility(model)),
        known_facts=lambda model: counts_to_show(results, model),
        anti_known=lambda model: anti_known_sentence(results, model),
        told_apart=lambda model: forgotten_rows_sentence(results, model),
        never_auc=lambda transform: never_words(results, transform),
        palette=PALETTE,
        tones=STATUS_COLOURS,
        marks=MARKS,
        plots=_plots(results) if plots is None else plots,
        interval=show_interval,
        counts=_counts,
        has_never_knew=any(subject.role == "never_knew" for subject in results.subjects),
        settings=_settings(results),
        attacks=attack_tables(results),
        recovery=recovery_tables(results),
        explained=explained(results),
        pooled=pooled_sentence(results),
        formats=formats_table(results),
        earlier=earlier_entries(results.report),
        pairs=flat_pairs,
    )


def about(results: Results) -> list[tuple[str, str]]:
    """What the report is about, for the lines under its title: model, what was forgotten, facts, method and date."""
    report = results.report
    forget = report.data.get("forget")
    told = {
        "Model": _model_words(report.models.target),
        "To be forgotten": report.removed or "",
        "Facts": f"{forget.facts:,} in {forget.rows:,} rows" if forget and forget.facts and forget.rows else "",
        "Method": _method_words(report.method),
        "Date": day(report.created),
    }
    return [(name, words) for name, words in told.items() if words]


def _model_words(model: ModelInfo) -> str:
    at = f" at {model.revision[:12]}" if model.hub_id and model.revision else ""
    return f"{model.hub_id}{at}" if model.hub_id else model.description


def _method_words(method: Method) -> str:
    """Name, losses, robust parts and steps."""
    given = method.settings
    losses = [str(given[key]) for key in ("loss_type", "retain_loss_type") if given.get(key)]
    robust = given.get("robust")
    named = robust if isinstance(robust, (list, tuple)) else [robust]
    parts = [part for part in named if isinstance(part, str) and part != method.name]
    steps = given.get("steps_taken")
    details = [
        *(["losses " + " + ".join(losses)] if losses else []),
        *(["with " + ", ".join(parts)] if parts else []),
        *([f"{steps:,} steps"] if isinstance(steps, int) else []),
    ]
    return f"{method.name} ({', '.join(details)})" if details and method.name else method.name


def _plots(results: Results) -> dict[str, Any]:
    """Every plot as an ``<svg>`` element that needs no further escaping, or ``None``."""
    candidates = [subject for subject in results.judged if subject.role != "control"]
    where = "as it stands, in each format and after each attack"
    return {
        "forget": _inline(forget_figure(results), "forget", f"Forget score of every model {where}"),
        "shares": _inline(recovered_figure(results, candidates), "shares", "Recovered share of every candidate"),
        "control_shares": _inline(
            recovered_figure(results, [subject for subject in results.controls if subject.role == "control"]),
            "controls",
            "Recovered share of every control",
        ),
        "grids": _inline(
            explanation_figure(results), "grids", "Weights of every model compared with the target's on each grid"
        ),
        "layers": _inline(layers_figure(results), "layers", "Changed codes by layer and moved weights by magnitude"),
        "recovery": {
            name: _inline(recovery_figure(results, name), f"recovery-{place}", f"Forget score by steps of {name}")
            for place, name in enumerate(recovery_attacks(results))
        },
        "retain": _inline(retain_figure(results), "retain", "Retain score against forget score of every model"),
    }


def _inline(figure: Figure | None, key: str, title: str) -> Any:
    from markupsafe import Markup

    if figure is None:
        return None
    # The SVG writer escapes all text in it, and the title is escaped there: this is markup of our own.
    return Markup(inline_svg(figure, key=f"plot-{key}", title=f"{title}. The numbers are in the tables of this page."))


def _by_transform(rows: Sequence[_Row]) -> dict[str, dict[tuple[str, str], _Row]]:
    """Transform to kind and metric to row; recovered shares are of the kind ``share``."""
    found: dict[str, dict[tuple[str, str], _Row]] = {}
    for row in rows:
        kind = row.kind if isinstance(row, UtilityRow) else "share"
        found.setdefault(row.transform, {})[kind, row.metric] = row
    return found


def _counts(scores: Sequence[ScoreRow | None]) -> str:
    """How many facts the scores of a row are over, each number once."""
    return ", ".join(dict.fromkeys(str(score.n) for score in scores if score is not None and score.n is not None))


def _settings(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that says how it was measured, as titled key-value lists."""
    report = results.report
    parts = [
        ("Thresholds of the gate", report.gate),
        ("Method", report.method),
        ("Data", report.data),
        ("Models", report.models),
        ("Environment", report.environment),
    ]
    return [(title, flat_pairs(_sorted(to_json(part)))) for title, part in parts if _says_anything(to_json(part))]


def _says_anything(value: Any) -> bool:
    """Whether a section is there: a missing one is read as empty."""
    if isinstance(value, Mapping):
        return any(_says_anything(item) for item in value.values())
    return value not in (None, "", [])


def _sorted(value: Any) -> Any:
    """A section in the order of a report's file, which is that of its keys."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def flat_pairs(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as ``("outer.inner", "value")`` pairs; lists of plain values become one value."""
    pairs: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            pairs += flat_pairs(inner, f"{name}.")
        else:
            pairs.append((name, _words(inner)))
    return pairs


def _words(value: Any) -> str:
    """A plain value, or a list of them, as people write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (Mapping, list, tuple)) for item in value):
        return ", ".join(_words(item) for item in value) or "none"
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    if isinstance(value, str) and "_" in value:  # ids of metrics and models
        return key_words(value) if value in METRIC_LABELS or value == "never_knew" else value
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class AttackCell:
    """The result of the strongest setting of one fold in one metric.

    Attributes:
        change: Score before and after, or the one that was recorded.
        setting: The setting, as ``name value`` pairs.
    """

    change: str
    setting: str


@dataclass
class AttackTable:
    """An attack with one budget.

    Attributes:
        name: The attack.
        budget: What it may spend on each model.
        told: The same in words, where there are words for it.
        metrics: Metrics of which the strongest settings were recorded.
        rows: Model, fold, and a cell per metric.
    """

    name: str
    budget: Settings
    told: str = ""
    metrics: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, dict[str, AttackCell]]] = field(default_factory=list)


def attack_tables(results: Results) -> list[AttackTable]:
    """One table per attack and budget, models in the order they are shown."""
    order = {subject.name: i for i, subject in enumerate(results.subjects)}
    labels = {subject.name: subject.label for subject in results.subjects}
    tables: dict[str, AttackTable] = {}
    for run in sorted(results.report.attacks, key=lambda run: order.get(run.model, len(order))):
        model = run.model or "–"
        key = json.dumps([run.name, run.budget], sort_keys=True, default=str)
        told = ", ".join(budget_phrases(run.budget, run.folds, _listed_values))
        table = tables.setdefault(key, AttackTable(run.name, run.budget, told))
        folds: dict[str, dict[str, AttackCell]] = {}
        for best in run.best:
            metric = str(best.get("metric") or "score")
            folds.setdefault(str(best.get("fold", "–")), {})[metric] = _attack_cell(best)
            table.metrics += [metric] if metric not in table.metrics else []
        if not folds:
            folds = {str(run.folds or "–"): {}}
        table.rows += [(labels.get(model, model), fold, cells) for fold, cells in folds.items()]
    for table in tables.values():
        table.metrics.sort(key=lambda name: results.metrics.index(name) if name in results.metrics else 99)
    return list(tables.values())


def _attack_cell(best: Settings) -> AttackCell:
    before, after = _number(best.get("before")), _number(best.get("after"))
    value = after if after is not None else _number(best.get("value"))
    change = show(value) if before is None else f"{show(before)} → {show(value)}"
    settings = [f"{str(key).replace('_', ' ')} {_setting_words(best[key])}" for key in best if key not in _SHOWN_APART]
    stopped = best.get("stopped")
    if stopped:
        settings.append(f"stopped early: {_listed_values(stopped)}")
    return AttackCell(change, ", ".join(settings))


def _listed_values(value: Any) -> str:
    return ", ".join(map(_setting_words, value)) if isinstance(value, list | tuple) else _setting_words(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _setting_words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
