"""Settings of an unlearning run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from .._compat import HubStrategy
from ..controls import CONTROLS
from ..data.alternates import ALTERNATES
from ..data.encoding import ENDS
from ..errors import RequestError
from ..hub.from_trainer import REFUSED_STRATEGIES
from ..losses import FORGET_LOSSES, RETAIN_LOSSES
from ..models.adapters import build_peft_config
from ..registry import Registry, build, build_part, suggest
from ..robust import ROBUST
from .inherited import loading_settings, refuse_idle_fields
from .launch import asks_for_deepspeed
from .rounded_steps import STEPPINGS, stepping_part
from .sign_sgd import SIGN_SGD
from .values import check_values

if TYPE_CHECKING:
    from peft import PeftConfig

    from ..data.alternates.base import AlternateSource
    from ..losses.base import Loss
    from ..robust.base import TrainingPart


SAMPLINGS = ("random", "sequential", "group_by_length")
"""Orders of the forget rows. Those of the parent class that look at lengths want one sequence an item."""


@dataclass
class UnlearnConfig(TrainingArguments):
    r"""Configuration class for :class:`~hf_unlearn.trainer.unlearn_trainer.UnlearnTrainer`.

    Only what unlearning adds is described here; everything else is a field of
    :class:`~transformers.TrainingArguments`. The objective is

    .. math:: w_f L_{forget}(\theta; D_{forget}) + w_r L_{retain}(\theta; D_{retain})

    with both means taken over all rows (or label tokens) of an optimizer step, so gradient accumulation and the number
    of processes do not change it. An epoch goes once through the forget set.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`dict[str, Any]`, *optional*):
            Keyword arguments for `AutoModelForCausalLM.from_pretrained`, used when the trainer is given a model id or
            folder. Weights are loaded in float32 unless `dtype` says otherwise: in bfloat16, steps much smaller than a
            weight are rounded away. For a faster forward pass set `bf16=True`, which computes in bfloat16 and steps in
            float32.
        peft (`dict[str, Any]`, *optional*):
            Trains adapters on the frozen model: fields of [`~peft.LoraConfig`]. Defaults are `r=32`, `lora_alpha=64`,
            `target_modules="all-linear"`; `use_dora=True` for DoRA; with `quantization_config` in `model_init_kwargs`
            this is QLoRA.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with the model or its tokenizer may run. The card says so if it did. Never in a
            recipe.
        disable_dropout (`bool`, *optional*, defaults to `True`):
            Whether to turn dropout off, so that model and reference are compared without noise.

        > Parameters that control the data preprocessing

        max_length (`int`, *optional*, defaults to `1024`):
            Maximum number of tokens in a row; `None` for as many as the model reads.
        truncation (`str`, *optional*, defaults to `"refuse"`):
            What to do with longer rows: `"refuse"` them with their number and the longest, or `"cut"` their end off.
        completion_only_loss (`bool`, *optional*, defaults to `True`):
            Whether only the answer is trained on. Otherwise the prompts of retain rows are too. Prompts are never
            forgotten by their tokens, which say nothing of the fact; losses on hidden states look at them as well
            then. Rows without a prompt are always trained on as a whole.
        end (`str`, *optional*, defaults to `"auto"`):
            Where the end of an answer is trained on too, in forget rows, retain rows and alternates alike. `"always"`
            appends the end-of-text token to every row, as TRL does to prompt-completion rows; `"chat"` leaves it to
            the chat template, and plain rows without; `"never"` trains on no ends. `"auto"` is `"always"` if the model
            ends its answers before training (the end-of-text token has a mean probability of at least 0.5 after the
            right answers of up to 64 forget and retain rows), and otherwise `"chat"`. It can also be set in a
            `text_format` instead.

        > Parameters that control the training

        loss_type (`str`, *optional*, defaults to `"npo"`):
            Forget loss. Possible values are:

                FORGET_LOSSES
        beta (`float`, *optional*):
            The forget loss's parameter of that name, which is not the same in each; by default the loss's own.
        loss_kwargs (`dict[str, Any]`, *optional*):
            Further parameters of the forget loss, as `hf-unlearn list losses` names them.
        alternates (`str` or `dict`, *optional*):
            Where other answers to the forget prompts come from, for losses that need them: a name such as
            `"refusals"`, or a mapping such as `{"name": "variants", "kind": "perturbed"}`; by default the loss's own.
            Possible names are `"refusals"`, `"fixed-text"`, `"options"`, `"fixed-option"`, `"variants"`,
            `"other-answers"` and `"generated"`. Rows with `chosen` and `rejected` answers bring their own, which are
            taken unless this is set.
        forget_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the forget loss.
        retain_loss_type (`str`, *optional*, defaults to `"kl"`):
            Retain loss. Possible values are:

                RETAIN_LOSSES
        retain_loss_kwargs (`dict[str, Any]`, *optional*):
            Further parameters of the retain loss.
        retain_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the retain loss.
        retain_per_forget (`int`, *optional*, defaults to `1`):
            Number of retain rows for each forget row. `per_device_train_batch_size` counts forget rows only.
        auto_find_learning_rate (`bool`, *optional*, defaults to `False`):
            Whether the learning rate is found before the first step, in place of `learning_rate`: the largest of
            eleven (4e-3 to 4e-6, each half of the one before) after which one round of the part that makes rounds
            (`"auto"`, `"cycles"`) has given the retain set's answers back 0.97 of their probability per token. At most
            four rounds are tried, and taken back. In a recipe, `learning_rate: auto`. Not with several processes.
        robust (`list`, *optional*, defaults to `[]`):
            Parts that make forgetting last: names such as `"sure"`, or mappings such as
            `{"name": "sure", "percentile": 99}`. `"auto"` is the stack that evidence was found for; in a recipe it
            also sets what goes with it (`hf_unlearn.robust.auto.AUTO_SETTINGS`).
        control (`str` or `dict`, *optional*):
            Makes a model that hides instead of forgetting, to test a verification with, such as `"bin_hidden"`.
        trained_parameters (`list[str]`, *optional*):
            Shell-style patterns of names of the parameters that are trained, such as
            `["model.layers.[567].mlp.down_proj.weight"]`, or `["*"]` for all. By default what the losses are made for:
            everything, but with `"rmu"` the MLP's output projections of a few layers.
        reference (`str`, *optional*, defaults to `"cache"`):
            Where the KL term gets the target model's distribution from. `"cache"` keeps the target's last hidden
            states of the retain labels and a copy of its output head, and computes the same distribution from them;
            `"model"` keeps the whole target model in memory.
        pass_tokens (`int`, *optional*):
            Maximum number of tokens in a forward pass, padding included. A larger micro-batch is run in slices of rows
            of similar length, one backward pass each, with the same gradient up to rounding. By default 512 on a CPU
            and 16384 on an accelerator. Not used with FSDP and DeepSpeed, nor if parts need passes of their own.
        padding_free (`bool`, *optional*, defaults to `False`):
            Whether the rows of a pass lie end to end in one sequence in place of being padded, with attention row by
            row: the same gradient up to rounding, in less time on a CPU. `pass_tokens` counts no padding then. For
            models with `sdpa` attention; not with FSDP and DeepSpeed.
        stepping (`str`, *optional*, defaults to `"fp32"`):
            Precision that weights are kept in between steps: `"fp32"`, `"bf16"` (the model and every step are rounded
            to the nearest bfloat16 number, so that small steps are lost), or `"bf16-stochastic"` (rounded up or down
            at random, so that they are kept in the mean).

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]:
    > - `learning_rate`: Defaults to `1e-5` instead of `5e-5`.
    > - `lr_scheduler_type`: Defaults to `"constant"` instead of `"linear"`.
    > - `logging_steps`: Defaults to `10` instead of `500`.
    > - `logging_nan_inf_filter`: Defaults to `False`: a loss that is not finite stops the run.
    > - `save_total_limit`: Defaults to `2` instead of keeping every checkpoint.
    > - `optim`: May also be `"signsgd"`.
    > - `resume_from_checkpoint`: Taken by `train()`, where it is given none.
    > - `hub_private_repo`: Defaults to `True`: what was not verified is not public unless you say so.
    > - `hub_strategy`: Defaults to `"end"` instead of `"every_save"`: a model in training is only half unlearned.
    `"checkpoint"` >   and `"all_checkpoints"`, which upload the optimizer's state, are refused.

    > [!NOTE]
    > Fields of [`~transformers.TrainingArguments`] that would do nothing here are refused where they are set: those
    > about the best checkpoint, `label_smoothing_factor`, `include_num_input_tokens_seen` and a few
    > more (`hf_unlearn.trainer.inherited.REFUSED_FIELDS`).

    Raises:
        RequestError: If a value cannot be used; the message names the field and what it may be.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012 (the parent class reads it as a plain list)
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "peft",
        "loss_kwargs",
        "retain_loss_kwargs",
        "alternates",
        "control",
    ]

    # Defaults that differ from those of TrainingArguments
    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate of the optimizer."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The learning rate schedule to use."})
    logging_steps: float = field(
        default=10,
        metadata={"help": "Log every X update steps; a number below 1 is a share of all steps."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Left off: a loss that is not finite stops the run instead of being hidden."},
    )
    save_total_limit: int | None = field(
        default=2,
        metadata={"help": "Number of checkpoints that are kept. Two survive a kill while one is being written."},
    )

    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Whether a repository that is made on the Hub is private."}
    )
    hub_strategy: HubStrategy | str = field(
        default="end",
        metadata={"help": "When to push: `end` (when the model is saved) or `every_save` (at every checkpoint too)."},
    )

    # Parameters that control the model
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments for `AutoModelForCausalLM.from_pretrained` when the model is a string. "
            "Weights are loaded in float32 unless `dtype` says otherwise."
        },
    )
    peft: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Adapters to train on the frozen model: fields of `peft.LoraConfig`, such as {r: 32}."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code that comes with the model or its tokenizer may run."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Whether to turn dropout off."})

    # Parameters that control the data preprocessing
    max_length: int | None = field(
        default=1024,
        metadata={"help": "Maximum number of tokens in a row; none for as many as the model reads."},
    )
    truncation: str = field(
        default="refuse",
        metadata={"help": "What to do with longer rows.", "choices": ["refuse", "cut"]},
    )
    completion_only_loss: bool = field(
        default=True,
        metadata={
            "help": "Whether only the answer is trained on. Otherwise the prompts of retain rows are too, and hidden "
            "losses look at all prompts. Rows without a prompt are trained on as a whole."
        },
    )
    end: str = field(
        default="auto",
        metadata={
            "help": "Where the end of an answer is trained on too: always, never, in chat rows alone, or (auto) in "
            "chat rows, and in plain ones if the model ends its answers.",
            "choices": list(ENDS),
        },
    )

    # Parameters that control the training
    loss_type: str = field(default="npo", metadata={"help": "Forget loss: see `hf-unlearn list losses`."})
    beta: float | None = field(
        default=None, metadata={"help": "The forget loss's parameter of that name; by default the loss's own."}
    )
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further parameters of the forget loss."}
    )
    alternates: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Where other answers to the forget prompts come from: a name, or a mapping with 'name' and "
            "parameters; by default the loss's own."
        },
    )
    forget_weight: float = field(default=1.0, metadata={"help": "Weight of the forget loss."})
    retain_loss_type: str = field(default="kl", metadata={"help": "Retain loss: see `hf-unlearn list losses`."})
    retain_loss_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further parameters of the retain loss."}
    )
    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain loss."})
    retain_per_forget: int = field(default=1, metadata={"help": "Number of retain rows for each forget row."})
    auto_find_learning_rate: bool = field(
        default=False,
        metadata={
            "help": "Whether the learning rate is found before the first step: the largest after which one round of "
            "`auto` or `cycles` restores the retain set."
        },
    )
    robust: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Parts that make forgetting last: names, or mappings with 'name' and parameters (as JSON on a "
            "command line)."
        },
    )
    control: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Makes a model that hides instead of forgetting: a name, or a mapping as for `robust`."},
    )
    trained_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": "Patterns of names of the parameters that are trained; by default what the losses are made for, "
            "mostly all."
        },
    )
    reference: str = field(
        default="cache",
        metadata={
            "help": "Where the KL term gets the target's distribution from: its cached hidden states, or the whole "
            "model kept in memory.",
            "choices": ["cache", "model"],
        },
    )
    pass_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens in a forward pass, padding included. Larger micro-batches run in slices "
            "of similar length. By default 512 on a CPU and 16384 on an accelerator."
        },
    )
    padding_free: bool = field(
        default=False,
        metadata={
            "help": "Whether rows lie end to end in place of being padded, with attention row by row: the same "
            "gradient up to rounding, in less time on a CPU."
        },
    )
    stepping: str = field(
        default="fp32",
        metadata={
            "help": "Precision that weights are kept in between steps: `fp32`; `bf16`, which loses steps much smaller "
            "than a weight; or `bf16-stochastic`, which keeps them in the mean.",
            "choices": list(STEPPINGS),
        },
    )

    def __post_init__(self) -> None:
        refuse_idle_fields(self)
        check_values(self)
        # Without this several processes on a machine without an accelerator each believe to be alone.
        # (DeepSpeed finds its device itself, and would be left out in silence; see `launch.check_launch`.)
        self.use_cpu = self.use_cpu or not (torch.accelerator.is_available() or asks_for_deepspeed(self.deepspeed))
        own_optimizer, self.optim = self.optim == SIGN_SGD, "sgd" if self.optim == SIGN_SGD else self.optim
        super().__post_init__()  # knows the optimizers of transformers alone
        self.optim = SIGN_SGD if own_optimizer else self.optim
        if isinstance(self.model_init_kwargs, dict):
            self.model_init_kwargs = loading_settings(self.model_init_kwargs)
            # Two ways to say so: what ran is recorded either way.
            self.trust_remote_code = self.trust_remote_code or bool(self.model_init_kwargs.get("trust_remote_code"))
        self.robust = [self.robust] if isinstance(self.robust, str | Mapping) else self.robust  # type: ignore[list-item]
        if not isinstance(self.robust, list | tuple):
            raise RequestError(f"robust is {self.robust!r}, it must be a list, as in [a, b]")
        # Pinning only serves a copy to another device; without one torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        _check_choice("truncation", self.truncation, ["cut", "refuse"])
        _check_choice("end", self.end, list(ENDS))
        _check_choice("reference", self.reference, ["cache", "model"])
        _check_choice("stepping", self.stepping, list(STEPPINGS))
        if self.stepping != "fp32" and self.control is not None:
            raise RequestError("stepping: a control keeps weights in bounds that rounded steps would leave: use fp32")
        _check_choice("train_sampling_strategy", self.train_sampling_strategy, list(SAMPLINGS))
        if getattr(self.hub_strategy, "value", self.hub_strategy) in REFUSED_STRATEGIES:
            raise RequestError(
                f"hub_strategy is {getattr(self.hub_strategy, 'value', self.hub_strategy)!r}, which would publish the "
                "optimizer's state, made from the gradients of what is to be forgotten: use end or every_save"
            )
        # Built here once so that a wrong name or value is found before any model is loaded.
        self.build_peft_config()
        self.build_forget_loss()
        self.build_retain_loss()
        if self.alternates is not None or self.build_forget_loss().default_alternates is not None:
            self.build_alternates()
        _check_patterns(self.trained_parameters)
        parts = self.build_parts()
        if self.retain_loss_type == "none" and any(part.needs_retain for part in parts):
            raise RequestError("robust: one of the parts needs a retain loss; set retain_loss_type to nll or kl")
        if self.auto_find_learning_rate and not any(part.makes_rounds for part in parts):
            raise RequestError(
                "a learning rate is found by trying rounds, which only the robust parts auto and cycles make: set "
                "learning_rate, or use one of them"
            )
        if self.max_steps == 0 and not any(part.acts_at_end for part in parts):
            raise RequestError("max_steps is 0, and no part of the method acts without training: set it to at least 1")
        for part in parts:
            part.check(self)

    def loading_settings(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`.

        Raises:
            RequestError: `model_init_kwargs` is no mapping.
        """
        if isinstance(self.model_init_kwargs, str):
            raise RequestError(f"model_init_kwargs must be a mapping, not {self.model_init_kwargs!r}")
        return {**loading_settings(self.model_init_kwargs or {}), "trust_remote_code": self.trust_remote_code}

    def build_peft_config(self) -> PeftConfig | None:
        """The adapters to train; ``None`` to train the model's own weights."""
        return None if self.peft is None else build_peft_config(self.peft)

    def build_forget_loss(self) -> Loss:
        """The forget loss with its parameters."""
        return build(FORGET_LOSSES, self.loss_type, self._parameters(FORGET_LOSSES, self.loss_type, self.loss_kwargs))

    def build_retain_loss(self) -> Loss:
        """The retain loss with its parameters."""
        parameters = self._parameters(RETAIN_LOSSES, self.retain_loss_type, self.retain_loss_kwargs)
        return build(RETAIN_LOSSES, self.retain_loss_type, parameters)

    def build_alternates(self) -> AlternateSource | None:
        """Where other answers to the forget prompts come from; ``None`` if the forget loss uses none.

        Raises:
            RequestError: The forget loss needs some, and neither it nor the settings say from where.
        """
        loss = self.build_forget_loss()
        if not loss.needs_alternates:
            if self.alternates is not None:
                raise RequestError(f"alternates: the forget loss {self.loss_type!r} uses none: leave them out")
            return None
        source = loss.default_alternates if self.alternates is None else self.alternates
        if source is None:
            names = ", ".join(ALTERNATES.names())
            raise RequestError(
                f"loss_type {self.loss_type!r} needs other answers: set alternates to one of {names}, or "
                "give rows with chosen and rejected answers"
            )
        made: AlternateSource = build_part(ALTERNATES, source)
        return made

    def build_parts(self) -> list[TrainingPart]:
        """New robust parts, in the order given, then the control or what rounds the steps."""
        parts = [build_part(ROBUST, spec) for spec in self.robust]
        if self.control is not None:
            parts.append(build_part(CONTROLS, self.control))
        rounding = stepping_part(self.stepping, self.seed)
        return parts if rounding is None else [*parts, rounding]

    def _parameters(self, registry: Registry[Any], name: str, further: dict[str, Any] | str | None) -> dict[str, Any]:
        """Parameters of a loss: fields of this class of the same name, then those given by name."""
        if not isinstance(further, Mapping | None):
            raise RequestError(f"the parameters of {registry.kind} {name!r} must be a mapping, not {further!r}")
        own = {key: getattr(self, key) for key in registry.get(name).defaults if getattr(self, key, None) is not None}
        return {**own, **(further or {})}


def _one_line_each(registry: Registry[Any]) -> str:
    """The entries of a registry, as listed in the docstring above."""
    lines = []
    for entry in registry.entries():
        text = " ".join([f'- `"{entry.name}"`: {entry.summary}', *([f"{entry.paper}."] if entry.paper else [])])
        lines.append(
            textwrap.fill(text, 119, initial_indent=" " * 16, subsequent_indent=" " * 18, break_on_hyphens=False)
        )
    return "\n".join(lines)


# The docstring names what is registered, so that a new loss is one new file.
for _mark, _registry in (("FORGET_LOSSES", FORGET_LOSSES), ("RETAIN_LOSSES", RETAIN_LOSSES)):
    UnlearnConfig.__doc__ = (UnlearnConfig.__doc__ or "").replace(" " * 16 + _mark, _one_line_each(_registry))


def _check_patterns(patterns: Any) -> None:
    if patterns is None:
        return
    if not isinstance(patterns, list) or not patterns or not all(isinstance(text, str) for text in patterns):
        raise RequestError(f'trained_parameters is {patterns!r}, it must be a list of patterns, as in ["*"]')


def _check_choice(key: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise RequestError(f"{key} is {value!r}: {suggest(str(value), choices)}")
