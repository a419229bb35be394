"""What every stage knows: the recipe, the data, where things are, and which models there are."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from ..attacks import Attack
from ..data.encoding import TextFormat, generated_otherwise, read_otherwise
from ..data.example import DataBundle, Example, RowSet
from ..models.llama_cpp import runtime_transforms, split_runtime
from ..quantization import FORMATS
from ..quantization.calibration import Calibration
from ..recipe import Recipe
from ..runtime.jobs import Workers
from ..runtime.progress import Progress
from ..version import __version__
from .calibration import choose_calibrations
from .units import Unit, fingerprint

Role = Literal["target", "never_knew", "method", "control"]
# What changes the numbers: a result made with another version of these is not the same result.
VERSIONED = ("torch", "transformers", "bitsandbytes", "compressed-tensors")


@dataclass(frozen=True)
class Subject:
    """One model of the run.

    Attributes:
        name: ``target``, ``never_knew``, a method's or a control's name.
        role: What it is there for.
        folder: Its full-precision folder.
        digest: Fingerprint of the files in it.
    """

    name: str
    role: Role
    folder: Path
    digest: str


class Context(Protocol):
    """What stages that take any model know besides the models: for a recipe's run, or for one attacked model."""

    output_dir: Path
    bundle: DataBundle
    workers: Workers
    progress: Progress

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that every model is exported to."""

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """Calibration text by format, for those that need one."""

    @property
    def attacks(self) -> Mapping[str, Attack]:
        """Attacks by name."""

    @property
    def times_attacks(self) -> bool:
        """Whether a few rows are timed before the attacks, so that seconds can be reported."""

    @property
    def text_format(self) -> TextFormat:
        """How prompt and answer become one text."""

    @property
    def attack_metrics(self) -> tuple[str, ...]:
        """Names of metrics that attacks make records for."""

    @property
    def data_digest(self) -> str:
        """Fingerprint of every row."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide the numbers."""

    def folder(self, stage: str, subject: str) -> Path:
        """Where a stage keeps what belongs to a model."""

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant."""


class AnyRun(Protocol):
    """What stages that take any model are given: a recipe's run, or one model that is attacked."""

    @property
    def context(self) -> Context:
        """Rows, attacks, folders, workers and progress."""

    @property
    def target(self) -> Subject | None:
        """The model before unlearning, if it is known."""

    @property
    def subjects(self) -> Sequence[Subject]:
        """All models."""

    @property
    def is_main(self) -> bool:
        """Whether this is the main process of the launch."""


