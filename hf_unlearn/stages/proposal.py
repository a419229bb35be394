"""A first recipe for a model and its rows: what is looked at, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.encoding import TextFormat, encode_row, lacks_space, load_tokenizer
from ..data.example import Example
from ..data.form import decide_form
from ..data.sources import Source, load_source, prompt_column
from ..errors import EnvironmentFailure, RequestError
from ..models.gguf_source import fetch_model
from ..models.loading import empty_model
from ..models.own_dtype import own_dtype
from ..quantization import FORMATS
from ..recipe.checks import check_name
from ..verification.intervals import MIN_GROUPS, least_limit
from .gathering import NOTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = ("bf16", "bnb-int8", "bnb-nf4", "rtn-int4-g128", "rtn-int4-g32")
"""Formats that people download, or that stand for them, and that need no calibration."""
WRONG_OPTIONS = 3
# As TRL's trainers have them. They are no defaults of UnlearnConfig: a recipe gives the same steps wherever it is run.
_GPU_LINES = (
    "    bf16: true    # computes in bfloat16 and steps float32 weights; remove it on a machine without a GPU",
    "    gradient_checkpointing: true    # layers are computed again in the backward pass: slower, far less memory",
)
LONGEST_OPTION = 80
DRAWN_TEXTS = 1000
USUAL_LIMIT = 0.10
"""On recovered shares, as it stands and in formats."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Wanted:
    """What somebody has.

    Attributes:
        name: Name of the recipe.
        model: The model that knows: Hub id or folder.
        sets: Files of rows by set: ``forget`` and ``retain``, and ``holdout`` or ``generic``.
        never_knew: A model that was trained without the forget set, if there is one.
        description: In the publisher's words, what is removed.
        made: Sets whose files were made, with a column for groups, by :func:`hf_unlearn.stages.gathering.make_sets`.
        avoid: Words that say by themselves that a text is about what is forgotten.
        schema: Name of the schema for editors beside the recipe, if it is written there.
    """

    name: str
    model: str
    sets: Mapping[str, Path]
    never_knew: str | None = None
    description: str | None = None
    made: Collection[str] = ()
    avoid: tuple[str, ...] = ()
    schema: str | None = None

    def source(self, name: str) -> Source:
        """Where the rows of a set come from."""
        return Source(path=str(self.sets[name]), group="group" if name in self.made else None)


@dataclass(frozen=True)
class Seen:
    """What a look at model and rows found.

    Attributes:
        parameters: Of the model.
        dtype: In which its weights are stored.
        chat: Whether questions go through the tokenizer's chat template (what ``data.format.kind: auto`` comes to).
        questions: Whether the rows are questions with answers, and not running text.
        spaced: Whether a space has to be put before answers in plain text.
        groups: Independent groups of facts in the forget set.
        facts: Facts in it.
        options: Sets whose rows have wrong options.
        drawable: Sets whose rows can get wrong options from other rows' answers.
        tokens: Of the longest row.
        formats: Formats that fit.
        unfit: Why the others do not, by format.
        gpu: Whether there is a GPU here that computes in bfloat16.
    """

    parameters: int
    dtype: str
    chat: bool
    questions: bool
    spaced: bool
    groups: int
    facts: int
    options: frozenset[str]
    drawable: frozenset[str]
    tokens: int
    formats: tuple[str, ...]
    unfit: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False

    @property
    def limit(self) -> float:
        """A limit on recovered shares that a model that never knew stays below in most cases, and that can be shown.

        Multiple choice is noisy: the needed numbers of groups are those of ``benchmarks/validity/coverage.md``.
        """
        chosen = bool(self.options | self.drawable)
        noise = 2.82 if chosen else 0.83 if self.groups >= 70 else 1.2
        shown = least_limit(self.groups, CONFIDENCE) or 1.0
        return min(
            1.0, max(USUAL_LIMIT, math.ceil(20 * max(shown, noise / math.sqrt(max(1, self.groups))) - 1e-9) / 20)
        )

    @property
    def groups_for_usual_limit(self) -> int:
        """So many groups of facts allow the usual limit, in tens."""
        return next(count for count in range(10, 10_000, 10) if replace(self, groups=count).limit <= USUAL_LIMIT)

    @property
    def learning_rate(self) -> float:
        """Where to begin: larger models take smaller rates."""
        return 1.0e-3 if self.parameters < 10_000_000 else 3.0e-5 if self.parameters < 600_000_000 else 1.0e-5


