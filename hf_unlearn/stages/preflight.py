"""Everything that can be known before work starts, found at once: by the recipe, with its rows, with the target.

A check is a function that raises; :class:`~hf_unlearn.stages.findings.Findings` collects what all of them say. The
target is looked at without its weights. What has to be measured first, such as whether the target knows the facts, is
in the :mod:`~hf_unlearn.stages.baselines` stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig

from ..attacks.base import Attack, Attacked
from ..attacks.composed import after_of, bare
from ..attacks.retraining_settings import RetrainingSettings
from ..data.encoding import check_chat_template, encode_row, encode_rows, load_tokenizer
from ..data.example import DataBundle
from ..errors import EnvironmentFailure, MissingExtraError, RequestError, first_line
from ..evaluation.suites.harness import check_harness
from ..models.foreign import UNUSABLE_CONFIG
from ..models.limits import refuse_unknown_ids
from ..models.loading import empty_model
from ..planning.disk import free_bytes, written_bytes
from ..planning.machines import this_machine
from ..planning.plan import make_plan, surely_too_much
from ..planning.run_plan import RunPlan
from ..planning.training import Devices, TrainingInput, paired, trained_model
from ..planning.words import size
from ..planning.work import training_work
from ..quantization import FORMATS
from ..quantization.base import body_layers
from ..recipe import Recipe
from ..recipe.attacks import fit_to_data
from ..runtime.jobs import Workers
from ..runtime.processes import world_size
from ..runtime.progress import Progress
from ..trainer.parts import check_steps
from .attack import looks_at_target
from .context import Context, RunContext, Subject
from .data import load_data, notes_on
from .early_target import early_target
from .findings import Findings
from .planned import Encoder, folders_of, plan_input, trainings_of
from .publishable import check_published_text, check_words
from .report_inputs import description
from .run import Run
from .settled_tuning import settle_tuning
from .units import begun_recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        recipe: A recipe that was read without an error.
        output_dir: Where it runs.
        command: The command for a single stage that is given; ``None`` for the whole run.
        devices: What it runs on, for a plan; ``None`` makes none.
        limited: Whether a plan that does not fit the memory or disk is refused; otherwise it is only said.
        retrain_tokens: Tokens that the target's training went through, if the user says.
    """

    recipe: Recipe
    output_dir: Path
    command: str | None = None
    devices: Devices | None = None
    limited: bool = True
    retrain_tokens: float | None = None


@dataclass(frozen=True)
class Preflight:
    """What is known before a run starts, if nothing is in its way.

    Attributes:
        recipe: Without the attacks of its tier that the data does not fit.
        bundle: Its rows.
        plan: What it will take; ``None`` where none was asked for, or something is in the way.
    """

    recipe: Recipe
    bundle: DataBundle
    plan: RunPlan | None = None


def examine(request: Request, findings: Findings, progress: Progress) -> Preflight | None:
    """Look at everything before anything is started.

    Args:
        request: What was asked for.
        findings: Gets what is found.
        progress: Told what takes time.

    Returns:
        ``None`` if the rows cannot be used; otherwise ``findings`` says whether something is in the way.
    """
    recipe, command = request.recipe, request.command
    check_recipe(recipe, command, findings)
    if findings.refused and asks_target(recipe):
        return None  # the weights would be loaded to read the rows
    begun = begun_recipe(request.output_dir)
    settled = findings.check("data", load_data, recipe, progress.say, begun)
    if settled is None:
        return None
    recipe, bundle = settled
    findings.check("data.description", check_words, recipe, bundle, command)
    for sentence in notes_on(bundle):
        findings.add("note", "data", sentence)
    fitted = findings.check("gate", fit_to_data, recipe, bundle)
    if fitted is not None:
        recipe, left_out = fitted
        for name, reason in left_out.items():
            findings.add("note", "attack.tier", f"{name} is left out of the tier {recipe.attack_tier}: {reason}")
    context = RunContext(recipe, request.output_dir, bundle, Workers(0), progress)
    findings.check("export.calibration", check_calibration_text, context)
    with ExitStack() as stack:
        folder = findings.check("model.target", lambda: stack.enter_context(early_target(context)))
        plan = None if folder is None else check_target(context, folder, request, findings)
    return Preflight(context.recipe, replace(bundle, notes=context.bundle.notes), plan)


