"""Models built from the given data, from random weights or a pretrained base: what they know of it is known."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.encoding import EncodedRow, TextFormat, encode_row, load_tokenizer
from ..data.example import Example
from ..errors import RequestError
from ..runtime.steps import is_heard, tell_steps
from .sizes import refuse_sizes
from .training_loop import DivergedError, finite, take_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# Part of every cache key: raise it when the same spec and rows give another model.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class ScratchSpec:
    """Size and training of a small model.

    Attributes:
        hidden_size: Width. Multiples of 128 can be quantized in every format.
        intermediate_size: Width of the MLP.
        layers: Number of layers.
        heads: Number of attention heads.
        kv_heads: Number of key-value heads.
        vocab_size: Maximum vocabulary size, including the 256 bytes and three special tokens.
        max_positions: Longest sequence in tokens; a longer row is refused.
        epochs: Passes over the rows.
        batch_size: Rows per step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the learning rate rises.
        seed: Of weights and row order.
        labels: ``all`` learns prompts too, ``answer`` only answers.
        threads: CPU threads. The result depends on it: another number of threads adds in another order.
        tie_embeddings: Whether input and output embeddings are one matrix.
        architecture: ``llama``, or ``gpt_neox`` (as Pythia: layer norms, biases, parallel attention and MLP, as many
            key-value heads as heads).
        base: Start from this pretrained model (named like ``model.target``) in place of random weights. Its sizes,
            architecture and tokenizer are used, and its learning rate is far below that of random weights: 1e-4 for a
            model of 100 million parameters. Questions are put as plain text unless ``data.format.kind`` says ``chat``.
        base_revision: Its revision on the Hub.
        base_gguf_file: Name of its GGUF file in that folder, repository or package.
        bf16: Computes in bfloat16 where autocast allows it; weights and steps stay in float32. Faster only on
            processors with bfloat16 instructions.
    """

    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    vocab_size: int = 1024
    max_positions: int = 256
    epochs: int = 18
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    seed: int = 0
    labels: Literal["all", "answer"] = "all"
    threads: int = 1
    tie_embeddings: bool = False
    architecture: Literal["llama", "gpt_neox"] = "llama"
    base: str | None = field(default=None, metadata={"left_out_at_default": True})
    base_revision: str | None = field(default=None, metadata={"left_out_at_default": True})
    base_gguf_file: str | None = field(default=None, metadata={"left_out_at_default": True})
    bf16: bool = field(default=False, metadata={"left_out_at_default": True})

    def __post_init__(self) -> None:
        self._check_base()
        for key in (
            "hidden_size",
            "intermediate_size",
            "layers",
            "heads",
            "kv_heads",
            "epochs",
            "batch_size",
            "threads",
        ):
            if getattr(self, key) < 1:
                raise RequestError(f"scratch model: {key} is {getattr(self, key)}, it must be at least 1")
        if self.hidden_size % self.heads or self.heads % self.kv_heads or self.hidden_size // self.heads % 2:
            raise RequestError(
                f"scratch model: hidden_size={self.hidden_size} must be an even multiple of heads={self.heads}, and "
                f"heads a multiple of kv_heads={self.kv_heads}"
            )
        refuse_sizes(vars(self), "scratch model")
        if self.vocab_size < 259:
            raise RequestError(
                f"scratch model: vocab_size is {self.vocab_size}: bytes and special tokens alone need 259"
            )
        if self.max_positions < 2:
            raise RequestError(f"scratch model: max_positions is {self.max_positions}, it must be at least 2")
        if self.learning_rate <= 0:
            raise RequestError(f"scratch model: learning_rate is {self.learning_rate}, it must be above 0")
        if self.weight_decay < 0:
            raise RequestError(f"scratch model: weight_decay is {self.weight_decay}, it must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"scratch model: seed is {self.seed}, it must be between 0 and {2**32 - 1}")
        if not 0 < self.warmup < 1:
            raise RequestError(f"scratch model: warmup is {self.warmup}: it must be a share between 0 and 1")
        if self.architecture not in ARCHITECTURES:
            raise RequestError(
                f"scratch model: architecture is {self.architecture!r}: it must be one of {', '.join(ARCHITECTURES)}"
            )
        if self.architecture == "gpt_neox" and self.kv_heads != self.heads:
            raise RequestError(
                f"scratch model: a gpt_neox has as many key-value heads as heads: set kv_heads to {self.heads}"
            )
        if self.labels not in ("all", "answer"):
            raise RequestError(f"scratch model: labels is {self.labels!r}: it must be 'all' or 'answer'")

    def _check_base(self) -> None:
        if self.base is None:
            for key in ("base_revision", "base_gguf_file"):
                if getattr(self, key) is not None:
                    raise RequestError(f"scratch model: {key} is given without base: remove it or set base")
            return
        given = [
            item.name for item in fields(self) if item.name in _SIZES and getattr(self, item.name) != item.default
        ]
        if given:
            raise RequestError(f"scratch model: {given[0]} is that of the base ({self.base}): remove it")


# What a pretrained base decides.
_SIZES = frozenset(
    (
        "hidden_size",
        "intermediate_size",
        "layers",
        "heads",
        "kv_heads",
        "vocab_size",
        "tie_embeddings",
        "architecture",
    )
)


def scratch_tokenizer(texts: Iterable[str], spec: ScratchSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a model to be built: that of the base, or one trained on these texts.

    Args:
        texts: As for :func:`build_tokenizer`.
        spec: With the base as a local folder, if it has one.
    """
    return build_tokenizer(texts, spec) if spec.base is None else load_tokenizer(spec.base)


