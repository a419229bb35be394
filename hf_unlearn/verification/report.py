"""The verification report as one tree of dataclasses.

Rows are typed where they are measured (:mod:`~hf_unlearn.verification.recovered`,
:mod:`~hf_unlearn.verification.utility`, ...); sections and what only describes a run are here. The same types are
written, read, and turned into the JSON schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .controls import ControlOutcome
from .explanation import Explanation
from .forgotten_rows import ForgottenRowsRow
from .gate import Gate
from .outcomes import TransformOutcome
from .recovered import RecoveredRow
from .recovery import RecoveryCurve, RecoveryRow
from .report_sections import PooledRow
from .scores import ScoreRow
from .single_facts import KnownFactsRow
from .typed_json import Maybe, Schema, Stated, from_json, to_json
from .utility import UtilityRow
from .values import Count, Files, Settings, Sha256, Status

SCHEMA_VERSION: Literal["1.5"] = "1.5"


@dataclass(frozen=True)
class ModelInfo:
    """Which model was compared with. Never a local path: the report is published.

    Attributes:
        hub_id: Its id on the Hub; ``None`` for a local model.
        revision: Its commit there.
        description: One line for people.
        files: File name to SHA-256.
    """

    hub_id: str | None = None
    revision: str | None = None
    description: str = ""
    files: Files = field(default_factory=dict)


_Model = Annotated[ModelInfo, Schema(define="model")]


@dataclass(frozen=True)
class UnlearnedModel:
    """The release candidate.

    Attributes:
        name: Its method.
        files: Transform to file name to SHA-256, as scored.
    """

    name: str
    files: Annotated[
        Mapping[str, Files], Schema("Transform (identity or a format) to the files that were scored.")
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """The models that the verdict compares."""

    target: _Model
    unlearned: UnlearnedModel
    never_knew: _Model | None


@dataclass(frozen=True)
class Method:
    """How the release candidate was made."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class SetInfo:
    """Size and identity of a scored set, without its text.

    Attributes:
        facts: Number of facts.
        rows: Number of rows.
        salted_hash: From :func:`~hf_unlearn.verification.digests.salted_hash`.
    """

    facts: Stated[Count]
    rows: Stated[Count]
    salted_hash: Sha256


@dataclass(frozen=True)
class AttackRun:
    """What was tried to bring the knowledge back, on one model.

    Attributes:
        name: The attack, as in ``transform``.
        model: The attacked model.
        folds: Number of folds.
        budget: What the attacker could spend: epochs, learning rates, facts trained on.
        best: The attacker's best result in each fold, such as
            ``{"fold": 0, "metric": "probability", "rate": 3e-4, "epoch": 4}``.
        curves: Scores step by step, of an attack that asks how long it takes.
    """

    name: str
    model: str
    folds: Stated[Count]
    budget: Settings
    best: tuple[Settings, ...] = ()
    curves: Annotated[
        Maybe[tuple[RecoveryCurve, ...]], Schema("Scores step by step. Missing for attacks without such.")
    ] = None


@dataclass(frozen=True)
class JudgedCounts:
    """How much was judged.

    Attributes:
        transforms: Transforms of the gate that were tested.
        comparisons: Recovered shares that were judged together.
        joint_factor: How many times as long their joint intervals are.
    """

    transforms: Stated[Count]
    comparisons: Annotated[Stated[Count], Schema("Recovered shares whose joint intervals hold at once.")]
    joint_factor: Annotated[
        Stated[float],
        Schema("How many times as long joint intervals are as single ones, with many groups.", minimum=1),
    ]


@dataclass(frozen=True)
class Verdict:
    """The verdict on the release candidate."""

    status: Stated[Status]
    reasons: tuple[str, ...]
    candidate: str
    judged: Annotated[Maybe[JudgedCounts], Schema("How much was judged.", since="1.2")] = None
    outcomes: Annotated[
        tuple[TransformOutcome, ...],
        Schema("What came of every transform of the gate that was tested.", since="1.2"),
    ] = ()