def look(wanted: Wanted) -> Seen:
    """Read the rows, the tokenizer and the shape of the model; no weights are put into memory.

    Raises:
        RequestError: A file, one of its rows or the model cannot be used, or the forget set has fewer groups of facts
            than any verdict needs.
        EnvironmentFailure: The Hub could not be reached.
    """
    check_name(wanted.name, "name")
    rows = {name: load_source(wanted.source(name), name).score for name in wanted.sets}
    forget = rows["forget"]
    groups = len({row.group for row in forget})
    if groups < MIN_GROUPS:
        raise RequestError(
            f"{wanted.sets['forget']} has {groups} independent groups of facts, and no verdict is possible on fewer "
            f"than {MIN_GROUPS}: ask about more facts"
        )
    folder = fetch_model(wanted.model, None, "the model")
    tokenizer, model = load_tokenizer(str(folder)), empty_model(folder)
    formats, unfit = _formats_for(model)
    questions = all(row.prompt for row in forget)
    asked = [row for name in ("forget", "retain", "holdout") for row in rows.get(name, ())]
    form = decide_form(forget, tokenizer, column=prompt_column(wanted.source("forget")))
    encoded = [encode_row(row, tokenizer, TextFormat(kind=form.kind), eos=False) for row in asked]
    return Seen(
        parameters=sum(weight.numel() for weight in model.parameters()),
        dtype=own_dtype(folder),
        chat=form.kind == "chat",
        questions=questions,
        spaced=lacks_space(asked),
        groups=groups,
        facts=len({row.fact for row in forget}),
        options=frozenset(name for name, those in rows.items() if those and all(row.choices for row in those)),
        drawable=frozenset(name for name in ("forget", "retain", "holdout") if _drawable(rows.get(name, ()))),
        tokens=max(len(row.input_ids) for row in encoded),
        formats=formats,
        unfit=unfit,
        gpu=_computes_in_bfloat16(),
    )


def _computes_in_bfloat16() -> bool:
    """Whether there is a GPU here that does so at full speed."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _formats_for(model: PreTrainedModel) -> tuple[tuple[str, ...], dict[str, str]]:
    """The candidates that the model's sizes and the installed libraries allow, and what is wrong with the others."""
    unfit: dict[str, str] = {}
    for name in CANDIDATES:
        kind = FORMATS.get(name).value()
        try:
            kind.check_available()
            kind.check(model)
        except (RequestError, EnvironmentFailure) as error:
            unfit[name] = str(error)
    return tuple(name for name in CANDIDATES if name not in unfit), unfit


def _drawable(rows: Sequence[Example]) -> bool:
    """Whether wrong options can be drawn: short answers to questions, enough different ones, none there yet."""
    answers = {row.answer.strip() for row in rows}
    plain = all(row.prompt and not row.choices for row in rows)
    short = all(len(answer) <= LONGEST_OPTION for answer in answers)
    return bool(rows) and plain and short and len(answers) > 2 * WRONG_OPTIONS


def recipe_text(wanted: Wanted, seen: Seen) -> str:
    """The recipe as commented YAML."""
    return "\n".join([*_head(wanted, seen), *_data(wanted, seen), *_work(seen), *_gate(wanted, seen), ""])


def _head(wanted: Wanted, seen: Seen) -> list[str]:
    schema = [f"# yaml-language-server: $schema={wanted.schema}"] if wanted.schema else []
    lines = [
        *schema,
        f"# {seen.facts} facts in {seen.groups} independent groups; {_millions(seen.parameters)} parameters.",
        f"name: {wanted.name}",
        "seed: 0",
        "model:",
        f"  target: {_quoted(wanted.model)}",
    ]
    if wanted.never_knew:
        lines += [f"  never_knew: {_quoted(wanted.never_knew)}"]
    steps = "" if seen.dtype == "float32" else "; training steps in float32"
    return [*lines, f"  dtype: auto    # the model's own: {seen.dtype}{steps}"]