def check_recipe(recipe: Recipe, command: str | None, findings: Findings) -> None:
    """Find what the recipe alone shows to be wrong, before anything is read.

    Args:
        recipe: A recipe that was read without an error.
        command: The command for a single stage that is given; ``None`` for the whole run.
        findings: Gets what is found.
    """
    if command == "publish" and recipe.is_audit:
        error = RequestError(f"{recipe.name} judges checkpoints made elsewhere: an audit publishes nothing")
        findings.refuse("methods", error)
    if command in (None, "publish") and not recipe.is_audit:
        findings.check("data.description", description, recipe.data)
    for number, name in enumerate(recipe.export.formats):
        findings.check(f"export.formats.{number}", check_format, name)
    for name, attack in recipe.attack.items():
        findings.check(f"attack.{name}", check_attack_libraries, name, attack)
    for number, method in enumerate(recipe.methods):
        findings.check(f"methods.{number}.optim", check_optimizer_library, method.settings)
    findings.check("benchmarks", check_benchmarks, recipe)


def check_target(context: RunContext, folder: Path, request: Request, findings: Findings) -> RunPlan | None:
    """Find what does not fit the target, and plan the run if all does.

    Args:
        context: The run.
        folder: Of the target's configuration and tokenizer.
        request: What was asked for.
        findings: Gets what is found.
    """
    tokenizer = findings.check("model.target", load_tokenizer, str(folder))
    config = None if tokenizer is None else findings.check("model.target", target_config, folder)
    if tokenizer is None or config is None:
        return None
    if tokenizer.pad_token_id is None:
        findings.add(
            "note", "model.target", "the tokenizer has no pad token: rows are filled up with another, which is masked"
        )
    findings.check("data", check_target_texts, context, tokenizer, config)
    model = findings.check("model.target", empty_model, folder)
    if model is None:
        return None
    for number, name in enumerate(context.formats):
        findings.check(f"export.formats.{number}", check_exportable, (name,), folder)
    encode = Encoder(context, tokenizer)
    if not findings.of("data") and not findings.of("gate"):  # rows that cannot be read cannot be planned with
        findings.check("attack", settle_attacks, context, model, encode, request, findings)
    for name, attack in context.attacks.items():
        findings.check(f"attack.{name}", check_attack, context, name, attack, folder, folder)
    if findings.of("data"):
        return None
    findings.check("export.calibration", check_calibration_length, context, folder)
    trainings = findings.check("methods", trainings_of, context, model, encode) or {}
    for key, each in trainings.items():
        findings.check(key, check_training, each)
    if findings.refused or request.devices is None:
        return None
    return _plan(context, request, findings, (folder, model, encode, trainings))


def settle_attacks(context: RunContext, model: Any, encode: Encoder, request: Request, findings: Findings) -> None:
    """Settle what attackers train, where the recipe leaves it to the device.

    Raises:
        RequestError: Adapters do not fit the model, or an optimizer does not fit the machine.
        EnvironmentFailure: A library is missing or too old.
    """
    machine = this_machine(measured=False) if request.devices is None else request.devices.machine
    before = begun_recipe(request.output_dir).get("attack") or {}
    processes = world_size() if request.devices is None else request.devices.count
    settled, told = settle_tuning(context.attacks, context.bundle, lambda: model, encode, machine, before, processes)
    for name, attack in settled.items():
        check_attack_libraries(name, attack)
    context.recipe = replace(context.recipe, attack=settled)
    context.bundle = replace(context.bundle, notes=(*context.bundle.notes, *(f"{each.decision}." for each in told)))
    for each in told:
        findings.add("note", "attack", str(each))


