"""The trainer: two loss terms, a reference, and the parts that take part in the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, get_last_checkpoint

from ..data.encoding import EncodedRow, TextFormat, load_tokenizer
from ..data.example import Example
from ..data.pairing import PaddedRows, PairedCollator, PairedRows, pad_rows
from ..errors import RequestError
from ..losses.base import Loss
from ..losses.retain.kl import KLRetainLoss
from ..robust.base import TERMS, Gradients, StepContext, StepResult, TermName, TrainingContext
from .adapters import add_adapters, check_adapters
from .alternates import RunAlternates
from .batch_search import fit_batch_size
from .callback import RunCallback
from .config import UnlearnConfig
from .forward import LabelForward
from .grouping import LengthGroupedPairs
from .launch import check_launch, in_pieces, placed
from .length import steps_of_run
from .measures import epochs_of_run, label_scores, retain_kl
from .metrics import RunningMeans
from .models import disable_dropout, load_causal_lm
from .passes import SeparatePasses, check_parts, needs_separate_passes, term_gradients
from .pieces import cut_by_length, tokens_of_a_pass
from .pushing import HubTrainer
from .reference import Reference, TargetModel, evaluating, in_batches, make_reference, on_device
from .router import router_coefficient, router_share
from .rows import pair_rows, read_rows
from .saving import save_merged
from .stepping import check_stepping, round_model
from .terms import TERM_OF, Term, TermMaker
from .trained import check_layers, choose_trained
from .view_reference import reference_under
from .vocabulary import check_same_vocabulary

if TYPE_CHECKING:
    import datasets
    from peft import PeftConfig

logger = logging.getLogger(__name__)

SHOWN_ROWS = 5
"""Rows of a set that a message names."""

PARTS_FOLDER = "parts"
"""In a checkpoint: what parts keep beside the weights."""


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
        if args.n_gpu > 1:
            raise RequestError(
                "one process sees several GPUs: start one process per GPU with `accelerate launch`, or let it see one"
                " with CUDA_VISIBLE_DEVICES"
            )
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
        if peft_config is not None:
            model = add_adapters(model, peft_config)
        self._adapters_are_new = peft_config is not None
        if args.disable_dropout:
            disable_dropout(model)
        check_stepping(args.stepping, model, args.deepspeed)
        if args.stepping != "fp32":
            round_model(model)
        if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in _trainable(model)):
            logger.warning("the trained weights are stored in 16 bits: steps much smaller than a weight are lost")
        self._use_cache_when_saved = getattr(model.config, "use_cache", True)

        text_format = TextFormat() if text_format is None else text_format
        others = alternates.encoded(model, processing_class, text_format)
        rows = pair_rows(forget_dataset, retain_dataset, others, processing_class, text_format, args, self.parts)
        self._forget_rows = rows.forget
        for part in self.parts:
            rows = part.arrange(rows, epochs_of_run(args, len(rows.forget)))

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
        self.references: dict[str, Reference] = {}
        self._step_batches: list[dict[str, PaddedRows]] = []
        self._step_counts = torch.zeros(2, dtype=torch.int64)
        self._passes = SeparatePasses(self) if any(needs_separate_passes(part) for part in self.parts) else None
        self._resumed_from: Path | None = None
        self._is_prepared = False
        self._micro_rows = 0
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
        loss, steps = self._forget_loss, steps_of_run(self.args, len(self.train_dataset))
        for part in self.parts:
            loss = part.forget_loss(loss, self.state.global_step, steps)
        return loss

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
        self._resumed_from = self._checkpoint_folder(resume_from_checkpoint)
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
            part.finish(self._training_context(resuming=False))
        self.model.zero_grad(set_to_none=True)
        return output

    def _checkpoint_folder(self, given: str | bool | None) -> Path | None:
        folder = get_last_checkpoint(str(self.args.output_dir)) if given is True else given
        return Path(folder) if folder else None

    def load_parts(self) -> None:
        """Gives every part what it kept in the checkpoint that the run goes on from."""
        if self._resumed_from is not None:
            for part in self.parts:
                part.load_state(self._resumed_from / PARTS_FOLDER)

    def _prepare_run(self, resuming: bool) -> None:
        target = self._target_model()
        data = self.train_dataset
        losses = [*self.forget_losses, self.retain_loss]
        choose_trained(self.model, self.args.trained_parameters, losses, self._adapters_are_new)
        # Parts may ask for the forget loss, so what it compares with comes first.
        if any(loss.needs_reference for loss in losses[:-1]):
            self.references["forget"] = self._reference(target, data.forget, *self.forget_losses)
            if data.alternates and self._forget_loss.uses_alternates:
                self.references["alternate"] = self._reference(target, data.alternates, *self.forget_losses)
        context = self._training_context(resuming)
        for part in self.parts:
            part.prepare(context)
            data.forget = list(part.relabel(data.forget))
        if not list(_trainable(self.model)):
            raise RequestError("nothing is left to train: every parameter is frozen")
        # After the parts, because the output head is copied only if it is trained.
        self._set_retain_reference(target)
        if any(part.uses_kl for part in self.parts):
            known = self.references["retain"] if self.retain_loss.uses_reference_logits else None
            self.references["target"] = known or self._reference(target, data.retain, KLRetainLoss())
        self._ref_model = None

    def _set_retain_reference(self, target: TargetModel) -> None:
        if not self.retain_loss.needs_reference:
            return
        rows = self.train_dataset.retainable
        self.references["retain"] = self._reference(target, rows, self.retain_loss)
        for view in (view for part in self.parts for view in part.reference_views(target.model)):
            self.references[f"retain@{view.name}"] = reference_under(
                view,
                target,
                self.references["retain"],
                lambda seen: self._reference(seen, rows, self.retain_loss),
            )

    def _refer_to_now(self) -> None:
        """See :attr:`~hf_unlearn.robust.base.StepContext.set_reference`."""
        model = self.accelerator.unwrap_model(self.model)
        self._set_retain_reference(TargetModel(model, (self.accelerator.autocast,), changes=True))

    def _reference(self, target: TargetModel, rows: Sequence[EncodedRow], *losses: Loss) -> Reference:
        return make_reference(target, lambda: self.rows_in_order(rows), losses, self.args.reference)

    def _training_context(self, resuming: bool) -> TrainingContext:
        return TrainingContext(
            model=self.accelerator.unwrap_model(self.model),
            forget_loss_shares=lambda: self._loss_shares("forget"),
            retain_loss_shares=lambda: self._loss_shares("retain"),
            forget_rows=self._forget_rows,
            retain_rows=self.train_dataset.retain,
            batch_size=self.args.per_device_train_batch_size,
            pad_token_id=self.processing_class.pad_token_id,
            max_steps=steps_of_run(self.args, len(self.train_dataset)),
            output_dir=Path(str(self.args.output_dir)),
            resuming=resuming,
            writes=self.args.should_save,
            batches=lambda rows: (on_device(batch, self.model) for batch in self.rows_in_order(rows)),
            score=lambda batch: label_scores(self, batch),
            retain_kl=lambda: retain_kl(self, self.references["target"]),
        )

    def _target_model(self) -> TargetModel:
        autocast, pieces = self.accelerator.autocast, in_pieces(self.accelerator)
        if self._ref_model is not None:
            return TargetModel(self._ref_model.to(self.args.device).requires_grad_(False), (autocast,), changes=False)
        if self._adapters_are_new:
            return TargetModel(self.model, (autocast, self.model.disable_adapter), changes=False, in_pieces=pieces)
        return TargetModel(self.model, (autocast,), changes=True, in_pieces=pieces)

    def rows_in_order(self, rows: Sequence[EncodedRow]) -> Iterator[PaddedRows]:
        """Goes once over rows in micro-batches."""
        return in_batches(rows, self.args.per_device_train_batch_size, self.processing_class.pad_token_id)

    def _loss_shares(self, term: TermName) -> Iterator[Tensor]:
        batches = list(self._whole_set(term))
        position = TERMS.index(term)
        total = sum(self._counts([batch], self.args.device)[position] for batch in batches)
        for batch in batches:
            with evaluating(self.model), self.accelerator.autocast():
                (made,) = self.make_terms(self.model, batch, (term,))
            yield made.sum.total / total

    def _whole_set(self, term: TermName) -> Iterator[dict[str, PaddedRows]]:
        data, device = self.train_dataset, self.model
        if term == "retain":
            yield from ({"retain": on_device(batch, device)} for batch in self.rows_in_order(data.retain))
            return
        numbers = [data.alternate_row(index) for index in range(len(data.forget))] if data.alternates else []
        size, pad = self.args.per_device_train_batch_size, self.processing_class.pad_token_id
        for start, rows in zip(range(0, len(data.forget), size), self.rows_in_order(data.forget), strict=True):
            batch = {"forget": on_device(rows, device)}
            if numbers:
                drawn = numbers[start : start + size]
                batch["alternate"] = on_device(pad_rows([data.alternates[row] for row in drawn], drawn, pad), device)
            yield batch

    # ---- Each step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The micro-batches of one step, and what each loss counts in all of them, on all processes: ``[2]``."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = self.accelerator.reduce(self._counts(batches, device), reduction="sum")
        self._step_batches, self._step_counts = batches, counts
        return batches, counts

    def _counts(self, batches: Sequence[dict[str, PaddedRows]], device: torch.device) -> Tensor:
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        counted = "forget" if self.forget_loss.uses_labels else "alternate"
        for batch in batches:
            if counted in batch:
                counts[0] += self.forget_loss.count(batch[counted]["labels"].to(device))
            if "retain" in batch:
                counts[1] += self.retain_loss.count(batch["retain"]["labels"].to(device))
        return counts

    def step_context(self) -> StepContext:
        """What parts are given before a step."""
        optimizer: Any = self.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        model = self.accelerator.unwrap_model(self.model)
        return StepContext(self.state.global_step, model, inner, self._term_gradients, self._refer_to_now)

    def step_result(self) -> StepResult:
        """What parts are given after a step."""
        model = self.accelerator.unwrap_model(self.model)
        return StepResult(self.state.global_step + 1, model, lambda: self.step_means.means(self.accelerator))

    def _term_gradients(self, term: TermName) -> Gradients:
        return term_gradients(self, term, self._step_batches, self._step_counts)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of one micro-batch: of both terms at once, unless a part needs them apart."""
        if self._passes is None:
            return self._training_pieces(model, inputs, num_items_in_batch)
        model.train()
        counts = self._step_counts if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        prepared: dict[str, Any] = self._prepare_inputs(inputs)
        return self._passes.run(prepared, counts)

    def _training_pieces(self, model: nn.Module, inputs: dict[str, Any], counts: Tensor | int | None) -> Tensor:
        pieces = [inputs]
        if counts is not None and self.accelerator.distributed_type not in (
            DistributedType.DEEPSPEED,
            DistributedType.FSDP,
        ):
            active = self.active_terms(inputs)
            seen = {part: rows for part, rows in inputs.items() if TERM_OF[part] in active} or inputs
            pieces = cut_by_length(seen, tokens_of_a_pass(self.args.pass_tokens, self.args.device))
        self._micro_rows = _rows_in(inputs, self.active_terms(inputs))
        losses = []
        for number, piece in enumerate(pieces, start=1):
            # Gradients of several processes are averaged once, with the last piece.
            waits = number == len(pieces) or self.accelerator.num_processes == 1
            with nullcontext() if waits else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, piece, counts))
        self._micro_rows = 0
        return torch.stack(losses).sum()

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
            counts, scale = self._counts([inputs], inputs["forget"]["labels"].device), 1
        else:
            # Gradients are averaged over processes afterwards, while each share is already one of the whole.
            counts, scale = torch.as_tensor(num_items_in_batch), self.accelerator.num_processes
        terms = self.make_terms(model, inputs, tuple(self.active_terms(inputs)))
        loss = scale * self.weighted_sum(terms, inputs, counts)
        self.record(terms)
        return (loss, {term.name: term.forward for term in terms}) if return_outputs else loss

    def weighted_sum(self, terms: Sequence[Term], inputs: dict[str, Any], counts: Tensor) -> Tensor:
        """The share of the objective that these terms of a micro-batch make up.

        Args:
            terms: Made from ``inputs``.
            inputs: The micro-batch.
            counts: ``[2]``, what forget and retain loss count over the whole step.

        Raises:
            RequestError: If it is not finite.
        """
        active = self.active_terms(inputs)
        count_of = dict(zip(TERMS, counts.clamp(min=1).to(self.args.device), strict=True))
        weights = {"forget": self.args.forget_weight, "retain": self.args.retain_weight}
        shares = [active[term.name] * weights[term.name] * term.sum.total / count_of[term.name] for term in terms]
        shares += self._router_shares(terms, inputs)
        loss = torch.stack(shares).sum()
        self._check_finite(loss.detach(), "loss")
        return loss

    def _router_shares(self, terms: Sequence[Term], inputs: dict[str, Any]) -> list[Tensor]:
        coefficient = router_coefficient(self.accelerator.unwrap_model(self.model))
        routers = [(term.forward.router, term.forward.n_rows) for term in terms]
        rows = self._micro_rows or _rows_in(inputs, self.active_terms(inputs))
        micro_batches = max(1, len(self._step_batches)) * self.accelerator.num_processes
        share = router_share(routers, rows, coefficient, micro_batches)
        return [] if share is None else [share]

    def active_terms(self, inputs: dict[str, PaddedRows]) -> dict[TermName, float]:
        """Terms that count in this step, with the product of all parts' factors on them."""
        step = self.state.global_step
        factors: dict[TermName, float] = {"forget": 1.0, "retain": 1.0}
        for part in self.parts:
            weights = part.term_weights(step)
            factors["forget"] *= weights.forget
            factors["retain"] *= weights.retain
        return {name: factor for name, factor in factors.items() if factor and name in inputs}

    def make_terms(
        self, model: nn.Module, inputs: dict[str, PaddedRows], names: Sequence[TermName], view: str | None = None
    ) -> list[Term]:
        """Terms of the objective for one micro-batch: see :meth:`TermMaker.make`."""
        return self._term_maker().make(model, inputs, names, view)

    def _term_maker(self) -> TermMaker:
        losses: dict[TermName, Loss] = {"forget": self.forget_loss, "retain": self.retain_loss}
        pad = self.processing_class.pad_token_id
        return TermMaker(losses, self.references, pad, self.accelerator.unwrap_model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Last look before the optimizer steps: gradients can overflow where the loss does not."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16:  # with fp16 the loss scaler skips such steps itself
            self._check_finite(norm, "gradient norm")
        return norm

    def _check_finite(self, value: Any, what: str) -> None:
        if not math.isfinite(value):
            raise RequestError(
                f"the {what} is {float(value)} in step {self.state.global_step + 1}: no step was made with it, "
                f"{self._kept()}; lower learning_rate (now {self.args.learning_rate}) or forget_weight "
                f"(the step's rows: {self._rows_of_step()})"
            )

    def _rows_of_step(self) -> str:
        """Ids of the rows of this process's micro-batches, the first few of each set."""
        lists = {"forget": self.train_dataset.forget, "retain": self.train_dataset.retainable}
        named = []
        for name, rows in lists.items():
            numbers = sorted(
                {row for batch in self._step_batches if name in batch for row in batch[name]["row"].tolist()}
            )
            more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
            if numbers:
                named.append(f"{name} {', '.join(rows[number].id for number in numbers[:SHOWN_ROWS])}{more}")
        return "; ".join(named)

    def _kept(self) -> str:
        steps = [
            int(path.name.rpartition("-")[2]) for path in Path(str(self.args.output_dir)).glob("checkpoint-*[0-9]")
        ]
        if not steps:
            return "and no checkpoint had been due yet"
        return f"and the last good checkpoint is kept in {self.args.output_dir}/checkpoint-{max(steps)}"

    # ---- What is told and kept ----

    @torch.no_grad()
    def record(self, terms: Sequence[Term]) -> None:
        """Adds terms to the means that are logged."""
        for means in (self.logged_means, self.step_means):
            for term in terms:
                means.add(f"loss/{term.name}", term.sum.total, term.sum.count)
                if term.scores.logits is not None:
                    rows = term.name if term.loss.uses_labels else "alternate"
                    means.add(f"logps/{rows}", term.scores.row_logps.sum(), term.scores.row_has_labels.sum())
                if term.loss.metric is not None:
                    means.add(f"{term.loss.metric}/{term.name}", term.sum.total, term.sum.count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log."""
        logs.update(self.logged_means.means(self.accelerator))
        self.logged_means.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves weights, configuration and tokenizer, without the pickled arguments the parent class adds."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in _trainable(self.model)):
            raise RequestError(
                f"weights are not finite after step {self.state.global_step}, so they are not saved; lower"
                f" learning_rate (now {self.args.learning_rate})"
            )
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
        folder = Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", PARTS_FOLDER)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            for part in self.parts:
                part.save_state(folder)
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
        """Of forget and retain rows together."""
        return sum(super(UnlearnTrainer, self).floating_point_ops(part) for part in inputs.values())

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedPairs(self.train_dataset, self._train_batch_size, seed)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["forget", "forget_row", "alternate", "alternate_row", "retain", "retain_rows"]


def _rows_in(inputs: dict[str, PaddedRows], names: Iterable[str]) -> int:
    return sum(len(inputs[name]["labels"]) for name in names)


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
