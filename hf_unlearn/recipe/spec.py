"""The contents of a recipe: the models, the sets, the methods, the controls, and what has to be true afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.form import FormatSpec
from ..data.planted import PlantedSpec
from ..data.self_generated import DrawSpec
from ..data.sources import Source
from ..data.world import WorldSpec
from ..errors import RequestError
from ..evaluation.run import EvalSpec
from ..evaluation.suites.spec import HarnessSpec
from ..hub.metadata import is_hub_id
from ..hub.options import HubOptions
from ..models.scratch import ScratchSpec
from ..quantization.calibration import CalibrationSpec
from ..registry import suggest
from ..verification.gate import Gate
from .earlier import EarlierSpec, check_ids
from .plain import plain, plain_attacks

# Formats that one extra provides, that fit any Llama-like model, and that need no calibration.
DEFAULT_FORMATS = (
    "bf16",
    "bnb-int8",
    "bnb-nf4",
    "bnb-fp4",
    "ct-fp8",
    "ct-int8",
    "rtn-int4-g128",
    "rtn-int4-g32",
)
RESERVED_NAMES = ("target", "never_knew", "identity")


@dataclass(frozen=True)
class ModelSpec:
    """The models of a run.

    Attributes:
        target: Model that knows (Hub id, folder, GGUF file, or ``package:NAME`` for the GGUF file in an installed
            Python package). Left out when ``scratch`` builds it.
        target_revision: Its revision on the Hub.
        gguf_file: Name of the target's GGUF file in that folder, repository or package. It is converted once into a
            plain folder (see docs/real-models.md).
        tokenizer: Tokenizer to use in place of the target's own (Hub id or folder): in training, scoring, exports,
            attacks, and with every model of the run, the published one too.
        tokenizer_revision: Its revision on the Hub.
        never_knew: Control that was trained without the forget set (Hub id or folder); optional.
        never_knew_revision: Its revision on the Hub.
        dtype: Precision in which models are scored and the unlearned model is saved, exported and published; training
            steps in float32 whatever it is. ``auto`` is the target's own: that of its checkpoint if it has 16 bits,
            otherwise float32.
        scratch: Build a small target and never-knew model from the recipe's own data instead.
        min_known: Minimum share of the forget facts and of the retain facts that a model built from scratch must
            answer.
    """

    target: str | None = None
    target_revision: str | None = None
    never_knew: str | None = None
    never_knew_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    scratch: ScratchSpec | None = None
    min_known: float = 0.95
    gguf_file: str | None = field(default=None, metadata={"left_out_at_default": True})
    tokenizer: str | None = field(default=None, metadata={"left_out_at_default": True})
    tokenizer_revision: str | None = field(default=None, metadata={"left_out_at_default": True})

    def __post_init__(self) -> None:
        if (self.target is None) == (self.scratch is None):
            raise RequestError("model needs either target (a Hub id or folder) or scratch (build one from the data)")
        if self.scratch is not None and self.never_knew is not None:
            raise RequestError("model.never_knew cannot be given with model.scratch, which builds its own")
        for key, needed in (
            ("target_revision", "target"),
            ("gguf_file", "target"),
            ("tokenizer", "target"),
            ("tokenizer_revision", "tokenizer"),
            ("never_knew_revision", "never_knew"),
        ):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise RequestError(f"model.{key} is given without model.{needed}: remove it or set model.{needed}")
        if not 0 <= self.min_known <= 1:
            raise RequestError(f"model.min_known is {self.min_known}: it must be a share between 0 and 1")

    @property
    def has_never_knew(self) -> bool:
        """Whether the run has a never-knew model, given or built."""
        return self.scratch is not None or self.never_knew is not None


@dataclass(frozen=True)
class DataSpec:
    """The sets of a run.

    Attributes:
        planted: Generate all sets (then no other set may be named).
        world: Make all sets of facts about the world that the target knows from pretraining (then no other set may be
            named; see docs/real-models.md).
        forget, retain, holdout, generic: Where each set comes from.
        score: Rows that are scored instead of a set's own rows, by set name (``forget``, ``retain``, ``holdout``): for
            example questions about the texts that are trained on.
        extra: Further sets that are only scored, by name. They must keep their scores, see ``gate.utility_sets``.
        extra_is_known: Whether a model built from scratch learns the further sets too.
        keep_generic: Whether the generic set's training rows are added to the retain rows.
        keep_extra: Which of the further sets are added to the retain rows.
        retain_at_hand: Share of the retain set's groups that methods may train on, drawn with the recipe's seed. The
            whole set is scored, so the report shows what happens to knowledge that was not available for training. 0
            leaves only generic text.
        keep_drawn: Self-generated texts: the target writes them before training, and they are added to the retain rows
            (see docs/drawn-texts.md).
        format: How rows become text.
        max_length: Longest row in tokens.
        truncation: ``refuse`` longer rows, or ``cut`` them.
        description: In the publisher's words, what is removed (for the model card; never the rows themselves).
        earlier: Deletion requests that were granted before, each with its own forget set and target: see
            docs/requests.md.
    """

    planted: PlantedSpec | None = None
    forget: Source | None = None
    retain: Source | None = None
    holdout: Source | None = None
    generic: Source | None = None
    score: dict[str, Source] = field(default_factory=dict)
    extra: dict[str, Source] = field(default_factory=dict)
    extra_is_known: bool = True
    keep_generic: bool = False
    keep_extra: tuple[str, ...] = ()
    retain_at_hand: float = 1.0
    keep_drawn: DrawSpec | None = None
    format: FormatSpec = field(default_factory=FormatSpec)
    max_length: int = 1024
    truncation: Literal["refuse", "cut"] = "refuse"
    description: str = ""
    world: WorldSpec | None = field(default=None, metadata={"left_out_at_default": True})
    earlier: tuple[EarlierSpec, ...] = field(default=(), metadata={"left_out_at_default": True})

    def __post_init__(self) -> None:
        named = [name for name in ("forget", "retain", "holdout", "generic") if getattr(self, name) is not None]
        made = next((key for key in ("planted", "world") if getattr(self, key) is not None), None)
        if made is not None and (named or self.extra or self.score):
            raise RequestError(f"data.{made} makes all sets: remove it or data.{[*named, 'extra'][0]}")
        if self.planted is not None and self.world is not None:
            raise RequestError("data.planted and data.world both make all sets: remove one")
        for name in self.score:
            if name not in named or name == "generic":
                raise RequestError(
                    f"data.score.{name} says what is scored for a set that the recipe does not name: name "
                    f"data.{name}, or put further sets into data.extra"
                )
        if made is None and not {"forget", "retain"} <= set(named):
            raise RequestError("data needs forget and retain (or planted, or world)")
        if self.keep_generic and made is None and self.generic is None:
            raise RequestError("data.keep_generic needs a generic set: name data.generic, or leave keep_generic out")
        for name in self.keep_extra:
            if name not in self.further_sets:
                there = self.further_sets
                mend = suggest(name, list(there)) if there else "the recipe has no data.extra"
                raise RequestError(f"data.keep_extra names {name!r}: {mend}")
        if not 0 <= self.retain_at_hand <= 1:
            raise RequestError(f"data.retain_at_hand is {self.retain_at_hand}: it must be a share between 0 and 1")
        if self.retain_at_hand == 0 and not (self.keep_generic or self.keep_extra or self.keep_drawn):
            raise RequestError(
                "data.retain_at_hand is 0: nothing is left to retain: set data.keep_generic to true, name "
                "data.keep_drawn, or give it a share"
            )
        taken = {"forget", "retain", "holdout", "generic", "practice"} & self.extra.keys()
        if taken:
            raise RequestError(f"data.extra.{sorted(taken)[0]} has the name of a main set: rename it")
        check_ids(self.earlier)
        if self.max_length < 2:
            raise RequestError(f"data.max_length is {self.max_length}: a row has at least 2 tokens")

    @property
    def further_sets(self) -> tuple[str, ...]:
        """Names of the further sets, whether they are read or made."""
        return tuple(self.extra) if self.world is None else self.world.further_sets

    @property
    def has_generic(self) -> bool:
        """Whether there is a generic set."""
        makers = (self.planted, self.world)
        return self.generic is not None or any(made is not None and made.generic > 0 for made in makers)


@dataclass(frozen=True)
class MethodSpec:
    """One unlearning method: a name and fields of ``UnlearnConfig``, or a checkpoint that was made elsewhere.

    Attributes:
        name: Name of the method.
        settings: Fields of ``UnlearnConfig`` for its training; empty for a checkpoint.
        checkpoint: Hub id or folder of a model that was unlearned elsewhere and is only judged (``hf-unlearn audit``).
        revision: Its revision on the Hub.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is written in a recipe."""
        given = {"checkpoint": self.checkpoint, "revision": self.revision}
        return {"name": self.name, **plain(self.settings), **{key: value for key, value in given.items() if value}}


@dataclass(frozen=True)
class ControlSpec:
    """A model with a known truth, put through the same gate to test the verifier.

    Attributes:
        name: Name of the control.
        kind: ``never_knew`` (another never-knew model, other seed), ``method`` (one of the recipe's methods, expected
            to fail), ``target`` (the target as it is), or the name of a positive control such as ``bin_hidden``.
        expected: The verdict it must get.
        caught_by: Transforms that must be among those that fail it.
        method: For kind ``method``: which one.
        seed: For kind ``never_knew``: seed of its training, different from that of every other model of the run.
        settings: For positive controls: fields of ``UnlearnConfig`` for its training.
        parameters: For positive controls: parameters of the kind, such as ``{grid: fp4}``.
        learn: For positive controls that learn the facts their own way first (``depth_hidden``): fields of
            ``UnlearnConfig`` for that training, which uses the retain loss alone, over forget and retain rows.
        max_forget_score: For hidden controls: at full precision no more than this share of forget facts may be
            answered greedily, or the control hides nothing and proves nothing.
        min_retain_score: The same for retained facts, at least.
    """

    name: str
    kind: str
    expected: Literal["passed", "failed"]
    caught_by: tuple[str, ...] = ()
    method: str | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    max_forget_score: float | None = None
    min_retain_score: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    learn: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != "method" and self.method is not None:
            raise RequestError(f"method is only for controls of kind method, not of kind {self.kind}: remove it")
        if self.kind != "never_knew" and self.seed is not None:
            raise RequestError(f"seed is only for controls of kind never_knew, not of kind {self.kind}: remove it")
        for key in ("settings", "parameters", "learn"):
            if self.kind in ("never_knew", "method", "target") and getattr(self, key):
                raise RequestError(
                    f"{key} are only for controls that are trained, not of kind {self.kind}: remove them"
                )
        if self.kind == "target" and self.expected == "passed":
            raise RequestError("expected is passed, but kind target is the model that was never unlearned: use failed")
        if self.expected == "passed" and self.caught_by:
            raise RequestError("caught_by is only for controls that are expected to fail: remove it")
        for key in ("max_forget_score", "min_retain_score"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise RequestError(f"{key} is {value}: it must be a share between 0 and 1")


@dataclass(frozen=True)
class ExportSpec:
    """Which quantized variants are made.

    Attributes:
        formats: Names of formats. Those that are calibrated take ``@generic`` or ``@forget-aware`` after their name.
        calibration: The text that GPTQ and AWQ are calibrated on.
    """

    formats: tuple[str, ...] = DEFAULT_FORMATS
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)


@dataclass(frozen=True)
class BenchmarkSpec:
    """Public benchmarks of what must not be lost, by lm-evaluation-harness (extra ``lm-eval``).

    They are run on the target and on every method's model as they stand. Their results are in the report and in the
    published ``.eval_results/``; the gate does not judge it.

    Attributes:
        tasks: Maps a task of the harness to the benchmark's dataset on the Hub, such as ``mmlu: cais/mmlu``.
        metric: Which of the tasks' metrics is taken, one value per question.
        shots: Solved examples per question; each task's own default if left out.
        limit: Use only this many questions of each task, from the first on.
        include_path: Folder with further task files, for example of tasks on local data.
        batch_size: Questions per forward pass.
        format: ``chat`` uses the model's chat template, ``plain`` does not, ``auto`` does if the model has one.
    """

    tasks: dict[str, str]
    metric: str = "acc"
    shots: int | None = None
    limit: int | None = None
    include_path: str | None = None
    batch_size: int = 8
    format: Literal["auto", "chat", "plain"] = "plain"

    def __post_init__(self) -> None:
        for task, dataset in self.tasks.items():
            if not is_hub_id(dataset):
                raise RequestError(
                    f"tasks: {task!r} is {dataset!r}, it must be the benchmark's data set on the Hub, as in "
                    "mmlu: cais/mmlu"
                )
        self.harness()

    def harness(self) -> HarnessSpec:
        """The settings passed to the harness.

        Raises:
            RequestError: No task is given, or a number is out of range.
        """
        return HarnessSpec(
            tuple(self.tasks),
            self.shots,
            self.limit,
            self.include_path,
            self.batch_size,
            self.format,
            (self.metric,),
        )


@dataclass(frozen=True)
class PublishSpec:
    """What the published folders say, and whether they are uploaded to the Hub.

    Attributes:
        model_name: Title of the card; the recipe's name if empty.
        formats: Variants to publish; all exported ones if left out.
        license: Licence id of the unlearned model, as the Hub knows it.
        language: Language codes.
        base_model: Hub id of the target for the card; taken from ``model.target`` if that is a Hub id.
        repo_id: ``owner/name`` on the Hub. Without it nothing is uploaded (``hf-unlearn publish RUN --repo-id ...``
            can do so later).
        private: Make the repositories private.
        gated: Readers must request access: ``auto`` or ``manual``.
        branches: Publish variants as branches of one repository instead of separate repositories.
        tag: Tag of the release.
        collection: Put the repositories into a collection.
        allow_not_passed: Upload even if the verdict is not *passed* or a control got a wrong verdict.
    """

    model_name: str = ""
    formats: tuple[str, ...] | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    base_model: str | None = None
    repo_id: str | None = None
    private: bool = True
    gated: Literal["auto", "manual"] | None = None
    branches: bool = False
    tag: str | None = "v1"
    collection: bool = True
    allow_not_passed: bool = False

    def hub_options(self) -> HubOptions | None:
        """Where on the Hub it goes; ``None`` if nowhere.

        Raises:
            RequestError: A value is not valid.
        """
        if self.repo_id is None:
            return None
        names = [item.name for item in dataclasses.fields(HubOptions) if hasattr(self, item.name)]
        return HubOptions(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs to know. See ``docs/recipes.md`` for every key.

    ``attack`` holds attacks by name; ``attack_tier`` is the tier that some of them come from (in a recipe it is
    in the attack section). Attacks of a tier are left out if the data does not fit them. ``attack_left_out`` are
    attacks that are written as ``false``: they are not added for the target, or for a format.
    """

    name: str
    model: ModelSpec
    data: DataSpec
    methods: tuple[MethodSpec, ...]
    summary: str = ""
    seed: int = 0
    controls: tuple[ControlSpec, ...] = ()
    export: ExportSpec = field(default_factory=ExportSpec)
    evaluate: EvalSpec = field(default_factory=EvalSpec)
    attack: Mapping[str, Any] = field(default_factory=dict)
    attack_tier: str | None = None
    attack_left_out: tuple[str, ...] = ()
    gate: Gate = field(default_factory=Gate)
    publish: PublishSpec = field(default_factory=PublishSpec)
    benchmarks: BenchmarkSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """All values, defaults included, as plain data that reads back as the same recipe."""
        values = {item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)}
        del values["attack_tier"], values["attack_left_out"]
        values["attack"] = plain_attacks(self.attack, self.attack_tier, self.attack_left_out)
        return {**values, "methods": [method.to_dict() for method in self.methods]}

    @property
    def is_audit(self) -> bool:
        """Whether the models to judge are checkpoints made elsewhere."""
        return any(method.checkpoint is not None for method in self.methods)

    def method(self, name: str) -> MethodSpec:
        """The method called ``name``."""
        return next(method for method in self.methods if method.name == name)