def _plan(
    context: RunContext,
    request: Request,
    findings: Findings,
    seen: tuple[Path, Any, Encoder, dict[str, TrainingInput]],
) -> RunPlan | None:
    folder, model, encode, trainings = seen
    devices = request.devices
    assert devices is not None  # asked before
    try:
        given = plan_input(context, model, encode, trainings, devices, request.retrain_tokens, folder)
        plan = make_plan(given, devices, free_bytes(request.output_dir))
    except RequestError as error:  # the run itself may well be possible
        findings.add("warn", "model.target", f"memory and time cannot be planned: {error}")
        return None
    check_memory(plan, findings, request.limited and devices.machine.firm)
    check_disk(plan, findings, written_bytes(folders_of(request.output_dir)), request.limited)
    return plan


def check_memory(plan: RunPlan, findings: Findings, refuses: bool) -> None:
    """Say which stages do not fit the memory of a device, and what would make them fit.

    Args:
        plan: What the run takes.
        findings: Gets what is found.
        refuses: Whether what surely does not fit is refused; otherwise it is a warning.
    """
    for stage in plan.stages:
        if stage.fits is not False or stage.memory is None or plan.machine_memory is None:
            continue
        surely = surely_too_much(stage.memory, plan.machine_memory)
        findings.add(
            "refuse" if refuses and surely else "warn",
            "",
            f"{stage.stage} {stage.what} needs about {size(stage.memory.peak)} of memory, and {plan.machine} has "
            f"{size(plan.machine_memory)}",
            stage.mend or "use a device with more memory, or a smaller model",
            EnvironmentFailure,
        )


def check_disk(plan: RunPlan, findings: Findings, written: int, refuses: bool) -> None:
    """Say whether the disk has room for what is not written yet.

    Args:
        plan: What the run writes in all.
        findings: Gets what is found.
        written: Bytes of it that are there already.
        refuses: Whether what is surely too little is refused; otherwise it is a warning.
    """
    needed = plan.disk - written
    if plan.disk_free is not None and needed > plan.disk_free:
        findings.add(
            "refuse" if refuses and plan.least_disk - written > plan.disk_free else "warn",
            "",
            f"the run writes about {size(needed)}, and {size(plan.disk_free)} of the disk are free",
            "free some, choose another --output-dir, or take fewer formats or checkpoints (save_total_limit)",
            EnvironmentFailure,
        )


def check_models(run: Run) -> None:
    """Refuse what only the models themselves show to be wrong, before anything is scored or trained.

    Raises:
        RequestError: Attacks do not fit the models.
        EnvironmentFailure: The Hub could not be reached.
    """
    for check in MODEL_CHECKS:
        check(run)


def check_format(name: str) -> None:
    """Refuse a format whose library is missing.

    Raises:
        MissingExtraError: Says which extra to install.
        EnvironmentFailure: A library has a version that the format does not work with.
    """
    FORMATS.get(name).value().check_available()


def check_attack_libraries(name: str, attack: Attack) -> None:
    """Refuse an attack whose library is missing.

    Raises:
        MissingExtraError: Says which extra to install.
    """
    settings = bare(attack)
    if not isinstance(settings, RetrainingSettings):
        return
    if settings.needs_adapters and find_spec("peft") is None:
        raise MissingExtraError(f"adapters of attack.{name}", "peft", "peft")
    optimizer = settings.steps.optimizer
    if optimizer != "adamw" and find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"attack.{name}.optimizer: {optimizer}", "bitsandbytes", "quantization")


def check_optimizer_library(settings: Mapping[str, Any]) -> None:
    """Refuse an optimizer of bitsandbytes where that is missing.

    Raises:
        MissingExtraError: Says which extra to install.
    """
    name = str(settings.get("optim", ""))
    if (
        any(part in name for part in ("8bit", "bnb", "paged", "lion", "ademamix"))
        and find_spec("bitsandbytes") is None
    ):
        raise MissingExtraError(f"optim: {name}", "bitsandbytes", "quantization")


