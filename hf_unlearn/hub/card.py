"""The model card: the verdict in words and tables, under the metadata that the Hub reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentFailure, RequestError
from ..reporting.budgets import TOLD_WITH_FOLDS, folds_phrase, setting_phrases
from ..reporting.earlier import earlier_entries
from ..reporting.forgotten_rows import forgotten_rows_sentence
from ..reporting.known_facts import anti_known_sentence
from ..reporting.results import Results, Subject
from ..reporting.sentences import control_meaning, summarize, verdict_reasons, warning
from ..reporting.words import key_words, listed, show
from ..verification.references import IDENTITY
from ..verification.report import AttackRun
from ..verification.report_file import REPORT_FILE, load_report, write_report
from ..version import REPOSITORY, __version__
from .card_tables import (
    emissions,
    forgotten_rows_table,
    format_notes,
    gguf_file,
    headline_table,
    known_facts_table,
    metric_tables,
    utility_table,
    variant_links,
)
from .files import CARD_FILE, PAGE_FILE, PLOT_FOLDER, SIGNATURE_FILE
from .metadata import CardWords, card_metadata, metadata_problems, metadata_yaml, one_visible_line

if TYPE_CHECKING:
    from jinja2 import Environment

_OUTCOMES = {"failed": "**failed**", "inconclusive": "not settled", "passed": "survived"}
_PLAIN_LIBRARIES = ("torch", "transformers")
_SHOWN_SETTINGS = 3


@dataclass(frozen=True)
class CardPlot:
    """A plot next to the card."""

    path: str
    title: str


@dataclass(frozen=True)
class CardAttack:
    """An attack on the published model: its result, and what it could spend as a sentence."""

    name: str
    outcome: str
    budget: str


@dataclass(frozen=True)
class CardControl:
    """A control, its expected and actual verdict."""

    name: str
    expected: str
    status: str
    as_expected: bool
    meaning: str


def render_card(
    document: Mapping[str, Any],
    transform: str,
    words: CardWords,
    plots: Sequence[str] = (),
    results: Results | None = None,
    *,
    has_page: bool = False,
) -> str:
    """The README.md of one published folder.

    Args:
        document: The verification report as JSON has it.
        transform: ``identity`` for the main model, or the format of a variant.
        words: What only the publisher can say.
        plots: Paths of plots relative to the folder.
        results: The same report as read for an earlier card; read again by default.
        has_page: Whether the folder holds the report as a page.

    Returns:
        The card's text, with front matter that :func:`~hf_unlearn.hub.metadata.card_problems` accepts.

    Raises:
        RequestError: The metadata would not be accepted by the Hub.
    """
    revision = words.variant_revisions.get(transform)
    here = words.repo_id if transform == IDENTITY or revision else words.variant_repo_ids.get(transform)
    results = results or Results(document)
    report = results.report
    candidate = report.verdict.candidate
    formats = [name for name in report.models.unlearned.files if name != IDENTITY]
    not_judged = results.only_run(candidate)
    body = (
        card_environment()
        .get_template("card.md.j2")
        .render(
            report=report,
            words=words,
            transform=transform,
            repo=here or "PATH/TO/THIS/FOLDER",
            revision=revision,
            base=report.models.target.hub_id or words.base_model,
            variants=variant_links(words.repo_id, words.variant_repo_ids, words.variant_revisions),
            format_notes=format_notes(report, transform),
            formats_tested=[name for name in formats if name not in not_judged],
            formats_run=[name for name in formats if name in not_judged],
            gguf_file=gguf_file(report, transform),
            emissions=emissions(report),
            main_repo=words.repo_id,
            summary=summarize(results),
            warning=warning(results),
            reasons=verdict_reasons(results) if report.verdict.status != "passed" else [],
            headline=headline_table(results, candidate),
            known_facts=known_facts_table(results, candidate),
            anti_known=anti_known_sentence(results, candidate),
            forgotten_rows=forgotten_rows_table(results, candidate),
            told_apart=forgotten_rows_sentence(results, candidate),
            metrics=metric_tables(results, candidate),
            earlier=earlier_entries(report),
            utility=utility_table(results, candidate),
            attacks=_attacks(results, candidate),
            controls=[_control(results, control) for control in results.controls],
            library=_library(transform),
            has_page=has_page,
            page_file=PAGE_FILE,
            repository=REPOSITORY,
            version=__version__,
            plots=[CardPlot(path, PurePosixPath(path).stem.replace("_", " ")) for path in plots],
        )
    )
    metadata = card_metadata(results, transform, words).to_dict()
    problems = metadata_problems(metadata)
    if problems:
        raise RequestError(f"the model card's metadata is not what the Hub accepts: {problems[0]}")
    return f"---\n{metadata_yaml(metadata)}\n---\n\n{body.strip()}\n"


def rewrite_card(folder: Path, words: CardWords) -> None:
    """Write the card of a published folder again, for example once its repositories are known.

    The report gets the digest of the new card; a signature over the old report is removed. Other files stay as they
    are and are not read: check the folder before or after.

    Args:
        folder: A published folder.
        words: The content of the new card.

    Raises:
        RequestError: There is no intact report, or the metadata would not be accepted by the Hub.
        EnvironmentFailure: The folder cannot be written.
    """
    report = load_report(folder / REPORT_FILE)
    plots = [name for name in report["files"] if name.startswith(f"{PLOT_FOLDER}/")]
    text = render_card(report, report["format"], words, plots, has_page=PAGE_FILE in report["files"])
    files = {**report["files"], CARD_FILE: hashlib.sha256(text.encode("utf-8")).hexdigest()}
    try:
        (folder / SIGNATURE_FILE).unlink(missing_ok=True)
        (folder / CARD_FILE).write_bytes(text.encode("utf-8"))
        write_report({**report, "files": files}, folder / REPORT_FILE)
    except OSError as error:
        raise EnvironmentFailure(f"{folder} cannot be written: {error.strerror or error}") from error


def _attacks(results: Results, candidate: str) -> list[CardAttack]:
    """Attacks on the published model."""
    found = []
    for run in results.report.attacks:
        if run.model != candidate:
            continue
        status = results.forget_status(candidate, run.name)
        outcome = _OUTCOMES.get(status or "", "run, not judged")
        found.append(CardAttack(run.name, outcome, budget_sentence(run)))
    return found


def budget_sentence(run: AttackRun) -> str:
    """What an attack could spend: ``It had 2 of 5 folds, 6 epochs and learning rates 0.0001 and 0.0003.``

    The best known settings are named in words; where there are none, the first plain ones. The report has all.
    """
    given = {key: value for key, value in run.budget.items() if value not in (None, [], "")}
    told = setting_phrases(given, _plain)
    if "optimizer" in given:
        told.append(f"the optimizer {_plain(given['optimizer'])}")
    if not told:
        plain = [key for key in given if not isinstance(given[key], Mapping) and key not in TOLD_WITH_FOLDS]
        told = [f"{as_text(key_words(key))} {_plain(given[key])}" for key in plain[:_SHOWN_SETTINGS]]
    told = [*folds_phrase(given, run.folds, _plain), *told]
    return f"It had {listed(told)}." if told else "What it could spend was not recorded."


def _control(results: Results, control: Subject) -> CardControl:
    return CardControl(
        control.name,
        control.expected or "–",
        control.status or "not judged",
        control.as_expected is not False,
        control_meaning(results, control),
    )


def _library(transform: str) -> str:
    """The package that loads a format, if transformers alone cannot."""
    if transform == IDENTITY:
        return ""
    from ..quantization import FORMATS

    known = transform in FORMATS.names()
    package = FORMATS.get(transform).value.package if known else ""
    return "" if package in _PLAIN_LIBRARIES else package


@cache
def card_environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_unlearn.hub", "model_cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["number"] = show
    environment.filters["one"] = lambda value: show(value, 1)
    environment.filters["share"] = lambda value: show(value, 2)
    environment.filters["interval"] = lambda ends: f" [{show(ends[0], 2)}, {show(ends[1], 2)}]" if ends else ""
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["as_text"] = as_text
    environment.filters["as_code"] = lambda text: "`" + one_visible_line(str(text)).replace("`", "'") + "`"
    environment.filters["as_words"] = _as_words
    environment.filters["plain"] = _plain
    return environment


_MARKUP = re.compile(r"[\\`*\[\]#|~$!]|(?<![^\W_])_|_(?![^\W_])")


def as_text(value: Any) -> str:
    """A text from outside as it is read: on one line, with nothing in it that Markdown or HTML would act on."""
    line = one_visible_line(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", line)


def _plain(value: Any) -> str:
    """One setting without brackets and quotes."""
    if isinstance(value, Mapping):
        return _as_words(value)
    return listed([_plain(item) for item in value]) if isinstance(value, (list, tuple)) else as_text(value)


def _as_words(settings: Mapping[str, Any]) -> str:
    """Settings on one line, nested ones written out."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            parts.append(_as_words(value))
        elif isinstance(value, (list, tuple)):
            parts.append(f"{as_text(key)} {listed([_plain(item) for item in value]) or 'none'}")
        else:
            parts.append(f"{as_text(key)} {as_text(value)}")
    return ", ".join(parts) or "none recorded"
