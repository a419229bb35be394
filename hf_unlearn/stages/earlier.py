"""Earlier deletion requests: every unlearned model is asked again for what it was made to forget before.

Each request is a run of its own with the same formats, attacks and gate. Its forget set is that of the request, its
target is the model that knew these facts, and the models it judges are the methods of the present run. So what was
forgotten is scored, attacked (retraining on a part of the earlier facts and asking for the rest included) and judged
as it was when the request was granted. Use is judged once, by the present run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..data.encoding import load_tokenizer
from ..errors import RequestError
from ..quantization.calibration import Calibration
from ..recipe import EarlierSpec, Recipe
from ..recipe.attacks import fit_to_data
from ..recipe.checks import located
from ..verification.digests import hash_files
from .attack import attack_stage
from .context import RunContext, Subject
from .earlier_rows import EarlierReport, report_of, request_bundle, request_model
from .evaluate import evaluate_stage
from .export import export_stage
from .models import base_models
from .preflight import check_attacks, check_exportable, check_target_texts, target_config
from .run import EarlierRun, Run
from .units import Unit


@dataclass
class EarlierContext(RunContext):
    """A request in the folder of a run. What the run exports is not exported again.

    Attributes:
        main: The run.
        exported: Models that are exported elsewhere, by digest, with what exports them.
    """

    main: RunContext = field(kw_only=True)
    exported: dict[str, tuple[RunContext, Subject]] = field(kw_only=True, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settle_format(self.main.text_format)

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """Those of the run: its exported models are asked."""
        return self.main.calibrations

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant, in the run where that has the same model."""
        if subject.digest not in self.exported:
            return super().export_unit(subject, format_name)
        context, same = self.exported[subject.digest]
        return context.export_unit(same, format_name)


def earlier_runs(run: Run) -> list[EarlierRun]:
    """One run for each earlier request of a recipe, with its models fetched and checked.

    Raises:
        RequestError: A model is not there or not the one of the report, or rows, formats and attacks do not fit it.
        EnvironmentFailure: The Hub could not be reached.
    """
    found: list[EarlierRun] = []
    for spec in run.recipe.data.earlier:
        with located(spec.key):
            found.append(_earlier_run(run, spec, found))
    return found


def _earlier_run(run: Run, spec: EarlierSpec, before: Sequence[EarlierRun]) -> EarlierRun:
    context, report = run.context, report_of(spec)
    bundle = request_bundle(context.bundle, context.bundle.earlier[spec.id])
    recipe, left_out = fit_to_data(request_recipe(context.recipe, spec, report), bundle)
    for name, reason in left_out.items():
        context.progress.say(f"{spec.key}: {name} is left out of the tier {recipe.attack_tier}: {reason}")
    own = EarlierContext(
        recipe,
        context.output_dir / "references" / "earlier" / spec.id,
        bundle,
        context.workers,
        context.progress,
        main=context,
    )
    for each in (run, *before):
        for subject in each.baselines:
            own.exported.setdefault(subject.digest, (each.context, subject))
    target, never_knew = base_models(own)
    if report is not None:
        check_target(target, report)
    request = EarlierRun(own, target, never_knew, run.is_main, spec=spec, main=run, report=report)
    check_target_texts(own, load_tokenizer(str(target.folder)), target_config(target.folder))
    check_exportable(recipe.export.formats, target.folder)
    check_attacks(own, request.baselines, target)
    return request


def request_recipe(recipe: Recipe, spec: EarlierSpec, report: EarlierReport | None) -> Recipe:
    """The recipe by which a request is judged again.

    Without a never-knew model the gate leaves out attacks under which holdout facts cannot stand in for one, as it
    does for a recipe without one.
    """
    model = request_model(recipe, spec, report)
    gate = recipe.gate
    if not model.has_never_knew:
        gate = replace(gate, attacks=tuple(name for name in gate.attacks if not recipe.attack[name].no_floor))
    return replace(recipe, model=model, controls=(), benchmarks=None, gate=replace(gate, utility_sets=()))


def check_target(target: Subject, report: EarlierReport) -> None:
    """Refuse a target whose weights are not those that the request's report compared with.

    Raises:
        RequestError: Names the file.
    """
    listed = report["models"]["target"]["files"]
    weights = {name: digest for name, digest in listed.items() if name.endswith(".safetensors")}
    there = [name for name in weights if (target.folder / name).is_file()]
    now = hash_files(target.folder, there)
    changed = next((name for name, digest in weights.items() if now.get(name) != digest), None)
    if changed is not None:
        what = f"its {changed} is another file" if changed in now else f"it has no {changed}"
        raise RequestError(
            f"target is not the model that the report of this request was compared with: {what}; name the model from "
            "before that request"
        )


def score_earlier(run: Run) -> None:
    """Score every unlearned model, as it stands and in every format, on what it was made to forget before."""
    for request in run.earlier:
        run.context.progress.say(f"earlier request {request.spec.id}:")
        export_stage(request)
        evaluate_stage(request)


def attack_earlier(run: Run) -> None:
    """Attack every unlearned model for what it was made to forget before."""
    for request in run.earlier:
        if run.is_main and request.recipe.attack:
            run.context.progress.say(f"earlier request {request.spec.id}:")
        attack_stage(request)
