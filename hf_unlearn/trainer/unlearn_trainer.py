"""The trainer, in the order of a run: it is built, prepared before the first step, makes steps, and is saved."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from .._compat import PREFIX_CHECKPOINT_DIR, TRAINING_ARGS_NAME, TrainOutput
from ..data.encoding import EncodedRow, TextFormat
from ..data.pairing import PaddedRows, PairedCollator, PairedRows, pad_rows
from ..errors import RequestError
from ..models.adapters import check_adapters, merged
from ..models.ends import spread
from ..models.limits import padding_id
from ..models.sharding import count_in_pieces, in_pieces, placed, taken_over
from ..robust.base import Gradients, StepContext, StepResult, StepValue, TermName, TrainingContext
from ..robust.trained_weights import ShardedWeights, TrainedWeights
from ..robust.weights import trained_parameters
from ..robust.zero_weights import ZeroWeights
from ..runtime.processes import wait_for_everyone
from .alternates import RunAlternates
from .batch_size import fit_batch_size, fits_in_memory, longest_batch
from .checkpoints import (
    ADAPTERS_FOLDER,
    chosen_checkpoint,
    is_quantized,
    load_checkpoint,
    merge_saved,
    refuse_other_weights,
    remove_old_checkpoints,
    save_gathered,
    seal_checkpoint,
    torch_dtype,
)
from .config import UnlearnConfig
from .dataset import check_apart, pair_rows, read_retain, read_rows, refuse_unreadable, settle_end
from .drawn_rows import take_drawn
from .evaluation import ScoredSets, ScoringTrainer, before_gathering, of_logits
from .finite import check_weights
from .forward import LabelForward
from .label_fall import LabelFall, LabelSums, fell_by, label_sums, rows_looked_at
from .launch import check_devices, check_launch, warn_of_slow_bf16
from .microbatch import LengthGroupedPairs, cut_by_length, cut_by_tokens, tokens_of_a_pass
from .model_setup import (
    check_layers,
    check_optimizer_saved,
    check_reference,
    check_same_vocabulary,
    check_source,
    check_trainable,
    choose_trained,
    load_causal_lm,
    made_ready,
    only_adapters,
    plain_source,
    refuse_idle_loading,
    tokenizer_of,
)
from .objective import Objective
from .padding_free import row_by_row
from .parts import arranged, check_steps, drawn_rows, load_parts, save_parts, save_shards, steps_of_run
from .rate_search import MOST_ROWS, FoundRate, Tried, find_rate, read_found
from .rate_trials import check_search, mean_logp, put_back, trial_settings
from .references import RunReferences, TargetModel, in_batches, mean_kl, target_model
from .sign_sgd import SIGN_SGD, SignSGD
from .term_passes import TermPasses, check_parts

if TYPE_CHECKING:
    from peft import PeftConfig

    from .dataset import RowsGiven

FINAL_STEP = "final_step/"
"""Prefix of the names of the last step's means in the log history."""


