"""``report.html``: the whole report on one page that needs no network and no scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..verification.report_rows import Report, Score, Share, Utility, number, section
from .attacks import attack_tables
from .controls import caught_by, control_meaning, control_note
from .explanation import explained, formats_table, percent, pooled_sentence
from .files import inline_svg
from .outcomes import outcome_sentences
from .plot_explanation import explanation_figure, layers_figure
from .plot_forget import forget_figure
from .plot_retain import retain_figure
from .plot_shares import recovered_figure
from .reasons import grouped_reasons
from .results import Results
from .style import PALETTE, STATUS_COLOURS
from .summary import summarize, warning
from .words import metric_label, metric_phrase, show, show_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}


def write_html(report: Report, path: Path | str) -> Path:
    """Write the page.

    Args:
        report: The report dictionary. Parts that are not there are left out of the page.
        path: The file to write; its folder is made if it is not there.

    Returns:
        The path that was written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_html(report), encoding="utf-8")
    return path


def render_html(report: Report) -> str:
    """The page as text: the same bytes for the same report."""
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
        show=lambda value: show(number(value)),
        short=lambda value: show(number(value), 2),
        metric=metric_label,
        phrase=metric_phrase,
        words=_words,
        transform=results.transform_label,
        percent=lambda value: percent(number(value)),
    )
    return jinja.get_template("report.html.j2").render(
        results=results,
        report=report,
        summary=summarize(results),
        warning=warning(results),
        reasons=grouped_reasons(results, results.release.name, results.reasons)
        if results.release
        else list(results.reasons),
        outcomes=outcome_sentences(results),
        note=control_note,
        meaning=lambda control: control_meaning(results, control),
        caught_by=lambda control: caught_by(results, control),
        shares_by_transform=lambda model: _by_transform(results.shares(model)),
        utility_by_transform=lambda model: _by_transform(results.utility(model)),
        palette=PALETTE,
        tones=STATUS_COLOURS,
        marks=MARKS,
        plots=_plots(results),
        interval=show_interval,
        counts=_counts,
        has_never_knew=any(subject.role == "never_knew" for subject in results.subjects),
        settings=_settings(report),
        not_tested=[str(item) for item in report.get("not_tested") or ()],
        notes=[str(item) for item in report.get("notes") or ()],
        attacks=attack_tables(results),
        explained=explained(results),
        pooled=pooled_sentence(results),
        formats=formats_table(results),
        pairs=flat_pairs,
    )


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
            explanation_figure(results), "grids", "Weights of every model beside the target's on each grid"
        ),
        "layers": _inline(layers_figure(results), "layers", "Changed codes by layer and moved weights by magnitude"),
        "retain": _inline(retain_figure(results), "retain", "Retain score beside forget score of every model"),
    }


def _inline(figure: Figure | None, key: str, title: str) -> Any:
    from markupsafe import Markup

    if figure is None:
        return None
    # The SVG writer escapes all text in it, and the title is escaped there: this is markup of our own.
    return Markup(inline_svg(figure, key=f"plot-{key}", title=f"{title}. The numbers are in the tables of this page."))


def _by_transform(rows: Sequence[Share] | Sequence[Utility]) -> dict[str, dict[tuple[str, str], Share | Utility]]:
    """Transform to kind and metric to row; recovered shares are of the kind ``share``."""
    found: dict[str, dict[tuple[str, str], Share | Utility]] = {}
    for row in rows:
        kind = row.kind if isinstance(row, Utility) else "share"
        found.setdefault(row.transform, {})[kind, row.metric] = row
    return found


def _counts(scores: Sequence[Score | None]) -> str:
    """How many facts the scores of a row are over, each number once."""
    return ", ".join(dict.fromkeys(str(score.n) for score in scores if score is not None and score.n is not None))


def _settings(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that says how it was measured, as titled key-value lists."""
    results = Results(report)
    parts: list[tuple[str, Mapping[str, Any]]] = [
        ("Thresholds of the gate", results.thresholds),
        ("Method", section(report, "method")),
        ("Data", section(report, "data")),
        ("Models", section(report, "models")),
        ("Environment", section(report, "environment")),
    ]
    return [(title, flat_pairs(part)) for title, part in parts if part]


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
    return f"{value:g}" if isinstance(value, float) else str(value)