def asks_target(recipe: Recipe) -> bool:
    """Whether rows are chosen by what the target knows, so that its weights are loaded to read them."""
    sources = (recipe.data.forget, recipe.data.retain)
    return recipe.data.world is not None or any(each is not None and each.known is not None for each in sources)


def check_training(given: TrainingInput) -> None:
    """Refuse a training whose adapters, layers, parameters, rows or steps do not fit the target.

    Raises:
        RequestError: Names what does not fit.
    """
    args = given.config()
    _, losses, parts = trained_model(args, given.model)
    if args.retain_loss_type != "none":
        check_enough(len(given.retain), args.retain_per_forget)
    rows = paired(args, given, parts, losses[0], world_size())
    check_steps(args, len(rows))
    training_work(args, rows, parts, world_size(), None)


def check_enough(retain: int, per_forget: int) -> None:
    """Refuse a retain set from which one forget row would get the same row twice.

    Raises:
        RequestError: Says how many rows there are.
    """
    if retain < per_forget:
        raise RequestError(
            f"the retain set has {retain} rows, fewer than retain_per_forget={per_forget}: a forget row "
            "would get the same retain row twice: lower it or give more retain rows"
        )


def check_benchmarks(recipe: Recipe) -> None:
    """Refuse tasks that do not exist.

    Raises:
        MissingExtraError: lm-evaluation-harness is not installed.
        RequestError: There is no such task or folder.
    """
    if recipe.benchmarks is not None:
        try:
            check_harness(recipe.benchmarks.harness())
        except RequestError as error:
            raise RequestError(str(error).replace("harness.", "benchmarks.", 1)) from None


def check_calibration_text(context: RunContext) -> None:
    """Refuse calibration text that is missing, empty, short, the forget set, or scored."""
    _ = context.calibrations  # chosen when they are first asked for


def target_config(folder: Path) -> PretrainedConfig:
    """The target's configuration.

    Raises:
        RequestError: It cannot be used.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UNUSABLE_CONFIG as error:
        raise RequestError(
            f"model.target: {folder} has a config.json that cannot be used: {first_line(error)}"
        ) from error
    return config


def check_target_texts(context: RunContext, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Check the rows with the target's tokenizer.

    Raises:
        RequestError: See :func:`check_texts`.
    """
    scratch = context.recipe.model.scratch
    if scratch is not None:
        tokenizer.name_or_path = scratch.base or "built from the data"
        check_texts(context, tokenizer, scratch.max_positions)
        return
    settings = config.get_text_config()
    positions, vocabulary = (getattr(settings, key, None) for key in ("max_position_embeddings", "vocab_size"))
    check_texts(context, tokenizer, positions, vocabulary)


def check_texts(
    context: RunContext, tokenizer: PreTrainedTokenizerBase, positions: int | None, vocabulary: int | None = None
) -> None:
    """Tokenize every row of every set.

    Args:
        context: The run.
        tokenizer: The target's tokenizer.
        positions: Most tokens the model can read, if it has such a limit.
        vocabulary: How many tokens the model knows, where the tokenizer was not made for it.

    Raises:
        RequestError: The tokenizer cannot render the rows, rows are too long (how many, and the longest), or
            one has a token that the model does not know.
    """
    data, bundle = context.recipe.data, context.bundle
    trained = [row for rows in (bundle.forget, bundle.retain, bundle.generic) for row in rows]
    scored = [row for rows in (bundle.holdout, *bundle.extra.values()) for row in rows]
    check_chat_template(tokenizer, context.text_format, (*trained, *scored))
    # The target has not been asked yet whether ends are labels: if they may be, room is left for them.
    ends = tokenizer.eos_token_id is not None or context.text_format.end != "auto"
    encoded = encode_rows(
        trained, tokenizer, context.text_format, eos=ends, max_length=data.max_length, truncation=data.truncation
    )
    # Scoring truncates nothing.
    encoded += [encode_row(row, tokenizer, context.text_format, eos=False) for row in scored]
    for row, tokens in zip((*trained, *scored), encoded, strict=True):
        refuse_unknown_ids(tokens.input_ids, vocabulary, row.origin or row.id)
    too_long = [place for place, row in enumerate(encoded) if positions is not None and len(row.input_ids) > positions]
    if too_long:
        worst = max(too_long, key=lambda place: len(encoded[place].input_ids))
        raise RequestError(
            f"{len(too_long)} of {len(encoded)} rows have more tokens than the {positions} that the model can read, "
            f"the longest has {len(encoded[worst].input_ids)} ({(trained + scored)[worst].origin}): remove them, or "
            f"set data.max_length={positions} and data.truncation=cut"
        )


