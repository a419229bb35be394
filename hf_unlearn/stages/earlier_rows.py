"""The forget sets of earlier deletion requests, read and compared with the reports of those requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.earlier import without_earlier
from ..data.example import DataBundle, Example, RowSet
from ..data.sources import load_source
from ..errors import RequestError, about
from ..hub.report_source import report_in
from ..hub.verified import load_report
from ..recipe import EarlierSpec, ModelSpec, Recipe
from ..recipe.checks import located
from ..verification.digests import salted_hash
from ..verification.report_file import REPORT_FILE
from .known_rows import only_known
from .report_inputs import SALT_FILE
from .target_answers import TargetAnswers

EarlierReport = Mapping[str, Any]


@dataclass(frozen=True)
class RequestBundle(DataBundle):
    """The rows of a run, asked about an earlier request: nothing but its forget set and the holdout set is scored."""

    def scored_sets(self) -> dict[str, tuple[Example, ...]]:
        """Forget and holdout set."""
        return {name: rows for name, rows in super().scored_sets().items() if name in ("forget", "holdout")}


def with_earlier(recipe: Recipe, bundle: DataBundle) -> DataBundle:
    """The sets with those of earlier requests, and without what says again what these were about.

    Args:
        recipe: A recipe whose text format is settled.
        bundle: Its other sets.

    Raises:
        RequestError: A file or report cannot be read, the rows are not those of the report, or the report names an
            earlier request that the recipe does not.
        EnvironmentFailure: The Hub could not be reached.
    """
    if not recipe.data.earlier:
        return bundle
    earlier, notes = {}, list(bundle.notes)
    for number, spec in enumerate(recipe.data.earlier):
        with about(f"data.earlier.{number}"), located(spec.key):
            report = report_of(spec)
            earlier[spec.id], told = _rows(recipe, spec, report)
            notes += told
            if report is not None:
                check_named(spec, report, recipe.data.earlier)
                notes += _compared(spec, report, earlier[spec.id].score)
    kept = without_earlier(replace(bundle, earlier=earlier, notes=tuple(notes)))
    if bundle.retain.train and not kept.retain.train:
        raise RequestError("data.earlier: all rows of data.retain say what earlier requests were about: add others")
    return kept


def report_of(spec: EarlierSpec) -> EarlierReport | None:
    """The report of a request, if the recipe names it.

    Raises:
        RequestError: There is none, it was changed, or it is about no forget set.
        EnvironmentFailure: The Hub could not be reached.
    """
    if spec.report is None:
        return None
    report = load_report(spec.report)
    if "forget" not in report["data"]:
        raise RequestError(f"{spec.report} says nothing of a forget set: name the report of the request")
    return report


def request_bundle(bundle: DataBundle, forget: RowSet) -> RequestBundle:
    """The run's rows with the request's forget set; no generic text is scored.

    Args:
        bundle: The run's.
        forget: What the request was about.
    """
    generic = RowSet(bundle.generic.train, ())
    return RequestBundle(forget, bundle.retain, bundle.holdout, generic, practice=bundle.practice)


def request_model(recipe: Recipe, spec: EarlierSpec, report: EarlierReport | None) -> ModelSpec:
    """The models of a request in place of those of the recipe; precision and tokenizer stay.

    Raises:
        RequestError: Neither the recipe nor the report names the target.
    """
    target, revision = spec.target, spec.target_revision
    if target is None and report is not None:
        target, revision = report["models"]["target"].get("hub_id"), report["models"]["target"].get("revision")
    if target is None:
        raise RequestError("its report names no target on the Hub: add target, the model that knew its facts")
    return replace(
        recipe.model,
        target=target,
        target_revision=revision,
        never_knew=spec.never_knew,
        never_knew_revision=spec.never_knew_revision,
        gguf_file=None,
        scratch=None,
    )


def check_named(spec: EarlierSpec, report: EarlierReport, named: Sequence[EarlierSpec]) -> None:
    """Refuse a recipe that leaves out a request which an earlier report still told of.

    Raises:
        RequestError: Names it.
    """
    here = {each.id for each in named}
    for before in report.get("earlier") or ():
        if before["id"] not in here:
            raise RequestError(
                f"its report tells of the request {before['id']!r} before it, which the recipe leaves out: add it to "
                "data.earlier"
            )


def _rows(recipe: Recipe, spec: EarlierSpec, report: EarlierReport | None) -> tuple[RowSet, list[str]]:
    """The rows of a request, and how they were chosen."""
    name = f"earlier-{spec.id}"
    # As a forget set: of data with labels the false rows are taken.
    rows = load_source(replace(spec.forget, known=None), "forget")
    rows = RowSet(*(tuple(_renamed(row, name) for row in part) for part in (rows.train, rows.score)))
    if not rows.score:
        raise RequestError("there are no rows: name the rows that were forgotten then")
    if spec.forget.known is None:
        return rows, []
    own = TargetAnswers.of(replace(recipe, model=request_model(recipe, spec, report)))
    rows, told = only_known(rows, spec.forget.known, own, name)
    return rows, [told]


def _renamed(row: Example, name: str) -> Example:
    """The row with an id of its own: ids of the forget set are taken, and facts named by them would be mixed up."""

    def own(text: str) -> str:
        return f"{name}{text.removeprefix('forget')}" if text.startswith("forget-") else text

    return replace(row, id=own(row.id), fact=own(row.fact), group=own(row.group))


def _compared(spec: EarlierSpec, report: EarlierReport, rows: Sequence[Example]) -> list[str]:
    """Hold the rows against the hash in the report; a note where the salt for that is not at hand."""
    salt = salt_beside(spec)
    if salt is None:
        return [
            f"The rows of the earlier request {spec.id} were not compared with its report: the salt of that run "
            f"({SALT_FILE} in its folder) is not beside it."
        ]
    if salted_hash(((row.prompt, row.answer) for row in rows), salt) != report["data"]["forget"]["salted_hash"]:
        raise RequestError(
            f"the {len(rows)} rows of forget are not the {report['data']['forget']['rows']} that its report is about "
            "(their salted hash differs): name the same rows with the same keys"
        )
    return []


def salt_beside(spec: EarlierSpec) -> bytes | None:
    """The salt of the run whose report is named, where its folder is here: the report lies in it or one below."""
    if spec.report is None or not Path(spec.report).exists():
        return None
    path = Path(spec.report)
    if path.is_dir():
        path = report_in(path) or path / REPORT_FILE
    for folder in (path.parent, path.resolve().parent.parent):
        if (folder / SALT_FILE).is_file():
            return _read_salt(folder / SALT_FILE)
    return None


def _read_salt(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.read_text(encoding="utf-8").strip())
    except ValueError:
        raise RequestError(f"{path} is damaged: it is not the hexadecimal salt that the run wrote") from None