def _data(wanted: Wanted, seen: Seen) -> list[str]:
    lines = [
        "data:",
        f"  description: {_quoted(wanted.description or f'{seen.facts} facts, not described by the publisher')}"
        "    # for the model card, in your words; never the rows themselves",
        f"  max_length: {max(64, 2 ** math.ceil(math.log2(seen.tokens + 16)))}    # the longest row has about "
        f"{seen.tokens} tokens",
    ]
    if seen.chat:
        lines += [
            "  format: {kind: auto}    # chat: there is a template, and rows ask; plain text is asked too (other-form)"
        ]
    elif seen.questions and seen.spaced:
        lines += ['  format: {separator: " "}    # put between question and answer']
    notes = {
        "forget": "rows that may give each other away belong into one group: name their column with `group:`",
        "retain": "what must stay, as near to the forget set as you have it",
        "holdout": "of the same kind, in no training: what a model that never knew says",
        "generic": "ordinary text, for calibration, KL and fluency",
    } | {name: NOTES[name] for name in wanted.made}
    for name, path in wanted.sets.items():
        drawn = f", draw_choices: {WRONG_OPTIONS}" if name in seen.drawable else ""
        group = ", group: group" if name in wanted.made else ""
        lines += [f"  {name}: {{path: {_quoted(str(path))}{group}{drawn}}}    # {notes[name]}"]
    return [*lines, *_drawn_texts(wanted)]


def _drawn_texts(wanted: Wanted) -> list[str]:
    """Texts that the target writes by itself, where nobody gave rows that must stay."""
    if "retain" not in wanted.made:
        return []
    avoid = f", avoid: [{', '.join(map(_quoted, wanted.avoid))}]" if wanted.avoid else ""
    return [
        "  # Texts that the target writes before training, kept beside the retain rows: docs/drawn-texts.md. Both",
        "  # stand in for what you know to be needed; rows of your own that must stay are better.",
        f"  keep_drawn: {{texts: {DRAWN_TEXTS}, starts: general{avoid}}}",
    ]


def _work(seen: Seen) -> list[str]:
    rate = seen.learning_rate
    lines = [
        "methods:",
        "  - name: auto",
        "    robust: auto    # rounds of unlearning and healing, each after a rehearsed attack: docs/auto.md",
        f"    per_device_train_batch_size: {max(1, min(16, seen.facts // 2))}",
        f"    learning_rate: auto    # found by a few trial rounds; under a launcher set one, such as {_number(rate)}",
        "    save_steps: 200",
        *(_GPU_LINES if seen.gpu else ()),
        "export:",
        f"  formats: [{', '.join(seen.formats)}]",
    ]
    lines += [f"  # {name} is left out: {why}" for name, why in seen.unfit.items()]
    lines += [
        "attack:",
        "  tier: quick    # other-form, pruning, noise: nothing is trained; release and deep try more",
        "  rtt:           # train on four fifths of the facts, ask for the rest",
        "    folds: 5",
        f"    learning_rates: [{_number(rate)}, {_number(3 * rate)}]",
        "    epochs: 5",
        "    tuning: auto   # all weights if a job fits the device, otherwise LoRA",
    ]
    return lines


def _gate(wanted: Wanted, seen: Seen) -> list[str]:
    chosen = bool(seen.options | seen.drawable)
    metrics = "probability, mc_accuracy" if chosen else "probability, extraction_strength"
    least = least_limit(seen.groups, CONFIDENCE) or 1
    return [
        "gate:",
        f"  metrics: [{metrics}]",
        f"  # {seen.groups} groups can show a share of {least:g} at best; chance moves even a model that never knew.",
        "  # With a smaller limit than this one it would often be undecided; more facts allow the usual 0.10.",
        f"  max_recovered_share_formats: {seen.limit:g}",
        f"  max_recovered_share_attacks: {max(0.20, seen.limit):g}",
    ]


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{max(0.1, count / 1e6):.1f} million"


def _number(value: float) -> str:
    """As YAML reads it as a number."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _quoted(text: str) -> str:
    """A YAML scalar that reads back as this text whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
