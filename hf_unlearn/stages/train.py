"""The train stage: one folder per method and per trained control."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat, load_tokenizer
from ..data.example import DataBundle
from ..errors import RequestError, one_line
from ..models.sharding import forget_deepspeed, in_pieces
from ..quantization.explain import lost_when_saved
from ..recipe.method_settings import make_config, missing_library
from ..registry import part_name
from ..robust.weights import trained_parameters
from ..runtime.files import remove
from ..runtime.jobs import Job
from ..runtime.processes import is_main_process, on_main_process, wait_for_everyone, world_size
from ..trainer.checkpoints import last_whole_checkpoint
from ..trainer.config import UnlearnConfig
from ..trainer.unlearn_trainer import FINAL_STEP, UnlearnTrainer
from .models import control_builds
from .plans import METRICS_FILE, TrainingPlan, training_plans
from .run import Run
from .step_progress import show_steps_in_the_run
from .units import Unit

# A control that learns the facts in its own way must know this share of what the target knows, or it hides nothing.
LEAST_LEARNED = 0.8


def train_stage(run: Run) -> None:
    """Train what is not trained yet; methods first, then controls. All processes call this together.

    Never-knew models that are controls are built here, beside what takes long, and not before everything else.
    """
    context = run.context
    waiting = [training(run, plan) for plan in training_plans(context, run.target, run.never_knew) if not plan.done]
    if world_size() == 1:  # else they were built before: a training takes all processes
        waiting += control_builds(context)
    for job, warning in context.progress.follow("train", len(waiting), context.workers.run(waiting)):
        if warning:
            context.progress.say(f"{job.title}: {warning}")


def training(run: Run, plan: TrainingPlan) -> Job:
    """The job that trains one model. Under several processes all of them do it together."""
    recipe, text_format = run.recipe, run.context.text_format
    return Job(plan.name, plan_job, (plan, run.target.folder, text_format, recipe.seed, recipe.model.dtype))


def plan_job(plan: TrainingPlan, target: Path, text_format: TextFormat, seed: int, dtype: str) -> str:
    """Train one model and, before it, what it starts from. Under several processes all of them call this together.

    Returns:
        What the user should know about it; usually nothing.
    """
    if (first := plan.first) is not None:
        if not first.done:
            train_job(first.unit, first.source, first.bundle, text_format, first.settings, seed, dtype)
        on_main_process(lambda: _check_learned(plan, target, text_format))
    train_job(plan.unit, plan.source, plan.bundle, text_format, plan.settings, seed, dtype)
    if not is_main_process():
        return ""
    metrics = json.loads((plan.unit.path / METRICS_FILE).read_text(encoding="utf-8"))
    warning: str = metrics.get("fall", {}).get("warning", "")
    return warning


def _check_learned(plan: TrainingPlan, target: Path, text_format: TextFormat) -> None:
    from ..models.scratch import knows

    rows = list({(row.prompt, row.answer): row for row in plan.bundle.forget.score}.values())
    learned, before = knows(plan.source, rows, text_format), knows(target, rows, text_format)
    if learned < LEAST_LEARNED * before:
        raise RequestError(
            f"the control {plan.name} hides nothing: after learning it answers {learned:.1%} of the forget set and "
            f"the target {before:.1%}; raise max_steps or learning_rate under 'learn' of that control"
        )


def train_job(
    unit: Unit,
    model: Path,
    bundle: DataBundle,
    text_format: TextFormat,
    settings: Mapping[str, Any],
    seed: int,
    dtype: str,
) -> None:
    """Train one method. Under several processes all of them call this together and the main one writes the unit."""
    first = is_main_process()
    partial = unit.begin() if first else unit.partial
    wait_for_everyone()
    metrics = train_method(
        model_dir=model,
        out_dir=partial,
        work_dir=partial / "checkpoints",
        bundle=bundle,
        fmt=text_format,
        settings=dict(settings),
        seed=seed,
        dtype=dtype,
    )
    wait_for_everyone()
    if first:
        remove(partial / "checkpoints")
        (partial / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")
        unit.finish()
    wait_for_everyone()


def train_method(
    model_dir: Path,
    out_dir: Path,
    work_dir: Path,
    bundle: DataBundle,
    fmt: TextFormat,
    settings: Mapping[str, Any],
    seed: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Unlearn with one method, resuming from the last whole checkpoint in ``work_dir`` if there is one.

    A resumed run ends with the weights of an uninterrupted one. The caller makes sure that ``work_dir`` belongs to the
    same model, data and settings.

    Args:
        model_dir: The target model with its tokenizer.
        out_dir: Gets the unlearned model with its tokenizer, adapters merged.
        work_dir: Checkpoints, and files of parts.
        bundle: Training rows are those of ``forget`` and ``retain``.
        fmt: How prompt and answer become one text.
        settings: Fields of :class:`UnlearnConfig`; see :func:`make_config`.
        seed: Seed of everything that is drawn.
        dtype: Precision the unlearned model is saved in. Weights are stepped in float32 unless the method's
            ``model_init_kwargs`` say otherwise: in 16 bits, steps much smaller than a weight are lost.

    Returns:
        ``steps``, ``seconds`` of this call, ``floating_point_ops`` of all steps and of what parts report
        (six for each token and weight, as transformers counts them), ``stepping`` (the precision weights were kept in
        between steps), ``saved`` if they are saved in 16 bits
        (:func:`~hf_unlearn.quantization.explain.lost_when_saved`), ``learning_rate`` with the rate that was found and
        those that were tried, if it was to be found, ``parts`` with what robust parts report,
        by name, if any do, ``end`` (where ends of answers were labels), ``fall``
        (:meth:`~hf_unlearn.trainer.label_fall.LabelFall.told`), and means of the last step:
        ``loss/forget``, ``logps/forget`` and, with a retain loss, ``loss/retain``, ``logps/retain`` and ``kl/retain``.

    Raises:
        RequestError: If settings, data or model cannot be used, or the loss is not finite.
        EnvironmentFailure: If a setting needs a library that is not installed.
    """
    started = time.monotonic()
    args = make_config(settings, work_dir, seed)
    tokenizer = load_tokenizer(str(model_dir))
    try:
        trainer = UnlearnTrainer(
            model=str(model_dir),
            args=args,
            forget_dataset=bundle.forget.train,
            retain_dataset=bundle.retain.train or None,
            processing_class=tokenizer,
            text_format=fmt,
        )
    except ValueError as error:  # settings that do not suit this machine are first checked here
        raise RequestError(f"the method's settings cannot be used: {one_line(error)}") from error
    show_steps_in_the_run(trainer)
    # Without the optimizer's state a run that goes on would end with other weights than one that was not killed.
    checkpoint = None if args.save_only_model else last_whole_checkpoint(work_dir)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except ImportError as error:  # optimizers import their libraries when they are created
        raise missing_library(error) from error
    except ValueError as error:  # the settings of optimizer and schedule are read then, too
        if trainer.state.global_step:
            raise
        raise RequestError(f"the method's settings cannot be used: {one_line(error)}") from error
    trained = trained_parameters(trainer.model).values()
    stepped = sorted({str(each.dtype).removeprefix("torch.") for each in trained})
    saved = None if in_pieces(trainer.accelerator) else lost_when_saved(trainer.model, model_dir, dtype)
    trainer.save_merged(str(out_dir), dtype)
    forget_deepspeed()
    told = _outcomes(args, trainer)
    found = trainer.found_rate
    return {
        "stepping": args.stepping if args.stepping != "fp32" or stepped == ["float32"] else ", ".join(stepped),
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
        **({"saved": saved} if saved else {}),
        "floating_point_ops": trainer.state.total_flos
        + sum(of.get("floating_point_ops", 0) for of in told.values())
        + (found.floating_point_ops if found else 0),
        **({"learning_rate": asdict(found)} if found else {}),
        **({"parts": told} if told else {}),
        "end": trainer.text_format.end,
        **({"fall": trainer.fall.told()} if trainer.fall else {}),
        **_final_means(trainer.state.log_history),
    }


def _outcomes(args: UnlearnConfig, trainer: UnlearnTrainer) -> dict[str, dict[str, Any]]:
    named = zip(args.robust, trainer.parts, strict=False)  # a control and the rounding of steps come after them
    told = {part_name(spec): dict(part.outcome()) for spec, part in named}
    return {name: outcome for name, outcome in told.items() if outcome}


def _final_means(log_history: list[dict[str, float]]) -> dict[str, float]:
    entries = [entry for entry in log_history if any(key.startswith(FINAL_STEP) for key in entry)]
    last = entries[-1] if entries else {}
    return {key[len(FINAL_STEP) :]: value for key, value in last.items() if key.startswith(FINAL_STEP)}
