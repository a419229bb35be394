"""What a plan is made from, and what it says: a line for each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..attacks.base import Attack
from ..data.encoding import EncodedRow
from ..data.example import DataBundle, Example
from ..evaluation.spec import SetRequest
from ..models.scratch import ScratchSpec
from .advice import Advice, Retraining
from .measured import Measured
from .memory import Memory
from .training import TrainingInput

Encode = Callable[[Example], EncodedRow]
Requests = Callable[[Mapping[str, Sequence[Example]]], Mapping[str, SetRequest]]

SMALL_MARGIN = 0.5
"""Share of what is planned for records, tables and pages that may turn out not to be written."""


@dataclass(frozen=True)
class Asked:
    """An earlier request, which is asked again.

    Attributes:
        bundle: The run's rows with its forget set.
        models: How many models from before it are exported, scored and attacked besides the methods.
        attacks: Those that its rows fit, by name.
    """

    bundle: DataBundle
    models: int
    attacks: Mapping[str, Attack]


@dataclass(frozen=True)
class PlanInput:
    """A run before it starts.

    Attributes:
        name: The recipe's.
        model_name: The target's.
        model: The target on the ``meta`` device.
        bundle: The rows of all sets.
        encode: Makes a row token ids.
        trainings: Methods and controls that are trained.
        models: How many models are exported, scored and attacked; with those from before unlearning.
        built: How many models are built from scratch before, and from what; ``None`` if none is.
        formats: That every model is exported to.
        published: Those that are copied into what is published.
        requests: What the records of each set of rows hold.
        fluency_tokens: New tokens generated for each row of generic text.
        metrics_generate: New tokens generated for each row that is scored; 0 if no metric needs them.
        attacks: By name.
        dtype: In which models are scored and saved.
        workers: Processes that share the jobs of a stage.
        earlier: What is asked again of each earlier request, by its id.
        methods: Names of the methods.
        tokenizer: Bytes of the files beside a model's weights, which lie in every folder of a model.
        trained: Names of those trainings that are finished: they write no more checkpoints.
        retraining: What is known of training the target without the rows to forget; ``None`` if nothing is.
        measured: What finished work of this run took; used where the plan is for this machine.
        earlier_request: What the last earlier request took as a whole, and the folder that it was measured in.
    """

    name: str
    model_name: str
    model: Any
    bundle: DataBundle
    encode: Encode
    trainings: Sequence[TrainingInput]
    models: int
    built: tuple[int, ScratchSpec] | None
    formats: Sequence[str]
    published: Sequence[str]
    requests: Requests
    fluency_tokens: int
    metrics_generate: int
    attacks: Mapping[str, Attack]
    dtype: str
    workers: int = 1
    earlier: Mapping[str, Asked] = field(default_factory=dict)
    methods: Sequence[str] = ()
    tokenizer: int = 0
    trained: frozenset[str] = frozenset()
    retraining: Retraining | None = None
    measured: Measured = field(default_factory=lambda: Measured(""))
    earlier_request: tuple[float, str] | None = None


@dataclass(frozen=True)
class StagePlan:
    """One line of a plan.

    Attributes:
        stage: Which stage.
        what: Which model, format or attack.
        steps: Optimizer steps.
        tokens: That go through a model, padding left out.
        exact: Whether steps and tokens are counted row by row.
        operations: Floating-point operations.
        seconds: The least and the most that they take.
        memory: On one device; ``None`` where nothing worth telling is in memory.
        disk: Bytes written that stay.
        small: Those of them that are no weights: planned at their most, and at least half as much.
        scratch_disk: Bytes that lie on the disk meanwhile.
        fits: Whether the memory of a device is enough; ``None`` if that is not known.
        mend: What would make it fit.
        note: What else to know.
        measured: Whether its time is that of the same work before.
    """

    stage: str
    what: str
    steps: int = 0
    tokens: float = 0
    exact: bool = False
    operations: float = 0
    seconds: tuple[float, float] = (0, 0)
    memory: Memory | None = None
    disk: int = 0
    small: int = 0
    scratch_disk: int = 0
    fits: bool | None = None
    mend: str | None = None
    note: str = ""
    measured: bool = False


@dataclass(frozen=True)
class RunPlan:
    """What a run takes.

    Attributes:
        name: The recipe's.
        model: The target's name.
        family: Its ``model_type``.
        parameters: Numbers in its weights.
        machine: The device.
        machine_memory: Its bytes; ``None`` if no limit is known.
        rates: Where the operations a second come from.
        devices: How many devices train together.
        strategy: How the model lies on them.
        stages: In their order.
        disk_free: Bytes free where the run writes; ``None`` if that was not asked.
        advice: Whether to retrain instead; ``None`` where nobody said what the target was trained on.
        measured_in: Folder of the run whose measured times stand in the plan, if any do.
    """

    name: str
    model: str
    family: str
    parameters: int
    machine: str
    machine_memory: int | None
    rates: str
    devices: int
    strategy: str
    stages: tuple[StagePlan, ...]
    disk_free: int | None = None
    advice: Advice | None = None
    measured_in: str | None = None

    @property
    def seconds(self) -> tuple[float, float]:
        """Of all stages, one after the other."""
        return sum(each.seconds[0] for each in self.stages), sum(each.seconds[1] for each in self.stages)

    @property
    def disk(self) -> int:
        """The most bytes on the disk at any time."""
        return _most_at_once((each.disk, each.scratch_disk) for each in self.stages)

    @property
    def least_disk(self) -> int:
        """As many are written even if records, tables and pages were planned too high by as much as they may be."""
        return _most_at_once((each.disk - round(SMALL_MARGIN * each.small), each.scratch_disk) for each in self.stages)

    @property
    def peak(self) -> int:
        """The most bytes of memory on one device at any time."""
        return max((each.memory.peak for each in self.stages if each.memory), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "seconds": list(self.seconds), "disk": self.disk, "peak_memory": self.peak}


def _most_at_once(stages: Iterable[tuple[int, int]]) -> int:
    """What lies on the disk at the worst time, from what stays of each stage and what lies there meanwhile."""
    stays = most = 0
    for stay, meanwhile in stages:
        stays += stay
        most = max(most, stays + meanwhile)
    return most
