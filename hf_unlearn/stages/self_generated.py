"""Texts that the target writes by itself before anything is trained, for the retain term to keep what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.encoding import TextFormat, encode_prompt, load_tokenizer
from ..data.example import Example
from ..data.self_generated import DrawSpec, without_forgotten
from ..errors import RequestError
from ..runtime.files import open_private
from ..runtime.jobs import Job
from ..runtime.processes import on_main_process
from .retain_rows import TEXTS_FILE, named_sets, self_generated_unit
from .run import Run
from .units import Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPTS_PER_BATCH = 128
SEPARATOR = "<|endoftext|>"
"""What separates texts in the pretraining of GPT-2, GPT-NeoX, Qwen, SmolLM and others."""


def self_generated_stage(run: Run) -> None:
    """Let the target write, unless it has already or the recipe does not ask for it. All processes call this together.

    Raises:
        RequestError: Nothing that was written can be used, or the tokenizer has no token that texts begin with.
    """
    context, recipe = run.context, run.recipe
    spec = recipe.data.keep_drawn
    if spec is None or recipe.is_audit:
        return
    unit = self_generated_unit(context, run.target, spec)

    def write() -> None:
        if unit.done:
            return
        jobs = [writing(run, spec, unit)]
        for _, said in context.progress.follow("draw", len(jobs), context.workers.run(jobs)):
            context.progress.say(said)

    on_main_process(write)


def writing(run: Run, spec: DrawSpec, unit: Unit) -> Job:
    """The job that lets the target write."""
    forget, length, dtype = run.bundle.never_said, run.recipe.data.max_length, run.recipe.model.dtype
    others = [*named_sets(run.context), run.bundle.generic.train]
    arguments = (unit, run.target.folder, spec, forget, others, length, dtype)
    return Job("texts of the target", write_job, arguments)


def write_job(
    unit: Unit,
    model: Path,
    spec: DrawSpec,
    forget: Sequence[Example],
    others: Sequence[Sequence[Example]],
    max_length: int,
    dtype: str,
) -> str:
    """Let the target write, leave out what touches the forget set, keep the rest; returns how many were kept."""
    told = ""

    def build(folder: Path) -> None:
        nonlocal told
        sifted = without_forgotten(write_texts(model, spec, dtype), forget, others, spec)
        fitting = _fitting(sifted.texts, model, max_length)
        told = (
            f"the target wrote {sifted.different} different texts in {spec.texts}: {sifted.touching} share words with "
            f"the forget set and are left out, {len(fitting)} are kept"
        )
        if not fitting:
            mend = "raise texts or avoid_words, or name ordinary words or other starts"
            raise RequestError(f"data.keep_drawn: {told}; {mend}")
        with open_private(folder / TEXTS_FILE) as file:
            json.dump(fitting, file, indent=0, ensure_ascii=False)

    unit.run(build)
    return told


def write_texts(folder: Path, spec: DrawSpec, dtype: str = "float32") -> list[str]:
    """What the model in a folder writes, each text with what it began with.

    Raises:
        RequestError: A text is to begin with nothing, and the tokenizer has no token for that.
    """
    from ..evaluation.batch_runner import Passes
    from ..evaluation.generation import Prompt, generate
    from ..evaluation.spec import Sampling
    from ..models.loading import load_model

    tokenizer = load_tokenizer(str(folder))
    starts = spec.beginnings
    begins = {start: first_tokens(start, tokenizer) for start in starts}
    sampling = Sampling(1, spec.temperature, seed=spec.seed)
    chosen = [starts[number % len(starts)] for number in range(spec.texts)]
    prompts = [
        Prompt(
            begins[start], f"data.keep_drawn.starts {start!r}", spec.max_new_tokens, (), sampling, f"drawn-{number}"
        )
        for number, start in enumerate(chosen)
    ]
    model = load_model(folder, dtype)
    written = generate(model, tokenizer, prompts, Passes(2**31), name="drawn texts", most=_PROMPTS_PER_BATCH)
    return [start + text for start, text in zip(chosen, written, strict=True)]


def _fitting(texts: Sequence[str], model: Path, max_length: int) -> list[str]:
    """Texts that make a training row: something to predict, and no longer than the maximum row length."""
    tokenizer = load_tokenizer(str(model))
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    # One more for the end token.
    return [text for text, length in zip(texts, lengths, strict=True) if 2 <= length < max_length]


def first_tokens(start: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the target is given to go on from.

    In pretraining a text begins after a beginning-of-text token, which the tokenizer adds, or after the token that
    separates texts, which it does not. Without that one a chat model goes on with a title or with code.

    Args:
        start: Its first words; empty if the model chooses them.
        tokenizer: The target's.

    Raises:
        RequestError: The text is to begin with nothing, and the tokenizer has no token to begin with.
    """
    found = encode_prompt(Example(id="", prompt=start, answer="", fact="", group=""), tokenizer, TextFormat())
    if tokenizer("").input_ids:
        return found
    if SEPARATOR in tokenizer.all_special_tokens:
        return (tokenizer.all_special_ids[tokenizer.all_special_tokens.index(SEPARATOR)], *found)
    if found:
        return found
    # Other models whose tokenizer adds nothing in front separate texts by their end token in training.
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise RequestError("data.keep_drawn.starts holds an empty text, and the tokenizer has no token to begin with")
    return (int(first),)
