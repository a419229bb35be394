"""Texts that the target writes by itself before anything is trained, for the retain term to keep what they say."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import TextFormat, encode_prompt, load_tokenizer
from ..data.example import Example
from ..data.self_generated import DrawSpec, without_forgotten
from ..errors import RequestError
from ..runtime.jobs import Job
from ..runtime.processes import on_main_process
from .context import RunContext, Subject
from .units import Unit, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS_FILE = "texts.json"
_PROMPTS_PER_BATCH = 128


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        rows: Plain text rows.
        digest: Fingerprint of them.
    """

    rows: tuple[Example, ...]
    digest: str


def draw_stage(context: RunContext, target: Subject) -> None:
    """Let the target write, unless it has or the recipe does not ask for it. All processes call this together.

    Raises:
        RequestError: Nothing that was written can be used, or the tokenizer has no token that texts begin with.
    """
    spec = context.recipe.data.keep_drawn
    if spec is None or all(method.checkpoint is not None for method in context.recipe.methods):
        return
    unit = _unit(context, target, spec)

    def draw() -> None:
        if unit.done:
            return
        length, dtype = context.recipe.data.max_length, context.recipe.model.dtype
        arguments = (unit, target.folder, spec, tuple(context.bundle.forget), named_sets(context), length, dtype)
        jobs = [Job("texts of the target", draw_job, arguments)]
        for _, said in context.progress.follow("draw", len(jobs), context.workers.run(jobs)):
            context.progress.say(said)

    on_main_process(draw)


def drawn_texts(context: RunContext, target: Subject) -> Drawn | None:
    """What :func:`draw_stage` kept; nothing where the recipe does not ask for it.

    Raises:
        RequestError: It has not been drawn yet.
    """
    spec = context.recipe.data.keep_drawn
    if spec is None:
        return None
    unit = _unit(context, target, spec)
    outputs = unit.outputs()
    texts = json.loads((unit.path / TEXTS_FILE).read_text(encoding="utf-8"))
    return Drawn(drawn_rows(texts), fingerprint(outputs))


def draw_job(
    unit: Unit,
    model: Path,
    spec: DrawSpec,
    forget: Sequence[Example],
    kept: Sequence[Sequence[Example]],
    max_length: int,
    dtype: str,
) -> str:
    """Draws, leaves out what touches the forget set, and keeps the rest in the unit; says how many there were."""
    told = ""

    def build(folder: Path) -> None:
        nonlocal told
        sifted = without_forgotten(write_texts(model, spec, dtype), forget, kept, spec)
        fitting = _fitting(sifted.texts, model, max_length)
        told = (
            f"the target wrote {sifted.different} different texts in {spec.texts}: {sifted.touching} share words with "
            f"the forget set and are left out, {len(fitting)} are kept"
        )
        if not fitting:
            mend = "raise texts or avoid_words, or name ordinary words or other starts"
            raise RequestError(f"data.keep_drawn: {told}; {mend}")
        (folder / TEXTS_FILE).write_text(json.dumps(fitting, indent=0, ensure_ascii=False), encoding="utf-8")

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
    begins = {start: _first_tokens(start, tokenizer) for start in spec.starts}
    sampling = Sampling(1, spec.temperature, seed=spec.seed)
    chosen = [spec.starts[number % len(spec.starts)] for number in range(spec.texts)]
    prompts = [
        Prompt(
            begins[start], f"data.keep_drawn.starts {start!r}", spec.max_new_tokens, (), sampling, f"drawn-{number}"
        )
        for number, start in enumerate(chosen)
    ]
    model = load_model(folder, dtype)
    written = generate(model, tokenizer, prompts, Passes(2**31), name="drawn texts", most=_PROMPTS_PER_BATCH)
    return [start + text for start, text in zip(chosen, written, strict=True)]


def drawn_rows(texts: Sequence[str]) -> tuple[Example, ...]:
    """Texts as plain text rows, each a fact and a group of its own."""
    names = [f"drawn-{number:05d}" for number in range(len(texts))]
    return tuple(
        Example(id=name, prompt="", answer=text, fact=name, group=name, origin=f"drawn text {number}")
        for number, (name, text) in enumerate(zip(names, texts, strict=True))
    )


def _fitting(texts: Sequence[str], model: Path, max_length: int) -> list[str]:
    """Texts that make a training row: something to predict, and no longer than rows may be."""
    tokenizer = load_tokenizer(str(model))
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    # One more for the end token.
    return [text for text, length in zip(texts, lengths, strict=True) if 2 <= length < max_length]


def _first_tokens(start: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    found = encode_prompt(Example(id="", prompt=start, answer="", fact="", group=""), tokenizer, TextFormat())
    if found:
        return found
    # Models whose tokenizer puts nothing in front separate texts by their end token in training.
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise RequestError("data.keep_drawn.starts holds an empty text, and the tokenizer has no token to begin with")
    return (int(first),)


def _unit(context: RunContext, target: Subject, spec: DrawSpec) -> Unit:
    inputs = {
        "stage": "train",
        "drawn from": target.digest,
        "data": context.data_digest,
        "spec": asdict(spec),
        "max_length": context.recipe.data.max_length,
        "seed": context.recipe.seed,
        "dtype": context.recipe.model.dtype,
        "versions": context.versions,
        **named_inputs(context),
    }
    return Unit(context.output_dir / "references" / "drawn", inputs)


def named_sets(context: RunContext) -> list[tuple[Example, ...]]:
    """Rows of the sets that the recipe names, set by set."""
    bundle, data = context.bundle, context.recipe.data
    sets = [at_hand(bundle.retain.train, data.retain_at_hand, context.recipe.seed)]
    if data.keep_generic:
        sets.append(bundle.generic.train)
    return sets + [bundle.extra[name].train for name in data.keep_extra]


def named_rows(context: RunContext) -> tuple[Example, ...]:
    """All of them."""
    return tuple(row for rows in named_sets(context) for row in rows)


def named_inputs(context: RunContext) -> Mapping[str, Any]:
    """What decides :func:`named_rows` beside the data; empty where the whole retain set and nothing else is kept."""
    data, inputs = context.recipe.data, dict[str, Any]()
    if data.keep_generic:
        inputs["keep_generic"] = True
    if data.keep_extra:
        inputs["keep_extra"] = list(data.keep_extra)
    if data.retain_at_hand != 1:
        inputs["retain_at_hand"] = data.retain_at_hand
    return inputs


def at_hand(rows: tuple[Example, ...], share: float, seed: int) -> tuple[Example, ...]:
    """The rows of a random share of the groups, in their order; of one group at least unless the share is 0."""
    if share == 1:
        return rows
    groups = sorted({row.group for row in rows})
    count = max(1, round(share * len(groups))) if share else 0
    drawn = set(random.Random(f"at-hand-{seed}").sample(groups, count))
    return tuple(row for row in rows if row.group in drawn)