class UnlearnTrainer(ScoringTrainer):
    """Makes a causal language model forget one set of rows while it keeps another.

    Example:

    ```python
    from hf_unlearn import UnlearnConfig, UnlearnTrainer

    trainer = UnlearnTrainer(
        model="my-org/my-model",
        args=UnlearnConfig(output_dir="unlearned", loss_type="npo", retain_loss_type="kl"),
        forget_dataset=forget,  # prompt-completion, conversational, unpaired preference or plain text
        retain_dataset=retain,
    )
    trainer.train()
    ```

    Logged metrics, besides those of [`~transformers.Trainer`]: `loss/forget` and `loss/retain` (unweighted means),
    `logps/forget`, `logps/alternate` and `logps/retain` (summed label log-probability, mean over rows) and, with the
    KL retain loss, `kl/retain`. Evaluations (`eval_strategy`, `trainer.evaluate()`) log `eval_forget_loss`,
    `eval_forget_probability` and the like for each set.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The target model: an id or folder, loaded in float32 unless `args.model_init_kwargs` says otherwise, or a
            model. It is changed in place, and its state when training starts is the reference.
        args ([`UnlearnConfig`], *optional*):
            Settings. Defaults to `UnlearnConfig()`.
        forget_dataset ([`~datasets.Dataset`], [`~datasets.DatasetDict`], `str` or `Sequence[Example]`):
            What is to be forgotten: rows, the path of a file or folder, or the id of a data set on the Hub. Of several
            splits the one called `forget` is read, or the only one, or `train`. With a boolean `label` column
            (unpaired preference) only the false rows are taken; of `chosen` and `rejected` answers the rejected ones
            are forgotten, and losses that need another answer learn the chosen one.
        retain_dataset ([`~datasets.Dataset`], [`~datasets.DatasetDict`], `str` or `Sequence[Example]`, *optional*):
            What is to be kept. Needed unless `args.retain_loss_type` is `"none"`; only true rows of a `label` column,
            and `chosen` answers. May be streamed: as many rows are read as the run deals, each once.
        eval_dataset (a set as above, or a `dict` of sets, *optional*):
            What `eval_strategy` and `evaluate()` score: sets by name, such as held-out
            `{"forget": ..., "retain": ...}`. By default the forget rows and as many retain rows of the training.
        compute_metrics (`Callable`, *optional*):
            Further scores, as in [`~transformers.Trainer`]: given an [`~transformers.EvalPrediction`] with logits
            `[rows, time, vocabulary]` and labels `[rows, time]` (-100 where there is none).
        preprocess_logits_for_metrics (`Callable`, *optional*):
            Makes less of each batch's logits before they are kept for `compute_metrics`.
        ref_model (`str` or [`~transformers.PreTrainedModel`], *optional*):
            The reference, if it is not `model` at the start.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer. Loaded from where the model came from by default; needed for a model that was built from a
            configuration.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains adapters of this kind on the frozen model. The model without them is the reference.
        text_format ([`TextFormat`], *optional*):
            How prompt and answer become one text.
        callbacks (list of [`~transformers.TrainerCallback`], *optional*):
            Further callbacks.
        optimizers (`tuple`, *optional*):
            Optimizer and scheduler, made from `args` if they are `None`.
        train_dataset (`None`):
            Refused, with what to give instead: other trainers have it.

    Raises:
        RequestError: If model, data or settings cannot be used together.
    """

    # The loss is divided by what the whole accumulation window counts, not by the number of its micro-batches.
    loss_is_scaled_for_ga = True

    args: UnlearnConfig
    model: Any
    objective: Objective
    train_dataset: PairedRows
    processing_class: PreTrainedTokenizerBase
    _signature_columns: Any

    def __init__(
        self,
        model: Any,
        args: UnlearnConfig | None = None,
        forget_dataset: RowsGiven | None = None,
        retain_dataset: RowsGiven | None = None,
        ref_model: str | PreTrainedModel | nn.Module | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        text_format: TextFormat | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        eval_dataset: RowsGiven | Mapping[str, RowsGiven] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Any] | None = None,
        train_dataset: None = None,
    ) -> None:
        if train_dataset is not None:
            raise RequestError(
                "train_dataset: unlearning takes two sets: give what is to be forgotten as forget_dataset= and what "
                "is to be kept as retain_dataset="
            )
        args = UnlearnConfig() if args is None else args
        check_devices(args)
        warn_of_slow_bf16(args)
        forget_loss, retain_loss = args.build_forget_loss(), args.build_retain_loss()
        self.parts = args.build_parts()
        self._forget_losses = [forget_loss, *(loss for part in self.parts for loss in part.further_forget_losses())]

        set_seed(args.seed)
        forget = read_rows(forget_dataset, "forget")
        retain = read_retain(retain_dataset, args, len(forget), self.parts)
        if args.control is None:  # one that hides may first have to learn what it hides
            check_apart(forget, retain)
        alternates = RunAlternates(args, forget, retain)
        model = plain_source(model, "model")
        ref_model = None if ref_model is None else plain_source(ref_model, "ref_model")
        loading = args.loading_settings()
        for given, name in ((model, "model"), (ref_model, "ref_model")):
            check_source(given, name, loading)
        refuse_idle_loading(args.model_init_kwargs, model, ref_model)
        check_same_vocabulary(model, ref_model)
        if processing_class is None:
            processing_class = tokenizer_of(model, args.trust_remote_code)
        peft_config = only_adapters(peft_config, args)
        check_trainable(model, peft_config, loading)
        if isinstance(model, str):
            check_adapters(model, peft_config)
        model = load_causal_lm(model, loading)
        check_layers(model, [*self._forget_losses, retain_loss])
        self._ref_model = None if ref_model is None else load_causal_lm(ref_model, loading)
        self._adapters_are_new = peft_config is not None
        model = made_ready(model, args, peft_config)
        self._use_cache_when_saved = getattr(model.config, "use_cache", True)

        text_format = TextFormat() if text_format is None else text_format
        text_format = settle_end(text_format, model, processing_class, forget, retain, args)
        self.text_format = text_format
        others = alternates.encoded(model, processing_class, text_format)
        rows = pair_rows(forget, retain, others, processing_class, text_format, args, self.parts)
        refuse_unreadable(model, rows, forget)
        self.forget_rows = rows.forget
        self.pad_token_id = padding_id(processing_class, model)
        rows = arranged(self.parts, rows, args)
        self.sets = sets = ScoredSets(model, processing_class, text_format, args)
        self.own_rows = lambda: sets.trained_on(forget, retain)
        scored = None if eval_dataset is None else sets.read(eval_dataset)
        if scored is None and args.eval_strategy != "no":
            scored = self.own_rows()

        super().__init__(
            model=model,
            args=args,
            data_collator=PairedCollator(self.pad_token_id),
            train_dataset=rows,
            eval_dataset=scored,
            compute_metrics=of_logits(compute_metrics),
            preprocess_logits_for_metrics=before_gathering(preprocess_logits_for_metrics),
            processing_class=processing_class,
            callbacks=[*(callbacks or []), RunEvents(self)],
            optimizers=optimizers,
        )
        # Before transformers 5.19 this is what says that the loss is scaled already, see `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs = True
        self.references = RunReferences(rows, self.rows_in_order, args.reference)
        self.objective = Objective(
            config=args,
            forget_loss=forget_loss,
            retain_loss=retain_loss,
            parts=self.parts,
            rows=rows,
            references=self.references,
            pad_token_id=self.pad_token_id,
            accelerator=self.accelerator,
            model=lambda: self.accelerator.unwrap_model(self.model),
            wrapped=lambda: self.model_wrapped,
            steps_taken=lambda: self.state.global_step,
        )
        self._passes = TermPasses(self.objective, self.compute_loss_context_manager)
        self.resumed_from: Path | None = None
        self._is_prepared = False
        self._before = LabelSums(0.0, 0.0)
        self.fall: LabelFall | None = None
        # Sizes are tried here, before the first step, and not by the parent class, after some.
        self._given = (forget, retain)
        self.found_rate: FoundRate | None = None
        check_search(args, self.accelerator, optimizers[0])
        self._finds_batch_size, args.auto_find_batch_size = args.auto_find_batch_size, False
        check_launch(self.args, self.accelerator)
        check_parts(self.parts, self.accelerator, self.args)
        check_steps(args, len(self.train_dataset))
        if args.padding_free and taken_over(self.accelerator):
            kind = self.accelerator.distributed_type.value
            raise RequestError(f"padding_free: not with {kind}, which runs each micro-batch as it is: leave it out")

    # ---- Before the first step ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains; see [`~transformers.Trainer.train`].

        The model has to hold its original weights, also when a run is resumed: reference values are computed and
        parts prepared first, then the checkpoint is loaded.

        Raises:
            RequestError: If a loss or gradient is not finite, of which no step is made; checkpoints stay as they are.
                If training makes no step at all.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        self.resumed_from = chosen_checkpoint(resume_from_checkpoint, self.args.output_dir)
        with row_by_row(self.objective.model()) if self.args.padding_free else nullcontext():
            return self._train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _train(self, resume_from_checkpoint: str | bool | None, trial: Any, ignore_keys_for_eval: Any) -> TrainOutput:
        if not self._is_prepared:
            if self.resumed_from is not None:
                check_optimizer_saved(self.resumed_from)
            if self.resumed_from is not None and self._ref_model is None:
                check_reference(self.model, self.resumed_from)
            with placed(self.model, self.args.device):
                self._prepare_run(resuming=bool(resume_from_checkpoint))
                if self._finds_batch_size:
                    fit_batch_size(self.args, self.accelerator, self._fits)
                    self._train_batch_size = self.args.per_device_train_batch_size
                if self.args.auto_find_learning_rate:
                    self._find_rate()
            self._is_prepared = True
        if self.args.max_steps == 0:
            output = TrainOutput(0, 0.0, {})
        else:
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            if not self.state.global_step:
                raise RequestError("training made no step, so the model is still the target: nothing was unlearned")
        for part in self.parts:
            part.finish(self.training_context(resuming=False))
        if self._lowers_answers:
            self.fall = self._fall()
        self.model.zero_grad(set_to_none=True)
        return output

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The parent class takes names in files for names of modules, and only warns of what it does not find."""
        whole = self.model if model is None else model
        if taken_over(self.accelerator) or not load_checkpoint(whole, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What the parent class loads itself has to be whole too."""
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = set(load_result.missing_keys) - ignored
        refuse_other_weights(str(self.resumed_from), missing, load_result.unexpected_keys, ())

    @property
    def _lowers_answers(self) -> bool:
        """Whether a forget loss looks at the vocabulary. Losses on hidden states never run the whole model."""
        return any(loss.uses_logits for loss in self._forget_losses)

    def _fall(self) -> LabelFall:
        rows = rows_looked_at(self.forget_rows)
        with torch.no_grad():
            after = label_sums(rows, self.rows_in_order(rows), self.objective.label_forward)
        return fell_by(self._before, after, len(rows))

    def _prepare_run(self, resuming: bool) -> None:
        other = None if self._ref_model is None else self._ref_model.to(self.args.device)
        target = target_model(self.model, self.accelerator, other=other, new_adapters=self._adapters_are_new)
        retain_loss = self.objective.retain_loss
        losses = [*self._forget_losses, retain_loss]
        choose_trained(self.model, self.args.trained_parameters, losses, self._adapters_are_new)
        if self._lowers_answers:
            looked_at = rows_looked_at(self.forget_rows)
            self._before = label_sums(looked_at, self.rows_in_order(looked_at), target.forward)
        if self.args.padding_free:
            few = [*self.forget_rows[:2], self.forget_rows[0]]
            self.objective.check_packed(pad_rows(few, range(len(few)), self.pad_token_id))
        # Parts may ask for the forget loss, so what it compares with comes first.
        self.references.take_forget(target, self._forget_losses)
        context = self.training_context(resuming)
        for part in self.parts:
            part.prepare(context)
            self.train_dataset.forget = list(part.relabel(self.train_dataset.forget))
        if not trained_parameters(self.model):
            raise RequestError("nothing is left to train: every parameter is frozen")
        # After the parts, because the output head is copied only if it is trained.
        self.references.take_retain(target, retain_loss, self.parts)
        if any(part.uses_kl for part in self.parts):
            self.references.take_target(target, retain_loss)
        self._ref_model = None

    def _fits(self, size: int) -> bool:
        """Whether memory is enough for a forward and a backward pass of this many forget rows."""

        def loss() -> Tensor:
            batch: Any = self._prepare_inputs(longest_batch(self.train_dataset, self.data_collator, size))
            self.model.train()
            with self.compute_loss_context_manager():
                found = self.compute_loss(self.model, batch)
            assert isinstance(found, Tensor)
            return found

        try:
            return fits_in_memory(self.model, loss)
        finally:
            self.objective.clear_means()

    def _find_rate(self) -> None:
        folder = Path(str(self.args.output_dir))
        found = None if self.resumed_from is None else read_found(folder)
        if found is None:
            found = find_rate(self._try_rate)
            if self.args.should_save:
                found.write(folder)
            set_seed(self.args.seed)  # what is drawn from now on does not depend on how many rates were tried
        self.found_rate = found
        self.args.learning_rate = found.rate

    def _try_rate(self, rate: float) -> Tried:
        """One round of the part that makes rounds, by a trainer of its own on the same model, which is put back."""
        number = next(number for number, part in enumerate(self.parts) if part.makes_rounds)
        with tempfile.TemporaryDirectory() as folder:
            args = trial_settings(self.args, number, self.parts[number].one_round(), rate, folder)
            trainer = UnlearnTrainer(
                self.model, args, *self._given, processing_class=self.processing_class, text_format=self.text_format
            )
            trainer._adapters_are_new = self._adapters_are_new  # what a loss would train without them stays frozen
            trainer.remove_callback(PrinterCallback)  # without a bar it prints the summary of every trial
            with put_back(self.model):
                before = self._retain_logp()
                trainer.train()
                after = self._retain_logp()
        rehearsed = sum(part.outcome().get("floating_point_ops", 0) for part in trainer.parts)
        return Tried(math.exp(min(0.0, after - before)), int(trainer.state.total_flos + rehearsed))

    def _retain_logp(self) -> float:
        """Mean log-probability of the labels of some retain rows."""
        rows = self.rows_in_order(spread(self.train_dataset.retain, MOST_ROWS))
        return mean_logp((self.objective.placed(batch) for batch in rows), self.objective.score)

    def rows_in_order(self, rows: Sequence[EncodedRow]) -> Iterator[PaddedRows]:
        """Goes once over rows in micro-batches."""
        return in_batches(rows, self.args.per_device_train_batch_size, self.objective.pad_token_id)

    def training_context(self, resuming: bool) -> TrainingContext:
        """What parts are given before the first step, and after the last one.

        Args:
            resuming: Whether the run goes on from a checkpoint.
        """
        args, rows, objective = self.args, self.train_dataset, self.objective
        return TrainingContext(
            model=objective.model(),
            forget_loss=objective.forget_loss,
            forget_loss_summands=lambda: objective.over_whole_set("forget"),
            retain_loss_summands=lambda: objective.over_whole_set("retain"),
            forget_rows=self.forget_rows,
            retain_rows=rows.retain,
            batch_size=args.per_device_train_batch_size,
            rows_per_step=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            pad_token_id=self.objective.pad_token_id,
            max_steps=steps_of_run(args, len(rows)),
            output_dir=Path(str(args.output_dir)),
            resuming=resuming,
            writes=args.should_save,
            batches=lambda chosen: (objective.placed(batch) for batch in self.rows_in_order(chosen)),
            score=objective.score,
            retain_kl=lambda: mean_kl(self.references["target"], self.rows_in_order(rows.retain), objective.score),
            floating_point_ops=self.operations_of,
            trained_weights=self.trained_weights,
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: PreTrainedModel | None = None) -> tuple[Any, Any]:
        """The optimizer's class and its settings: also of the one that transformers does not have."""
        if args.optim == SIGN_SGD:
            return SignSGD, {"lr": args.learning_rate}
        return ScoringTrainer.get_optimizer_cls_and_kwargs(args, model)

    def trained_weights(self) -> TrainedWeights:
        """What is trained, as this process holds it once training has begun."""
        kind = self.accelerator.distributed_type
        if kind is DistributedType.DEEPSPEED:
            return ZeroWeights(self.model_wrapped)
        model = self.objective.model()
        return ShardedWeights(model) if kind is DistributedType.FSDP else TrainedWeights(model)

    # ---- Each step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The micro-batches of one step, and what each loss counts in all of them, on all processes: ``[2]``."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.objective.begin_step(batches, device)

    def step_context(self) -> StepContext:
        """What parts are given before a step."""
        optimizer: Any = self.optimizer
        return StepContext(
            step=self.state.global_step,
            model=self.objective.model(),
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            term_gradients=self._term_gradients,
            measure=self._measure_step,
            set_reference=self._refer_to_now,
        )

    def take_drawn_rows(self) -> None:
        """The step's forget rows are those that a part draws, if one does."""
        # The training loop holds the same dictionaries: they are changed in place.
        batches: Any = self.objective.batches
        args = self.args
        count = len(batches) * args.per_device_train_batch_size * args.world_size
        numbers = drawn_rows(self.parts, self.state.global_step, count)
        if numbers is not None:
            take_drawn(batches, numbers, self.train_dataset, PairedCollator(self.objective.pad_token_id))
            self.objective.begin_step(batches, args.device)

    def _term_gradients(self, term: TermName) -> Gradients:
        return self._passes.gradients(term, self._batches_of_step(), self.objective.counts)

    def _measure_step(self, terms: Sequence[TermName] | None = None, measured: bool = False) -> StepValue:
        return self._passes.measure(self._batches_of_step(), self.objective.counts, terms, measured)

    def _batches_of_step(self) -> Any:
        return (self._prepare_inputs(dict(batch)) for batch in self.objective.batches)

    def _refer_to_now(self) -> None:
        now = TargetModel(self.objective.model(), (self.accelerator.autocast,), changes=True)
        self.references.take_retain(now, self.objective.retain_loss, self.parts)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of one micro-batch: of both terms at once, unless a part needs them apart.

        What is too large for one pass is run in slices of rows of similar length.

        Returns:
            What the micro-batch adds to the objective, detached, a scalar.
        """
        if num_items_in_batch is not None:
            # The loop counted before parts had drawn their rows.
            num_items_in_batch = self.objective.counts
        if self._passes.needed:
            model.train()
            prepared: dict[str, Any] = self._prepare_inputs(inputs)
            return self._passes.run(prepared, self.objective.counts)
        if not self.objective.active(inputs):
            return torch.zeros((), device=self.args.device)  # a part has made this step by itself
        slices = [inputs]
        if num_items_in_batch is not None and not taken_over(self.accelerator):
            most = tokens_of_a_pass(self.args.pass_tokens, self.args.device)
            cut = cut_by_tokens if self.args.padding_free else cut_by_length
            slices = cut(self.objective.splits_that_count(inputs), most)
        losses = []
        with self.objective.in_slices(inputs):
            for number, one in enumerate(slices, start=1):
                # Gradients of several processes are averaged once, with the last slice.
                averages = number == len(slices) or self.accelerator.num_processes == 1
                with nullcontext() if averages else self.accelerator.no_sync(model):
                    losses.append(super().training_step(model, one, num_items_in_batch))
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, LabelForward]]:
        """What this micro-batch adds to the weighted objective.

        Args:
            model: The model, possibly wrapped.
            inputs: ``forget`` and, with a retain loss, ``retain`` rows.
            return_outputs: Whether to return the forward passes too.
            num_items_in_batch: ``[2]``, what forget and retain loss count over the whole step. By default what they
                count in this micro-batch.

        Raises:
            RequestError: If the loss is not finite.
        """
        if num_items_in_batch is None:
            counts, scale = self.objective.count([inputs], inputs["forget"]["labels"].device), 1
        else:
            # Gradients are averaged over processes afterwards, while each adds its own to the whole.
            counts, scale = torch.as_tensor(num_items_in_batch), self.accelerator.num_processes
        total, terms = self.objective.contribution(model, inputs, counts)
        loss = scale * total
        return (loss, {term.name: term.forward for term in terms}) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Last check before the optimizer steps: gradients can overflow when the loss does not."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16:  # with fp16 the loss scaler skips such steps itself
            self.objective.check_finite(norm, "gradient norm")
        return norm

    def step_result(self) -> StepResult:
        """What parts are given after a step."""
        return StepResult(self.state.global_step + 1, self.objective.model(), self.objective.means_of_step)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of the rows that a micro-batch puts through forward and backward in this step."""
        seen = self.objective.splits_that_count(inputs)
        if not self.objective.losses["forget"].uses_labels:
            seen = {split: rows for split, rows in seen.items() if split != "forget"}
        return sum(self.operations_of(rows) for rows in seen.values())

    def operations_of(self, rows: PaddedRows) -> int:
        """Floating-point operations of one forward and backward pass of some rows."""
        sharded = count_in_pieces(self.model)
        return 6 * rows["input_ids"].numel() * sharded if sharded else super().floating_point_ops(dict(rows))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log, unless it is scores that are logged."""
        if not self.is_evaluating:
            logs.update(self.objective.means_since_log())
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedPairs(self.train_dataset, self._train_batch_size, seed)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["forget", "forget_row", "alternate", "alternate_row", "retain", "retain_rows"]

    # ---- What is saved ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The list of files comes last; only then are older checkpoints deleted, under another name."""
        folder = Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            save_parts(self.parts, folder)
        save_shards(self.parts, folder)
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the parent class deletes file by file
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        wait_for_everyone()
        if self.args.should_save:
            seal_checkpoint(folder)
            remove_old_checkpoints(folder.parent, limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves weights, configuration and tokenizer, without the pickled arguments the parent class adds."""
        check_weights(self.model, self.state.global_step, self.args)
        while_training = self.model.config.use_cache
        self.model.config.use_cache = self._use_cache_when_saved
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.config.use_cache = while_training
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self.write_adapter_card(folder)

    def save_merged(self, output_dir: str, dtype: str | None = None) -> None:
        """Saves a plain model, as [`~transformers.Trainer.save_model`] does, with new adapters merged into it.

        Every process has to call this; the one that writes files writes it.

        Args:
            output_dir: Where to.
            dtype: Precision to save in, such as `"bfloat16"`; by default that of the trained weights. The model in
                memory is merged and cast, so this is the end of its training.

        Raises:
            RequestError: There is no such precision, or the base of the adapters cannot be read again.
        """
        kind = None if dtype is None else torch_dtype(dtype)
        sharded, base = in_pieces(self.accelerator), self.accelerator.unwrap_model(self.model)
        if self._adapters_are_new and (sharded or is_quantized(base)):
            # Adapters cannot be merged into such a base in place.
            adapters = Path(str(self.args.output_dir)) / ADAPTERS_FOLDER
            self.save_model(str(adapters))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                merge_saved(adapters, base.config._name_or_path, Path(output_dir), dtype, self.args.trust_remote_code)
                self.processing_class.save_pretrained(output_dir)
            self.accelerator.wait_for_everyone()
        elif sharded:
            whole = self.accelerator.get_state_dict(self.model_wrapped)
            save_gathered(whole, Path(output_dir), dtype, self._save, writes=self.args.should_save)
            self.accelerator.wait_for_everyone()
        else:
            if self._adapters_are_new:
                self.model = self.model_wrapped = merged(base)
            if kind is not None:
                self.model.to(kind)
            if self._adapters_are_new and self.is_deepspeed_enabled:
                self._save(output_dir)  # the engine that save_model uses is gone with the adapters
            else:
                self.save_model(output_dir)


class RunEvents(TrainerCallback):
    """Deals new retain rows each epoch, lets parts act around each step, and records the last step's means."""

    def __init__(self, trainer: UnlearnTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore what parts keep besides the weights of a checkpoint."""
        if self._trainer.resumed_from is not None:
            load_parts(self._trainer.parts, self._trainer.resumed_from)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A data loader tells its data set about a new epoch only if a single process reads it."""
        self._trainer.train_dataset.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reset the step's means, and let parts change weights and optimizer."""
        self._trainer.objective.clear_step_means()
        for part in self._trainer.parts:
            part.before_step(self._trainer.step_context())
        self._trainer.take_drawn_rows()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights have just changed."""
        for part in self._trainer.parts:
            part.after_step(self._trainer.step_result())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A part may end the run. The last step's means are kept with its checkpoint, for a run resumed from it."""
        if any(part.ended(state.global_step) for part in self._trainer.parts):
            control.should_training_stop = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            means = self._trainer.objective.means_of_step()
            state.log_history.append({"step": state.global_step, **{FINAL_STEP + key: means[key] for key in means}})