@dataclass(frozen=True)
class CandidateOutcome:
    """The verdict on one of the methods that the release candidate was chosen from."""

    name: str
    status: Stated[Status]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FormatInfo:
    """What the export of the candidate says of one format.

    Attributes:
        format: The format.
        library: The library that wrote it.
        version: That library's version.
        bits: Bits per quantized weight, scales left out.
        bytes: Size of the weight files.
        quantized_share: Share of the parameters that are stored in ``bits``.
        reload_error: Relative error of the logits once the files are loaded again.
        tolerance: The greatest such error that the format allows.
        group_size: Weights that share a scale; ``None`` where a whole row does, or nothing is scaled.
        calibration: What it was calibrated with; ``None`` for formats that see no text.
        more: Whatever else was recorded.
    """

    format: str
    library: Maybe[str] = None
    version: Maybe[str] = None
    bits: Maybe[float] = None
    bytes: Maybe[int] = None
    quantized_share: Maybe[float] = None
    reload_error: Maybe[float] = None
    tolerance: Maybe[float] = None
    group_size: Annotated[int | None, Schema(required=False)] = None
    calibration: Annotated[Settings | None, Schema("The text a calibrated format saw.", required=False)] = None
    more: Annotated[Settings, Schema(is_open=True)] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkScore:
    """A score on a benchmark that is registered on the Hub."""

    dataset: Annotated[str, Schema("Id of the data set on the Hub.")]
    task: Annotated[str, Schema("Name of the task within the benchmark.")]
    model: str
    transform: str
    value: float
    dataset_revision: Maybe[str] = None
    date: Annotated[Maybe[str], Schema("ISO 8601.")] = None
    notes: Maybe[str] = None


