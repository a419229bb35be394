"""A run on its way through the stages: what is known before any model, and the models so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..data.example import DataBundle
from ..recipe import EarlierSpec, Recipe
from ..reporting.html import PagePlots
from .chain import digest_of
from .context import RunContext, Subject
from .models import audited_subjects, control_subject, never_knew_seed, second_never_knew
from .plans import training_plans


@dataclass(frozen=True)
class Verified:
    """What verification found.

    Attributes:
        report: The report of the release candidate.
        candidate: The release candidate.
        controls_ok: Whether every control came out as it must.
    """

    report: dict[str, Any]
    candidate: str
    controls_ok: bool


@dataclass
class Run:
    """What every stage is given.

    Attributes:
        context: Recipe, rows, folders, workers and progress.
        target: The model that knows.
        never_knew: The model that never knew, if there is one.
        is_main: Whether this is the main process of the launch. Determined before the processes separate, after which
            each is on its own.
        verified: What the verify stage found; ``None`` before it.
        plots: Those of the report's page, once it is written.
        earlier: The same questions for each earlier deletion request: see :mod:`~hf_unlearn.stages.earlier`.
    """

    context: RunContext
    target: Subject
    never_knew: Subject | None
    is_main: bool = True
    verified: Verified | None = None
    plots: PagePlots | None = None
    earlier: Sequence[EarlierRun] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.context.recipe

    @property
    def bundle(self) -> DataBundle:
        """The rows of all sets."""
        return self.context.bundle

    @property
    def baselines(self) -> list[Subject]:
        """The models from before unlearning: the target and, if there is one, the never-knew model."""
        return [self.target, *([self.never_knew] if self.never_knew is not None else [])]

    @cached_property
    def audited(self) -> list[Subject]:
        """The checkpoints of an audit, fetched; none if the run trains.

        Raises:
            RequestError: One of them is neither a folder with a saved model nor a model on the Hub.
            EnvironmentFailure: The Hub could not be reached.
        """
        return audited_subjects(self.context)

    @cached_property
    def subjects(self) -> list[Subject]:
        """All models of the run: the baselines, then methods, then controls.

        Raises:
            RequestError: One of them has not been trained yet.
        """
        return [*self.baselines, *self.audited, *self._trained(), *self._untrained_controls()]

    def subject(self, name: str) -> Subject:
        """One model of the run; others need not have been trained yet.

        Raises:
            RequestError: It has not been trained yet.
        """
        known = [*self.baselines, *self.audited, *self._untrained_controls()]
        found = [subject for subject in known if subject.name == name] or self._trained(name)
        return found[0]

    def _trained(self, only: str | None = None) -> list[Subject]:
        methods = {method.name for method in self.recipe.methods}
        return [
            Subject(
                plan.name,
                "method" if plan.name in methods else "control",
                plan.unit.path,
                digest_of(plan.unit.outputs()),
            )
            for plan in training_plans(self.context, self.target, self.never_knew)
            if only is None or plan.name == only
        ]

    def _untrained_controls(self) -> list[Subject]:
        found = []
        scratch = self.recipe.model.scratch
        for number, control in enumerate(self.recipe.controls):
            if control.kind == "never_knew" and scratch is not None:
                seed = never_knew_seed(control.seed, scratch.seed, number)
                _, folder = second_never_knew(self.context, control.name, seed)
                found.append(control_subject(control.name, folder))
            if control.kind == "target":
                found.append(Subject(control.name, "control", self.target.folder, self.target.digest))
        return found


@dataclass
class EarlierRun(Run):
    """The methods of a run, asked about an earlier deletion request: see :mod:`~hf_unlearn.stages.earlier`.

    Attributes:
        spec: The request.
        main: The run.
        report: The report that was written for the request, if the recipe names it.
    """

    spec: EarlierSpec = field(kw_only=True)
    main: Run = field(kw_only=True)
    report: Mapping[str, Any] | None = field(kw_only=True, default=None)

    @cached_property
    def subjects(self) -> list[Subject]:
        """The models from before the request, then the methods of the run.

        Raises:
            RequestError: One of them has not been trained yet.
        """
        return [*self.baselines, *(subject for subject in self.main.subjects if subject.role == "method")]