def check_calibration_length(context: RunContext, target: Path) -> None:
    """Refuse calibration text that is too short for the target's widest layer.

    Raises:
        RequestError: Says how many tokens there are and how many are needed.
    """
    calibrations = context.calibrations
    if not calibrations:
        return
    empty = empty_model(target)
    tokenizer = load_tokenizer(str(target))
    positions = getattr(empty.config.get_text_config(), "max_position_embeddings", None)
    for name, calibration in calibrations.items():
        widest = max(layer.in_features for layer in body_layers(empty, name).values())
        calibration.check_length(sum(map(len, calibration.encode(tokenizer, positions))), widest)


def check_exportable(names: Sequence[str], source: Path) -> None:
    """Refuse formats that cannot hold a model of this shape.

    Args:
        names: Formats.
        source: The model's folder.

    Raises:
        RequestError: Says which layer does not fit, or that the folder's config names no causal language model.
    """
    model = empty_model(source)
    for name in names:
        FORMATS.get(name).value().check(model)


def check_attack_fit(run: Run) -> None:
    """Refuse attacks that do not fit the models: what is unlearned from them has the same shape."""
    check_attacks(run.context, [*run.baselines, *run.audited], run.target)


def check_attacks(context: Context, subjects: Sequence[Subject], target: Subject | None) -> None:
    """Refuse attacks that do not fit models.

    Raises:
        RequestError: An attack looks at the model before unlearning, which was not named, or does not fit a model.
    """
    for name, attack in context.attacks.items():
        for subject in subjects:
            # Shapes are those of the model as it is: what is attacked after quantizing is made later.
            check_attack(context, name, attack, subject.folder, None if target is None else target.folder)


def check_attack(context: Context, name: str, attack: Attack, folder: Path, target: Path | None) -> None:
    """Refuse an attack that does not fit a model; no weights are loaded.

    Raises:
        RequestError: It looks at the model before unlearning, which was not named, or does not fit the model.
    """
    if target is None and looks_at_target(name, attack):
        raise RequestError(
            f"{name} uses the model before unlearning, which is not given: give it, or leave {name} out"
        )
    known = folder if target is None else target
    attack.check(Attacked(folder, known, context.bundle, context.text_format, context.attack_metrics))


def check_after(attacks: Mapping[str, Attack]) -> None:
    """Refuse attacks on one model after a format that would need calibration text.

    Raises:
        RequestError: A format is calibrated.
        EnvironmentFailure: A format's library is missing or has the wrong version.
    """
    for name, attack in attacks.items():
        after = after_of(attack)
        if after is None:
            continue
        kind = FORMATS.get(after).value
        kind().check_available()
        if kind.calibrated:
            raise RequestError(
                f"{name}: {after} is calibrated on text, which is not given here: export it with a recipe, "
                "and attack the exported folder"
            )


MODEL_CHECKS: tuple[Callable[[Run], None], ...] = (check_attack_fit, check_published_text)
