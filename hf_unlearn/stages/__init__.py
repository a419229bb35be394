"""The stages of a run, in their order. A new one is a file next to this one and an entry in :data:`STAGES`.

Nothing heavy is imported here: the command line reads the list to know its commands.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .context import AnyRun


@dataclass(frozen=True)
class Stage:
    """One step of a run, which makes what is missing.

    Attributes:
        name: Its name.
        function: ``module:function``, called with the run as its only argument.
        help: One line on what it does, for a stage that is a command of its own; empty if it has no command of its
            own.
        commands: Commands that run it by itself; the one with its name if left out.
        processes: Which processes of a launch call it: all of them ``together`` (the stages at the beginning of the
            list alone), the main process with others that take free jobs (``helped``), all of them as one group that
            comes together once more (``again``), or the ``main`` process alone.
    """

    name: str
    function: str
    help: str = ""
    commands: tuple[str, ...] = ()
    processes: Literal["together", "again", "helped", "main"] = "main"

    def run(self, run: AnyRun) -> None:
        """Do what has not been done yet."""
        pkgutil.resolve_name(self.function)(run)

    def belongs_to(self, command: str) -> bool:
        """Whether a command for a single stage runs it."""
        return command in (self.commands or (self.name,))


_HERE = __name__
STAGES: tuple[Stage, ...] = (
    Stage("baselines", f"{_HERE}.baselines:baseline_stage", commands=("train",), processes="together"),
    Stage("self-generated", f"{_HERE}.self_generated:self_generated_stage", commands=("train",), processes="together"),
    Stage("train", f"{_HERE}.train:train_stage", "unlearn with every method of a recipe", processes="together"),
    Stage("export", f"{_HERE}.export:export_stage", "make the quantized variants"),
    Stage("evaluate", f"{_HERE}.evaluate:evaluate_stage", "score every model in every format", processes="again"),
    Stage("benchmarks", f"{_HERE}.benchmarks:benchmark_stage", commands=("evaluate",)),
    Stage("earlier-scores", f"{_HERE}.earlier:score_earlier", commands=("evaluate",)),
    Stage("attack", f"{_HERE}.attack:attack_stage", "run the attacks", processes="helped"),
    Stage("earlier-attacks", f"{_HERE}.earlier:attack_earlier", commands=("attack",), processes="helped"),
    Stage("verify", f"{_HERE}.verify:verify_stage", "judge, write the report", commands=("verify", "publish")),
    Stage("page", f"{_HERE}.page:page_stage", commands=("verify", "publish")),
    Stage("publish", f"{_HERE}.publish:publish_stage", "write the published folders"),
)


def stages_of(command: str | None) -> tuple[Stage, ...]:
    """The stages that a command for a single stage runs; all of them if no command is given."""
    return tuple(stage for stage in STAGES if command is None or stage.belongs_to(command))


def stages_through(name: str) -> tuple[Stage, ...]:
    """The stages from the first one to the one called ``name``, which is among them."""
    return STAGES[: STAGES.index(stage_named(name)) + 1]


def stage_named(name: str) -> Stage:
    """One stage."""
    return next(stage for stage in STAGES if stage.name == name)