@dataclass
class RunContext:
    """One run in one output folder."""

    recipe: Recipe
    output_dir: Path
    bundle: DataBundle
    workers: Workers
    progress: Progress
    text_format: TextFormat = field(init=False)

    def __post_init__(self) -> None:
        self.text_format = self.recipe.data.format.text_format()
        if self.recipe.model.scratch is not None and self.text_format.end == "auto":
            # Models built here are built with ends.
            self.text_format = replace(self.text_format, end="always")
        if not self.recipe.model.has_never_knew:
            self.bundle = self.bundle.with_floor()

    def settle_format(self, text_format: TextFormat) -> None:
        """Use this text format from now on: the target has settled what the recipe left open."""
        self.text_format = text_format
        self.__dict__.pop("data_digest", None)

    @cached_property
    def data_digest(self) -> str:
        """Fingerprint of every row of every set."""
        return data_fingerprint(self.bundle, self.text_format)

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """Calibration text by format, for those that need one.

        Raises:
            RequestError: The text is not usable.
        """
        chosen = self._calibrations.items()
        return {name: replace(calibration, text_format=self.text_format) for name, calibration in chosen}

    @cached_property
    def _calibrations(self) -> dict[str, Calibration]:
        return choose_calibrations(self.recipe, self.bundle)

    @property
    def calibration_digests(self) -> dict[str, str]:
        """Fingerprint of the calibration text by format."""
        return {name: calibration.fingerprint() for name, calibration in self.calibrations.items()}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the numbers, as far as they are installed."""
        return library_versions()

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that every model is exported to."""
        return self.recipe.export.formats

    @property
    def attacks(self) -> Mapping[str, Attack]:
        """Attacks by name."""
        return self.recipe.attack

    @property
    def times_attacks(self) -> bool:
        """Seconds are reported if a tier chose the attacks: few people know how long they take."""
        return self.recipe.attack_tier is not None

    @property
    def attack_metrics(self) -> tuple[str, ...]:
        """Names of metrics that attacks make records for."""
        return self.recipe.evaluate.metrics

    def folder(self, stage: str, subject: str) -> Path:
        """Where a stage keeps what belongs to a model.

        A single method has the stage's own folder, several have a subfolder each. The models they are compared with
        (target, never-knew model, controls) have separate folders.
        """
        names = [method.name for method in self.recipe.methods]
        if subject not in names:
            return self.output_dir / "references" / stage / subject
        return self.output_dir / stage if len(names) == 1 else self.output_dir / stage / subject

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant."""
        inputs = {
            "stage": "export",
            "model": subject.digest,
            "format": format_name,
            "library": library_version(FORMATS.get(format_name).value.package),
            "versions": self.versions,
        }
        if format_name in self.calibrations:
            inputs["calibration"] = self.calibrations[format_name].fingerprint()
        return Unit(self.folder("export", subject.name) / format_name, inputs)

    def variant(self, subject: Subject, transform: str) -> Path:
        """Folder of a model as it is (``identity``) or in a format, whatever runs it.

        Raises:
            RequestError: It has not been exported yet.
        """
        format_name, _ = split_runtime(transform)
        if format_name == "identity":
            return subject.folder
        unit = self.export_unit(subject, format_name)
        unit.outputs()
        return unit.path

    @property
    def transforms(self) -> tuple[str, ...]:
        """What models are scored under without an attack."""
        return ("identity", *self.formats, *runtime_transforms(self.formats))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers, as far as they are installed."""
    return {"hf_unlearn": __version__, **{name: library_version(name) for name in VERSIONED}}


def data_fingerprint(bundle: DataBundle, text_format: TextFormat) -> str:
    """Fingerprint of every row of every set, and of how they become text."""
    described = text_format.described()
    if any(row.conversational for rows in bundle_sets(bundle).values() for row in rows):
        described["chat_template_kwargs"] = text_format.template_arguments.values()
    read = read_otherwise((row for rows in bundle_sets(bundle).values() for row in rows), text_format)
    if read:
        described["read"] = read
    return fingerprint({"rows": bundle_rows(bundle), "format": described})


def generation_inputs(bundle: DataBundle, text_format: TextFormat) -> dict[str, str]:
    """What units in which models generate depend on besides the data: nothing where that never changed."""
    rows = (row for rows in bundle_sets(bundle).values() for row in rows)
    return {"generation": "from what is scored"} if generated_otherwise(rows, text_format) else {}


def library_version(package: str) -> str:
    """Version of a library, or that it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def bundle_rows(bundle: DataBundle) -> dict[str, list[dict[str, object]]]:
    """All rows as plain data, by set."""
    return {name: [plain_row(row) for row in (*rows.train, *rows.score)] for name, rows in bundle_sets(bundle).items()}


def bundle_sets(bundle: DataBundle) -> dict[str, RowSet]:
    """All sets by name."""
    return {
        "forget": bundle.forget,
        "retain": bundle.retain,
        "holdout": bundle.holdout,
        "generic": bundle.generic,
        "practice": bundle.practice,
        **bundle.extra,
        **{f"earlier {name}": rows for name, rows in bundle.earlier.items()},
    }


def plain_row(row: Example) -> dict[str, object]:
    """A row as plain data, without where it was read from (moving a file does not change what is in it)."""
    data = asdict(row)
    del data["origin"]
    for name in ("aliases", "hops"):  # rows of earlier versions had none
        if not data[name]:
            del data[name]
    return data
