"""What a plan is made of, gathered from a run's recipe and rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data.encoding import EncodedRow, encode_row
from ..data.example import DataBundle, Example
from ..errors import about
from ..evaluation.metrics import METRICS
from ..evaluation.spec import SetRequest, set_requests
from ..models.loading import DTYPES
from ..models.scratch import ScratchSpec
from ..planning.advice import Retraining
from ..planning.disk import small_bytes
from ..planning.machines import this_machine
from ..planning.memory import Strategy
from ..planning.run_plan import Asked, PlanInput
from ..planning.training import Devices, TrainingInput
from ..recipe import ControlSpec, EarlierSpec, Recipe
from ..recipe.attacks import fit_to_data
from ..recipe.checks import UNTRAINED_CONTROLS
from ..runtime.cache import seconds_of
from ..runtime.jobs import default_workers
from ..runtime.processes import world_size
from ..trainer.launch import asks_for_deepspeed, asks_for_fsdp
from .built_models import built_folder
from .context import RunContext
from .earlier_rows import request_bundle
from .evaluate import further_needs
from .measured import measured_in, request_seconds
from .models import NEVER_KNEW_SEED, scratch_rows, tokenizer_texts
from .plans import control_part, part_spec, training_settings
from .publish import published_formats
from .retain_rows import named_rows
from .units import MANIFEST, RUN_FILE


def launched() -> Devices:
    """What this launch is on: this machine, with as many processes, and the weights as the launcher spreads them."""
    count = world_size()
    strategy: Strategy = "one" if count == 1 else "ddp"
    if asks_for_deepspeed(None):
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        offload = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none") == "cpu"
        strategy = "zero3_offload" if stage == "3" and offload else "zero3" if stage == "3" else "zero2"
    elif asks_for_fsdp(None) and count > 1:
        strategy = "fsdp2"
    return Devices(this_machine(), count, strategy)


@dataclass
class Encoder:
    """Makes rows token ids, each once.

    Attributes:
        context: The run.
        tokenizer: The target's.
    """

    context: RunContext
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        self._made: dict[Example, EncodedRow] = {}

    def __call__(self, row: Example) -> EncodedRow:
        """With the end of the answer, which the target has not been asked about yet; cut where training cuts."""
        if row not in self._made:
            encoded = encode_row(row, self.tokenizer, self.context.text_format, eos=True)
            most = self.context.recipe.data.max_length
            if len(encoded.input_ids) > most:
                n_prompt = min(encoded.n_prompt, most - 1)
                encoded = EncodedRow(encoded.id, encoded.input_ids[:most], n_prompt, encoded.group)
            self._made[row] = encoded
        return self._made[row]


def trainings_of(context: RunContext, model: Any, encode: Encoder) -> dict[str, TrainingInput]:
    """Every training run, by the recipe's key of it.

    Args:
        context: The run.
        model: The target on the ``meta`` device.
        encode: Makes rows token ids.
    """
    recipe, bundle = context.recipe, context.bundle
    retain = [*map(encode, named_rows(context)), *_drawn(context)]
    shared: dict[Any, Any] = {}

    def run(name: str, settings: Mapping[str, Any], forget: Sequence[Example], kept: Sequence[EncodedRow]) -> Any:
        rows = [encode(row) for row in forget]
        return TrainingInput(name, training_settings(context, settings), recipe.seed, rows, kept, model, shared)

    found = {}
    for number, method in enumerate(recipe.methods):
        if method.checkpoint is None:
            with about(f"methods.{number}"):
                found[f"methods.{number}"] = run(method.name, method.settings, bundle.forget.train, retain)
    for number, control in enumerate(recipe.controls):
        if control.kind not in UNTRAINED_CONTROLS:
            with about(f"controls.{number}"):
                for key, name, settings, part in _phases(control):
                    rows = part.training_rows(bundle)
                    kept = [encode(row) for row in rows.retain.train]
                    found[f"controls.{number}.{key}"] = run(name, settings, rows.forget.train, kept)
    return found


def _phases(control: ControlSpec) -> list[tuple[str, str, dict[str, Any], Any]]:
    """Key, name, settings and part of each training of a control."""
    part = control_part(control)
    phases = [("settings", control.name, {**control.settings, "control": part_spec(control)}, part)]
    if part.learns_first:
        learner = control_part(control, phase="learn")
        settings = {**learner.learning, **control.learn, "control": part_spec(control, phase="learn")}
        phases.insert(0, ("learn", f"{control.name} learns", settings, learner))
    return phases


def _drawn(context: RunContext) -> list[EncodedRow]:
    """Texts that the target will write, as long as they may be."""
    spec = context.recipe.data.keep_drawn
    if spec is None:
        return []
    return [EncodedRow(f"drawn-{number}", (0,) * (1 + spec.max_new_tokens), 1) for number in range(spec.texts)]


def plan_input(
    context: RunContext,
    model: Any,
    encode: Encoder,
    trainings: Mapping[str, TrainingInput],
    devices: Devices,
    retrain_tokens: float | None = None,
    target: Path | None = None,
) -> PlanInput:
    """Everything that a plan is made of.

    Args:
        context: The run.
        model: The target on the ``meta`` device.
        encode: Makes rows token ids.
        trainings: From :func:`trainings_of`.
        devices: What the run is on.
        retrain_tokens: Tokens that the target's training went through, as the user says.
        target: Folder of the target's configuration and tokenizer, for their size.
    """
    recipe = context.recipe
    methods = [method.name for method in recipe.methods]
    workers = max(1, default_workers(jobs_fit_in_memory=recipe.model.scratch is not None)) if devices.count == 1 else 1
    generates = any("generation" in METRICS.get(name).needs for name in recipe.evaluate.metrics)
    new_controls = [control for control in recipe.controls if control.kind != "method"]
    base = 1 + recipe.model.has_never_knew
    built = None
    if recipe.model.scratch is not None:
        built = base + sum(control.kind == "never_knew" for control in recipe.controls), recipe.model.scratch
    return PlanInput(
        name=recipe.name,
        model_name=recipe.model.target or _built(recipe.model.scratch),
        model=model,
        bundle=context.bundle,
        encode=encode,
        trainings=tuple(trainings.values()),
        models=base + len(recipe.methods) + len(new_controls),
        built=built,
        formats=context.formats,
        published=() if recipe.is_audit else published_formats(recipe),
        requests=partial(_requests, recipe),
        fluency_tokens=recipe.evaluate.fluency_tokens,
        metrics_generate=recipe.evaluate.max_new_tokens if generates else 0,
        attacks=context.attacks,
        dtype=saved_dtype(context, model),
        workers=workers,
        earlier={each.id: _asked(context, each) for each in recipe.data.earlier},
        methods=methods,
        tokenizer=0 if target is None else small_bytes(target),
        trained=frozenset(each.name for each in trainings.values() if _is_trained(context, each.name)),
        retraining=None if recipe.is_audit else _retraining(context, retrain_tokens),
        measured=measured_in(context.output_dir, methods),
        earlier_request=_request_before(recipe, workers),
    )


def _asked(context: RunContext, request: EarlierSpec) -> Asked:
    """An earlier request by the run's own gate, which leaves out no fewer attacks than the request's."""
    bundle: DataBundle = request_bundle(context.bundle, context.bundle.earlier[request.id])
    if request.never_knew is None:
        bundle = bundle.with_floor()
    recipe, _ = fit_to_data(context.recipe, bundle)
    return Asked(bundle, 1 + (request.never_knew is not None), recipe.attack)


def _retraining(context: RunContext, tokens: float | None) -> Retraining | None:
    """What is known of training the target without the forget set: the recipe says it of models that it builds.

    Rows of earlier requests are in none of the sets.
    """
    spec, bundle = context.recipe.model.scratch, context.bundle
    if tokens is not None:
        return Retraining(tokens=tokens)
    if spec is None:
        return None
    rows = list(scratch_rows(bundle, with_forget=False, with_extra=context.recipe.data.extra_is_known))
    seconds = None
    if spec.base is None:  # a base is known by its weights, which are not looked at here
        never_knew = replace(spec, seed=spec.seed + NEVER_KNEW_SEED)
        seconds = seconds_of(built_folder(never_knew, rows, tokenizer_texts(bundle), context.text_format))
    return Retraining(spec=spec, rows=rows, seconds=seconds)


def _request_before(recipe: Recipe, workers: int) -> tuple[float, str] | None:
    """What the latest earlier request took, if its run is at hand, and the folder of that run."""
    for each in reversed(recipe.data.earlier):
        folder = Path(each.report) if each.report is not None else None
        if folder is not None and (folder / RUN_FILE).is_file():
            seconds = request_seconds(folder, workers)
            return None if seconds is None else (seconds, str(folder))
    return None


def _built(spec: ScratchSpec | None) -> str:
    return f"fine-tuned from {spec.base}" if spec is not None and spec.base is not None else "built from scratch"


def saved_dtype(context: RunContext, model: Any) -> str:
    """The type that models are scored and saved in: the recipe's, or the target's own."""
    named = str(context.recipe.model.dtype)
    own = str(getattr(model.config, "dtype", None)).removeprefix("torch.")
    return named if named in DTYPES else own if own in DTYPES else "float32"


def _requests(recipe: Recipe, sets: Mapping[str, Sequence[Example]]) -> dict[str, SetRequest]:
    """What a run's records of these sets hold."""
    return set_requests(sets, recipe.evaluate, further_needs(sets))


def _is_trained(context: RunContext, name: str) -> bool:
    return (context.folder("train", name) / MANIFEST).is_file()


def folders_of(output_dir: Path) -> list[Path]:
    """Where a run's files lie, also unfinished ones, to know how much of them is there already."""
    names = ("train", "export", "evaluate", "attack", "references", "verify", "publish", "publish-*")
    return [folder for name in names for each in (name, f"{name}.partial") for folder in output_dir.glob(each)]