def build_tokenizer(texts: Iterable[str], spec: ScratchSpec) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on these texts.

    Args:
        texts: What merges are learned from. A word that must be one token (a year) must be frequent here.
        spec: ``vocab_size`` and ``max_positions`` are used.

    Returns:
        A tokenizer that puts BOS in front, has a pad token, and knows every byte. The same texts in the same order
        give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=spec.max_positions,
        clean_up_tokenization_spaces=False,
    )


def train_scratch_model(
    spec: ScratchSpec,
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    fmt: TextFormat,
    out_dir: Path,
    *,
    progress: str,
) -> None:
    """Train a model on these rows from random weights or its base, on the CPU, and save model and tokenizer.

    AdamW with a one-cycle learning rate and gradients clipped at norm 1, in float32 (or, with ``bf16``, computed
    in bfloat16). The same arguments give the same
    weights bit by bit. Can be run in a child process: it sets the number of threads itself, and restores that
    and torch's random state afterwards.

    Args:
        spec: Size and training.
        rows: What to learn.
        tokenizer: From :func:`scratch_tokenizer`.
        fmt: How prompt and answer become one text.
        out_dir: Folder for ``save_pretrained``; made if it does not exist.
        progress: Title of the progress bar, which is only shown in a terminal; empty for no bar.

    Raises:
        RequestError: There are no rows, a row is longer than ``max_positions``, or the loss is not finite.
    """
    import torch

    if not rows:
        raise RequestError("there are no rows to train a model on: give the data sets at least one row")
    encoded = [encode_row(row, tokenizer, fmt, eos=True) for row in rows]
    longest = max(len(row.input_ids) for row in encoded)
    if longest > spec.max_positions:
        raise RequestError(
            f"scratch model: the longest row has {longest} tokens and max_positions is {spec.max_positions}: raise it"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = new_model(spec, tokenizer)
            _fit(model, encoded, spec, tokenizer.pad_token_id, progress)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)


def _fit(
    model: PreTrainedModel, encoded: Sequence[EncodedRow], spec: ScratchSpec, pad_token_id: int, progress: str
) -> None:
    import torch
    from tqdm import tqdm

    if spec.labels == "all":
        encoded = [EncodedRow(row.id, row.input_ids, 1) for row in encoded]
    steps = spec.epochs * math.ceil(len(encoded) / spec.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    # One-cycle needs two steps to rise and fall, and divides by zero if it rises for exactly one.
    cycle = max(steps, 2)
    warmup = math.nextafter(spec.warmup, 1.0) if spec.warmup * cycle == 1 else spec.warmup
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.learning_rate, cycle, pct_start=warmup)
    model.train()
    # disable=None: no bar if the output is not a terminal. A run that shows steps itself needs no second bar.
    hidden = True if is_heard() or not progress else None
    with tqdm(total=steps, desc=progress, unit="step", disable=hidden) as bar:
        made = itertools.count(1)

        def add_gradients(batch: Sequence[EncodedRow]) -> None:
            loss = finite(_backward(model, batch, pad_token_id, bf16=spec.bf16))
            bar.update()
            tell_steps(next(made), steps)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        try:
            take_steps(optimizer, _batches(encoded, spec), add_gradients, max_grad_norm=1.0, schedule=schedule)
        except DivergedError as error:
            raise RequestError(
                f"the loss is {error.loss} at step {error.batch} of training a model from scratch: lower "
                f"learning_rate (now {spec.learning_rate})"
            ) from None


def _batches(encoded: Sequence[EncodedRow], spec: ScratchSpec) -> Iterator[list[EncodedRow]]:
    """The rows of every step, reshuffled each epoch."""
    for epoch in range(spec.epochs):
        order = random.Random(f"scratch-{spec.seed}-{epoch}").sample(encoded, len(encoded))
        for start in range(0, len(order), spec.batch_size):
            yield order[start : start + spec.batch_size]