@dataclass(frozen=True)
class EarlierRequest:
    """An earlier deletion request, judged again on the models of this report.

    Attributes:
        id: Name of the request.
        date: Date of the request, in the publisher's words or as ISO 8601.
        set: Size of its forget set, and its salted hash with the salt of this report.
        target: The model that knew these facts.
        never_knew: A model trained without them; ``None`` where holdout facts are the floor.
        report: Digest of the report that was written for the request; ``None`` if it was not named.
        salted_hash_then: Salted hash of the forget set in that report, with the salt of that report.
        then: The verdict of that report.
        now: The verdict on the release candidate, as far as these facts are concerned.
        reasons: Why it is what it is.
        recovered: Recovered shares of all methods, against the target above.
        known_facts: How many single facts are still known, for all methods.
        scores: Scores of all methods, and of the two models above as ``target`` and ``never_knew``.
        attacks: Attacks and what they spent.
        not_judged: Transforms of the run's gate by which this request was not judged.
        notes: What else a reader must know of it, such as its floor.
    """

    id: str
    date: str
    set: SetInfo
    target: _Model
    never_knew: _Model | None
    report: Sha256 | None
    salted_hash_then: Sha256 | None
    then: Status | None
    now: Stated[Status]
    reasons: tuple[str, ...]
    recovered: tuple[RecoveredRow, ...]
    known_facts: tuple[KnownFactsRow, ...]
    scores: tuple[ScoreRow, ...]
    attacks: tuple[AttackRun, ...]
    not_judged: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A verification report.

    Attributes:
        schema_version: Version of its layout.
        created: When, as ISO 8601.
        name: Name of the run.
        format: What of ``models.unlearned.files`` the folder with this report holds; ``None`` outside of one.
        verdict: The verdict on the release candidate.
        models: The compared models.
        method: How the candidate was made.
        data: Set name to size and salted hash.
        gate: The gate that stood before the run; ``None`` where a threshold of it is missing.
        scores: Scores of all models.
        recovered: Recovered shares of all judged models.
        known_facts: How many single facts are still known, of all judged models.
        utility: Utility numbers of all judged models.
        candidates: All methods that the candidate was chosen from.
        controls: Outcomes of the controls; a method can be a control too.
        attacks: Attacks and what they spent.
        recovery: Steps of retraining until half of the target's score is back, for all models.
        not_tested: What was not tested, in words.
        notes: What else a reader must know.
        environment: Versions, device, seeds.
        files: Path to SHA-256 of every file of the folder with this report.
        digest: From :func:`~hf_unlearn.verification.report_file.seal`.
        formats: What the export of the candidate says of each format.
        pooled: Pooled retention of several methods.
        explanation: Weights compared with the target's.
        benchmarks: Scores on public benchmarks.
        removed: What was to be forgotten, in the publisher's words.
        earlier: Earlier deletion requests, judged again.
        forgotten_rows: How well each model alone tells forgotten rows from holdout rows.
    """

    schema_version: Annotated[
        Stated[Literal["1.0", "1.1", "1.2", "1.3", "1.4", "1.5"]],
        Schema(
            "1.1 adds formats, pooled and explanation; 1.2 adds verdict.judged, verdict.outcomes and joint95; "
            "1.3 adds known_facts; 1.4 adds perplexity; 1.5 adds forgotten_rows and recovery. "
            "Earlier reports have none of them."
        ),
    ]
    created: Annotated[Stated[str], Schema("ISO 8601.", pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")]
    name: str
    format: Annotated[
        str | None,
        Schema("Which of models.unlearned.files the folder with this report holds; null outside a published folder."),
    ]
    verdict: Verdict
    models: Models
    method: Method
    data: Mapping[str, SetInfo]
    gate: Stated[Gate]
    scores: tuple[ScoreRow, ...]
    recovered: tuple[RecoveredRow, ...]
    utility: tuple[UtilityRow, ...]
    candidates: tuple[CandidateOutcome, ...]
    controls: tuple[ControlOutcome, ...]
    attacks: tuple[AttackRun, ...]
    not_tested: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Settings
    files: Files = field(default_factory=dict)
    known_facts: Annotated[tuple[KnownFactsRow, ...], Schema("Single facts that are still known.", since="1.3")] = ()
    digest: Annotated[
        Stated[str],
        Schema("SHA-256 of this file as canonical JSON without this key.", pattern="^[0-9a-f]{64}$"),
    ] = None
    formats: Annotated[
        tuple[FormatInfo, ...], Schema("What the export of the candidate says of each format.", since="1.1")
    ] = ()
    pooled: Annotated[
        tuple[PooledRow, ...],
        Schema("Retention pooled over several methods and the gate's metrics.", since="1.1"),
    ] = ()
    explanation: Annotated[
        Explanation | None,
        Schema("Weights of the unlearned models compared with the target's, as quantizers see them.", since="1.1"),
    ] = None
    benchmarks: Annotated[
        Maybe[tuple[BenchmarkScore, ...]],
        Schema("Scores on benchmarks that are registered on the Hub. May be missing."),
    ] = None
    removed: Annotated[Maybe[str], Schema("What was to be forgotten, in the publisher's words. May be missing.")] = (
        None
    )
    earlier: Annotated[
        Maybe[tuple[EarlierRequest, ...]],
        Schema("Earlier deletion requests, judged again. Missing where there are none."),
    ] = None
    recovery: Annotated[
        Maybe[tuple[RecoveryRow, ...]],
        Schema("Steps of retraining until half of the target's score is back. Missing where it was not asked."),
    ] = None
    forgotten_rows: Annotated[
        tuple[ForgottenRowsRow, ...],
        Schema("How well each model alone tells forgotten rows from holdout rows. Empty without these.", since="1.5"),
    ] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Report:
        """A report as far as a document holds one: see :mod:`~hf_unlearn.verification.typed_json`.

        Args:
            document: What was read from JSON. Whether it is whole is not asked here.
        """
        return from_json(cls, document)

    def to_json(self) -> dict[str, Any]:
        """The document, with the keys that its version has."""
        document: dict[str, Any] = to_json(self, self.schema_version or SCHEMA_VERSION)
        return document
