"""The model card: the verdict in words and tables, under the metadata that the Hub reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..verification.references import IDENTITY
from .metadata import CardWords, card_metadata, card_problems

if TYPE_CHECKING:
    from jinja2 import Environment


def render_card(report: Mapping[str, Any], transform: str, words: CardWords, plots: Sequence[str] = ()) -> str:
    """The README.md of one published folder.

    Args:
        report: The verification report.
        transform: ``identity`` for the main model, or the format of a variant.
        words: What only the publisher can say.
        plots: Paths of plots relative to the folder.

    Returns:
        The card's text, with front matter that :func:`card_problems` accepts.

    Raises:
        RequestError: The metadata would not be accepted by the Hub.
    """
    here = words.repo_id if transform == IDENTITY else words.variant_repo_ids.get(transform)
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            report=report,
            words=words,
            transform=transform,
            repo=here or "PATH/TO/THIS/FOLDER",
            main_repo=words.repo_id,
            gated=_tables(report),
            others=_reported_metrics(report),
            plots=list(plots),
        )
    )
    text = f"---\n{card_metadata(report, transform, words).to_yaml()}\n---\n\n{body.strip()}\n"
    problems = card_problems(text)
    if problems:
        raise RequestError(f"the model card's metadata is not what the Hub accepts: {problems[0]}")
    return text


@dataclass(frozen=True)
class TableRow:
    """One line of a card's table: a transform and what the three models score under it."""

    transform: str
    target: float | None
    unlearned: float | None
    never_knew: float | None
    share: float | None = None
    interval: Sequence[float] | None = None
    status: str = ""


@dataclass(frozen=True)
class MetricTable:
    """Forget and retain scores by one metric, a line per transform."""

    metric: str
    forget: list[TableRow]
    retain: list[TableRow]


def _tables(report: Mapping[str, Any]) -> list[MetricTable]:
    """A table for each metric of the gate that was scored."""
    tables = [_metric_table(report, metric) for metric in report["gate"]["metrics"]]
    return [table for table in tables if table.forget]


def _reported_metrics(report: Mapping[str, Any]) -> list[MetricTable]:
    """A table for each metric that was scored on the forget set and stands outside the gate."""
    seen = dict.fromkeys(row["metric"] for row in report["scores"] if row["split"] == "forget")
    return [_metric_table(report, metric) for metric in seen if metric not in report["gate"]["metrics"]]


def _metric_table(report: Mapping[str, Any], metric: str) -> MetricTable:
    subject = report["verdict"]["candidate"]
    shares = {
        row["transform"]: row for row in report["recovered"] if row["model"] == subject and row["metric"] == metric
    }
    rows: dict[str, list[TableRow]] = {"forget": [], "retain": []}
    for split, lines in rows.items():
        values = _by_transform(report, split, metric)
        # Without a never-knew model, what the target says of holdout facts stands in; nothing does on the retain set.
        absent = report["models"]["never_knew"] is None and split == "forget"
        never = _by_transform(report, "holdout", metric) if absent else values
        for transform in sorted(values, key=_order(report)):
            if subject not in values[transform]:
                continue
            score = values[transform]
            share = shares.get(transform, {}) if split == "forget" else {}
            lines.append(
                TableRow(
                    transform,
                    score.get("target"),
                    score[subject],
                    never.get(transform, {}).get("target" if absent else "never_knew"),
                    share.get("recovered_share"),
                    share.get("ci95"),
                    share.get("status", ""),
                )
            )
    return MetricTable(metric, rows["forget"], rows["retain"])


def _by_transform(report: Mapping[str, Any], split: str, metric: str) -> dict[str, dict[str, float | None]]:
    """Transform to model to score."""
    values: dict[str, dict[str, float | None]] = {}
    for row in report["scores"]:
        if row["split"] == split and row["metric"] == metric:
            values.setdefault(row["transform"], {})[row["model"]] = row["value"]
    return values


def _order(report: Mapping[str, Any]) -> Callable[[str], tuple[int, str]]:
    """Sort key: the model as it stands, formats and attacks as in the gate, then the rest by name."""
    order = [IDENTITY, *report["gate"]["formats"], *report["gate"]["attacks"]]
    return lambda name: (order.index(name) if name in order else len(order), name)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_unlearn.hub", "model_cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.2f}"
    environment.filters["interval"] = lambda ends: f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["as_words"] = _as_words
    return environment


def _as_words(settings: Mapping[str, Any]) -> str:
    """Settings on one line, those within settings written out."""
    parts = []
    for key, value in settings.items():
        parts.append(_as_words(value) if isinstance(value, Mapping) and value else f"{key} {value}")
    return ", ".join(parts) or "none recorded"