def _backward(model: PreTrainedModel, batch: Sequence[EncodedRow], pad_token_id: int, *, bf16: bool = False) -> float:
    """Add the gradient of the mean loss over all labels of a batch, and return that loss.

    Rows of similar length go through the model together, which saves padding. Putting them into one step would be
    cheaper still, but then each step would see one kind of sentence, and models learn much less from them.
    """
    import torch

    from ..data.pairing import pad_rows

    n_labels = sum(len(row.input_ids) - row.n_prompt for row in batch)
    total = 0.0
    for part in _by_length(batch):
        padded = pad_rows(part, range(len(part)), pad_token_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                labels=padded["labels"],
                num_items_in_batch=n_labels,
            ).loss
        loss.backward()
        total += loss.item()
    return total


def _by_length(batch: Sequence[EncodedRow]) -> list[list[EncodedRow]]:
    """Groups in which no row is more than 1.5 times as long as the shortest."""
    parts: list[list[EncodedRow]] = []
    for row in sorted(batch, key=lambda row: len(row.input_ids)):
        if not parts or 2 * len(row.input_ids) > 3 * len(parts[-1][0].input_ids):
            parts.append([])
        parts[-1].append(row)
    return parts


def scratch_cache_key(
    spec: ScratchSpec, rows: Sequence[Example], tokenizer_texts: Iterable[str], fmt: TextFormat
) -> str:
    """Hex SHA-256 of everything that decides what :func:`train_scratch_model` makes. Row ids and origins do not.

    A base is known by the content of its files.
    """
    described = asdict(spec)
    if spec.architecture == "llama":  # models built before there was a choice are still found
        del described["architecture"]
    for key in ("base", "base_revision", "base_gguf_file"):
        del described[key]
    if not spec.bf16:
        del described["bf16"]
    if spec.base is not None:
        from .loading import files_digests

        described["base"] = files_digests(Path(spec.base))
    content = {
        "version": RECIPE_VERSION,
        "spec": described,
        "format": fmt.described(),
        "rows": [[row.turns, row.prompt, row.answer, row.conversational] for row in rows],
        "texts": list(tokenizer_texts),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def knows(model_dir: Path, rows: Sequence[Example], fmt: TextFormat, *, batch_size: int = 64) -> float:
    """Share of rows whose whole answer a model gives greedily.

    Each row is scored in one pass with the true answer in place. All its answer tokens are the most likely ones
    exactly when greedy decoding from the same prompt tokens writes them: up to the first miss both see the same text.

    Args:
        model_dir: A ``save_pretrained`` folder with model and tokenizer.
        rows: The rows.
        fmt: How prompt and answer become one text.
        batch_size: Rows per forward pass.

    Returns:
        A number from 0 to 1.

    Raises:
        RequestError: There are no rows, or the folder holds no tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from ..data.pairing import IGNORED, pad_rows

    if not rows:
        raise RequestError("there are no rows to ask the model for: give the data sets at least one row")
    tokenizer = load_tokenizer(str(model_dir))
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    encoded = [encode_row(row, tokenizer, fmt, eos=False) for row in rows]
    encoded.sort(key=lambda row: len(row.input_ids))
    known = 0
    with torch.inference_mode():
        for start in range(0, len(encoded), batch_size):
            part = encoded[start : start + batch_size]
            batch = pad_rows(part, range(len(part)), tokenizer.pad_token_id)
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            labels = batch["labels"][:, 1:]
            hits = (logits[:, :-1].argmax(-1) == labels) | (labels == IGNORED)
            known += int(hits.all(-1).sum())
    return known / len(rows)


def new_model(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The base in float32, or a model with random weights, drawn from torch's random state.

    Args:
        spec: Its base (a local folder), or its architecture and sizes.
        tokenizer: Gives the size of the vocabulary and the special tokens of a model without a base.
    """
    import torch

    from .loading import read_pretrained  # a recipe is read without torch

    if spec.base is not None:
        return read_pretrained(spec.base, torch.float32)
    return ARCHITECTURES[spec.architecture](spec, tokenizer)


def _llama(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(spec, tokenizer), num_key_value_heads=spec.kv_heads))


def _gpt_neox(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**_sizes(spec, tokenizer)))


def _sizes(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Settings with the same name in all configurations."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": spec.tie_embeddings,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


ARCHITECTURES: Mapping[str, Callable[[ScratchSpec, PreTrainedTokenizerBase], PreTrainedModel]] = {
    "llama": _llama,
    "gpt_neox": _gpt_neox,
}
"""By ``model_type`` of transformers."""
