"""The trainer: two loss terms, a reference, and the parts that take part in the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..data.encoding import EncodedRow, TextFormat, load_tokenizer
from ..data.example import Example
from ..data.pairing import PaddedRows, PairedCollator, PairedRows
from ..errors import RequestError
from ..losses.base import Loss
from ..models.adapters import check_adapters
from ..models.sharding import placed, taken_over
from ..robust.weights import trained_parameters
from .alternates import RunAlternates
from .batch_size import fit_batch_size
from .callback import RunCallback
from .checkpoints import chosen_checkpoint
from .config import UnlearnConfig
from .dataset import pair_rows, read_rows, settle_end
from .finite import check_weights
from .forward import LabelForward
from .hub import HubTrainer
from .label_fall import LabelFall, LabelSums, fell_by, label_sums, rows_looked_at
from .launch import check_devices, check_launch
from .metrics import RunningMeans
from .microbatch import LengthGroupedPairs, cut_by_length, of_terms, pass_in_turn, tokens_of_a_pass
from .model_setup import check_layers, check_same_vocabulary, choose_trained, load_causal_lm, made_ready
from .moments import training_context
from .parts import arranged, load_parts, loss_of_step, save_parts, steps_of_run
from .reference import in_batches
from .references import RunReferences, target_model
from .saving import save_merged
from .shares import make_terms, record, refuse_not_finite, step_objective, weighted_sum
from .term_gradients import SeparatePasses, check_parts, needs_separate_passes

if TYPE_CHECKING:
    import datasets
    from peft import PeftConfig


class UnlearnTrainer(HubTrainer):
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
    KL retain loss, `kl/retain`.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The target model: an id or folder, loaded in float32 unless `args.model_init_kwargs` says otherwise, or a
            model. It is changed in place, and is the reference as it stands when training starts.
        args ([`UnlearnConfig`], *optional*):
            Settings. Defaults to `UnlearnConfig()`.
        forget_dataset ([`~datasets.Dataset`] or `Sequence[Example]`):
            What has to go. With a boolean `label` column (unpaired preference) only the false rows are taken.
        retain_dataset ([`~datasets.Dataset`] or `Sequence[Example]`, *optional*):
            What has to stay. Needed unless `args.retain_loss_type` is `"none"`; only true rows of a `label` column.
        ref_model (`str` or [`~transformers.PreTrainedModel`], *optional*):
            The reference, where it is another model than `model` at the start.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer. Loaded from where the model came from by default.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains adapters of this kind on the frozen model. The model without them is the reference.
        text_format ([`TextFormat`], *optional*):
            How prompt and answer become one text.
        callbacks (list of [`~transformers.TrainerCallback`], *optional*):
            Further callbacks.
        optimizers (`tuple`, *optional*):
            Optimizer and scheduler, made from `args` where they are `None`.

    Raises:
        RequestError: If model, data or settings cannot be used together.
    """

    # The loss is divided by what the whole accumulation window counts, not by the number of its micro-batches.
    loss_is_scaled_for_ga = True

    args: UnlearnConfig
    model: Any
    train_dataset: PairedRows
    processing_class: PreTrainedTokenizerBase
    _signature_columns: Any

    def __init__(
        self,
        model: Any,
        args: UnlearnConfig | None,
        forget_dataset: datasets.Dataset | Sequence[Example],
        retain_dataset: datasets.Dataset | Sequence[Example] | None = None,
        ref_model: str | PreTrainedModel | nn.Module | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        text_format: TextFormat | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        args = UnlearnConfig() if args is None else args
        check_devices(args)
        self._forget_loss = args.build_forget_loss()
        self.retain_loss = args.build_retain_loss()
        self.parts = args.build_parts()

        set_seed(args.seed)
        forget_dataset = read_rows(forget_dataset, "forget")
        alternates = RunAlternates(args, forget_dataset, retain_dataset)
        check_same_vocabulary(model, ref_model)
        if processing_class is None:
            processing_class = load_tokenizer(model if isinstance(model, str) else model.config._name_or_path)
        peft_config = args.build_peft_config() if peft_config is None else peft_config
        if isinstance(model, str):
            check_adapters(model, peft_config)
        model = load_causal_lm(model, args.model_init_kwargs)
        check_layers(model, [*self.forget_losses, self.retain_loss])
        self._ref_model = None if ref_model is None else load_causal_lm(ref_model, args.model_init_kwargs)
        self._adapters_are_new = peft_config is not None
        model = made_ready(model, args, peft_config)
        self._use_cache_when_saved = getattr(model.config, "use_cache", True)

        text_format = TextFormat() if text_format is None else text_format
        text_format = settle_end(text_format, model, processing_class, forget_dataset, retain_dataset, args)
        self.text_format = text_format
        others = alternates.encoded(model, processing_class, text_format)
        rows = pair_rows(forget_dataset, retain_dataset, others, processing_class, text_format, args, self.parts)
        self.forget_rows = rows.forget
        rows = arranged(self.parts, rows, args)

        super().__init__(
            model=model,
            args=args,
            data_collator=PairedCollator(processing_class.pad_token_id),
            train_dataset=rows,
            processing_class=processing_class,
            callbacks=[*(callbacks or []), RunCallback(self)],
            optimizers=optimizers,
        )
        # Before transformers 5.19 this is what says that the loss is scaled already, see `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs = True
        self.logged_means = RunningMeans()
        self.step_means = RunningMeans()
        self.references = RunReferences(rows, self.rows_in_order, args.reference)
        self.step_batches: list[dict[str, PaddedRows]] = []
        self.step_counts = torch.zeros(2, dtype=torch.int64)
        self._passes = SeparatePasses(self) if any(needs_separate_passes(part) for part in self.parts) else None
        self._resumed_from: Path | None = None
        self._is_prepared = False
        self._before = LabelSums(0.0, 0.0)
        self.fall: LabelFall | None = None
        self.micro_rows = 0
        # Sizes are tried here, before the first step, and not by the parent class, after some.
        self.find_batch_size, args.auto_find_batch_size = args.auto_find_batch_size, False
        check_launch(self.args, self.accelerator)
        check_parts(self.parts, self.accelerator, self.args)

    @property
    def forget_losses(self) -> list[Loss]:
        """Every forget loss that some step of the run may have."""
        return [self._forget_loss, *(loss for part in self.parts for loss in part.further_forget_losses())]

    @property
    def forget_loss(self) -> Loss:
        """The forget loss of the step that comes next."""
        steps = steps_of_run(self.args, len(self.train_dataset))
        return loss_of_step(self.parts, self._forget_loss, self.state.global_step, steps)

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
            RequestError: If a loss or gradient is not finite. No step is made with it; checkpoints stay as they are.
        """
        self._resumed_from = chosen_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if not self._is_prepared:
            with placed(self.model, self.args.device):
                self._prepare_run(resuming=bool(resume_from_checkpoint))
                if self.find_batch_size:
                    fit_batch_size(self)
            self._is_prepared = True
        if self.args.max_steps == 0:
            output = TrainOutput(0, 0.0, {})
        else:
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        for part in self.parts:
            part.finish(training_context(self, resuming=False))
        self.fall = fell_by(self, self._before)
        self.model.zero_grad(set_to_none=True)
        return output

    def load_parts(self) -> None:
        """Gives every part what it kept in the checkpoint that the run goes on from."""
        if self._resumed_from is not None:
            load_parts(self.parts, self._resumed_from)

    def _prepare_run(self, resuming: bool) -> None:
        other = None if self._ref_model is None else self._ref_model.to(self.args.device)
        target = target_model(self.model, self.accelerator, other=other, new_adapters=self._adapters_are_new)
        losses = [*self.forget_losses, self.retain_loss]
        choose_trained(self.model, self.args.trained_parameters, losses, self._adapters_are_new)
        looked_at = rows_looked_at(self.forget_rows)
        self._before = label_sums(looked_at, self.rows_in_order(looked_at), target.forward)
        # Parts may ask for the forget loss, so what it compares with comes first.
        self.references.take_forget(target, self.forget_losses)
        context = training_context(self, resuming)
        for part in self.parts:
            part.prepare(context)
            self.train_dataset.forget = list(part.relabel(self.train_dataset.forget))
        if not trained_parameters(self.model):
            raise RequestError("nothing is left to train: every parameter is frozen")
        # After the parts, because the output head is copied only if it is trained.
        self.references.take_retain(target, self.retain_loss, self.parts)
        if any(part.uses_kl for part in self.parts):
            self.references.take_target(target, self.retain_loss)
        self._ref_model = None

    def rows_in_order(self, rows: Sequence[EncodedRow]) -> Iterator[PaddedRows]:
        """Goes once over rows in micro-batches."""
        return in_batches(rows, self.args.per_device_train_batch_size, self.processing_class.pad_token_id)

    # ---- Each step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The micro-batches of one step, and what each loss counts in all of them, on all processes: ``[2]``."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = self.accelerator.reduce(step_objective(self).counts(batches, device), reduction="sum")
        self.step_batches, self.step_counts = batches, counts
        return batches, counts

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of one micro-batch: of both terms at once, unless a part needs them apart."""
        if self._passes is not None:
            model.train()
            counts = self.step_counts if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
            prepared: dict[str, Any] = self._prepare_inputs(inputs)
            return self._passes.run(prepared, counts)
        pieces, objective, one_pass = [inputs], step_objective(self), super().training_step
        if num_items_in_batch is not None and not taken_over(self.accelerator):
            seen = of_terms(inputs, objective.active(inputs))
            pieces = cut_by_length(seen, tokens_of_a_pass(self.args.pass_tokens, self.args.device))
        self.micro_rows = objective.rows(inputs)
        share = pass_in_turn(pieces, self.accelerator, model, lambda piece: one_pass(model, piece, num_items_in_batch))
        self.micro_rows = 0
        return share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, LabelForward]]:
        """This micro-batch's share of the weighted objective.

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
            counts, scale = step_objective(self).counts([inputs], inputs["forget"]["labels"].device), 1
        else:
            # Gradients are averaged over processes afterwards, while each share is already one of the whole.
            counts, scale = torch.as_tensor(num_items_in_batch), self.accelerator.num_processes
        terms = make_terms(self, model, inputs, step_objective(self).active(inputs))
        loss = scale * weighted_sum(self, terms, inputs, counts)
        record(self, terms)
        return (loss, {term.name: term.forward for term in terms}) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Last look before the optimizer steps: gradients can overflow where the loss does not."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16:  # with fp16 the loss scaler skips such steps itself
            refuse_not_finite(self, norm, "gradient norm")
        return norm

    # ---- What is told and kept ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log."""
        logs.update(self.logged_means.means(self.accelerator))
        self.logged_means.clear()
        super().log(logs, start_time)

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
            Path(str(output_dir or self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Parts write first: a checkpoint counts as whole once the trainer's state is there, which comes last."""
        folder = Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            save_parts(self.parts, folder)
        super()._save_checkpoint(model, trial)

    def save_merged(self, output_dir: str, dtype: str | None = None) -> None:
        """Saves a plain model, as [`~transformers.Trainer.save_model`] does, with new adapters merged into it.

        Args:
            output_dir: Where to.
            dtype: Precision to save in, such as `"bfloat16"`; by default that of the trained weights. The model in
                memory is cast, so this is the end of its training.
        """
        save_merged(self, Path(output_dir), dtype, self._adapters_are_new)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of the rows that a micro-batch puts through forward and backward in this step."""
        seen = of_terms(inputs, step_objective(self).active(inputs))
        if not self.forget_loss.uses_labels:
            seen = {part: rows for part, rows in seen.items() if part != "forget"}
        return sum(self.operations_of(rows) for rows in seen.values())

    def operations_of(self, rows: PaddedRows) -> int:
        """Floating-point operations of one forward and backward pass of some rows."""
        return super().floating_point_ops(dict(rows))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedPairs(self.train_dataset, self._train_batch_size, seed)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["forget", "forget_row", "alternate", "alternate_row", "retain", "retain_rows"]
