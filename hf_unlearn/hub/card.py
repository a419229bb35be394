"""The model card: the verdict in words and tables, under the metadata that the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..reporting.controls import control_meaning
from ..reporting.reasons import grouped_reasons
from ..reporting.results import Results
from ..reporting.summary import summarize, warning
from ..reporting.words import listed, show
from ..verification.references import IDENTITY
from .card_tables import headline_table, metric_tables, utility_table
from .metadata import CardWords, card_metadata, card_problems

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..reporting.rows import Subject

_OUTCOMES = {"failed": "**failed**", "inconclusive": "not settled", "passed": "survived"}
_PLAIN_LIBRARIES = ("torch", "transformers")
_TOLD_APART = ("folds", "run_folds")


@dataclass(frozen=True)
class CardPlot:
    """A plot beside the card."""

    path: str
    title: str


@dataclass(frozen=True)
class CardAttack:
    """An attack on the published model: what came of it and what it spent."""

    name: str
    outcome: str
    budget: str


@dataclass(frozen=True)
class CardControl:
    """A control, what it must be and what came out."""

    name: str
    expected: str
    status: str
    as_expected: bool
    meaning: str


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
    results = Results(report)
    candidate = report["verdict"]["candidate"]
    reasons = grouped_reasons(results, candidate, results.reasons)
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            report=report,
            words=words,
            transform=transform,
            repo=here or "PATH/TO/THIS/FOLDER",
            main_repo=words.repo_id,
            summary=summarize(results),
            warning=warning(results),
            reasons=reasons if report["verdict"]["status"] != "passed" else [],
            headline=headline_table(results, candidate),
            metrics=metric_tables(results, candidate),
            utility=utility_table(results, candidate),
            attacks=_attacks(results, candidate),
            controls=[_control(results, control) for control in results.controls],
            library=_library(transform),
            plots=[CardPlot(path, PurePosixPath(path).stem.replace("_", " ")) for path in plots],
        )
    )
    text = f"---\n{card_metadata(report, transform, words).to_yaml()}\n---\n\n{body.strip()}\n"
    problems = card_problems(text)
    if problems:
        raise RequestError(f"the model card's metadata is not what the Hub accepts: {problems[0]}")
    return text


def _attacks(results: Results, candidate: str) -> list[CardAttack]:
    """Attacks on the published model."""
    found = []
    for run in results.report["attacks"]:
        if run["model"] != candidate:
            continue
        status = results.forget_status(candidate, run["name"])
        outcome = _OUTCOMES.get(status or "", "not judged")
        of = f" of {run['budget']['folds']}" if run["budget"].get("folds", run["folds"]) != run["folds"] else ""
        settings = {key: value for key, value in run["budget"].items() if key not in _TOLD_APART}
        found.append(CardAttack(run["name"], outcome, f"{run['folds']}{of} folds, {_as_words(settings)}"))
    return found


def _control(results: Results, control: Subject) -> CardControl:
    return CardControl(
        control.name,
        control.expected or "–",
        control.status or "not judged",
        control.as_expected is not False,
        control_meaning(results, control),
    )


def _library(transform: str) -> str:
    """The package that loads a format, where transformers alone does not."""
    if transform == IDENTITY:
        return ""
    from ..quantization import FORMATS

    known = transform in FORMATS.names()
    package = FORMATS.get(transform).value.package if known else ""
    return "" if package in _PLAIN_LIBRARIES else package


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
    environment.filters["number"] = show
    environment.filters["share"] = lambda value: show(value, 2)
    environment.filters["interval"] = lambda ends: f" [{show(ends[0], 2)}, {show(ends[1], 2)}]" if ends else ""
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["as_words"] = _as_words
    return environment


def _as_words(settings: Mapping[str, Any]) -> str:
    """Settings on one line, those within settings written out."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            parts.append(_as_words(value))
        elif isinstance(value, (list, tuple)):
            parts.append(f"{key} {listed([str(item) for item in value]) or 'none'}")
        else:
            parts.append(f"{key} {value}")
    return ", ".join(parts) or "none recorded"
