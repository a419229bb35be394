"""What the words of a report mean: once, for the page and for ``docs/words.md``."""

from __future__ import annotations

from .results import Results
from .words import metric_label

GENERAL: tuple[tuple[str, str], ...] = (
    ("target", "The model that knows, before unlearning."),
    ("unlearned model", "What unlearning made of the target: the model that is judged and released."),
    (
        "retrained model, never-knew",
        "A model that was trained like the target, but without the forget set. It shows what not knowing looks like; "
        "where there is none, holdout facts stand in.",
    ),
    ("forget set", "The rows to forget."),
    ("retain set", "The rows to keep."),
    ("holdout set", "Rows of the same kind as the forget set that no model was trained on."),
    ("generic text", "Ordinary text, on which a model must still write as the target does."),
    ("fact", "What a row is about. Several rows may ask for the same fact in other words."),
    ("group", "Facts that may give each other away. Groups, not rows, are what intervals and least numbers count."),
    (
        "condition",
        "What is done to a model before it is scored: nothing (as is), a quantized format, or an attack. Recipes, "
        "reports and code call it `transform`.",
    ),
    ("format", "How the weights of a published file are stored, for example in four bits."),
    ("attack", "An attempt to bring the forgotten facts back, with a fixed budget: retraining, pruning, prompts ..."),
    (
        "fold, T and V",
        "A part of the forgotten facts, V, that an attack asks for after training on the others, T. What comes back "
        "was hidden, not forgotten, for T says nothing of V.",
    ),
    ("budget", "What an attack may spend: rows, steps, learning rates, tries. The same for every model."),
    (
        "forget score, retain score",
        "A metric on the forget set, which should fall, and on the retain set, which should stay.",
    ),
    (
        "recovered share",
        "(unlearned − never knew) / (target − never knew), all under the same condition: 0 is a model that never "
        "knew, 1 is one that was never unlearned.",
    ),
    ("retention ratio", "Unlearned score / target score, under the same condition."),
    ("interval", "Where the true value lies in 95 % of cases, from the facts that were measured."),
    ("gate", "The limits of a recipe. They are fixed before the run."),
    ("verdict", "*Passed*, *failed* or *inconclusive*: what the measurements say about the limits of the gate."),
    ("known fact", "A fact of which at least half of what the target knew is there."),
    (
        "anti-known fact",
        "A fact that scores far below a model that never knew, which tells that it was in the forget set.",
    ),
    (
        "AUC of forgotten rows",
        "How often somebody who has only the model rightly says which of two rows, a forgotten one and one that "
        "nobody taught it, was forgotten: 0.5 is a guess.",
    ),
    ("control", "A model whose verdict is known beforehand. It tests the tests."),
    ("salted id, salted hash", "A name for a fact or a set that only the owner of the data can read."),
    ("repair", "Training on the retain set alone, which restores what unlearning has damaged."),
    ("robust part", "A part of training that makes forgetting last."),
    (
        "grid, code, bin",
        "The values that a format can store; a weight's place among them; weights that share a place.",
    ),
    ("KL to target", "How far the model's next-word probabilities are from the target's; 0 is the same."),
    ("perplexity", "How many words the model hesitates between in ordinary text, so to say; lower is better."),
    ("fluency", "How varied the model's own text is (n-gram entropy); a collapsed model repeats itself."),
)
"""Word and meaning, in the order in which a reader meets them."""

FORMAT_FAMILIES: tuple[tuple[str, str], ...] = (
    ("bf16", "Weights in bfloat16, not quantized."),
    ("fp16", "Weights in float16, not quantized."),
    ("bnb-", "bitsandbytes: 8-bit integers, or 4-bit floats (NF4, FP4) in blocks of 64."),
    ("rtn-", "Round to nearest: integers of 2 to 8 bits, a scale for each channel or group of weights (g128: 128)."),
    ("ct-", "compressed-tensors: FP8 or INT8, as vLLM loads it."),
    ("torchao-", "torchao: 8-bit integers."),
    ("gptq-", "GPTQ: integers chosen layer by layer, so that outputs on a calibration text change least."),
    ("awq-", "AWQ: 4-bit integers, scaled so that weights which matter on a calibration text lose least."),
    ("gguf-", "GGUF: the files of llama.cpp, at 2 to 8 bits."),
    ("noise-", "Noise as large as the error of a grid: made to be scored, never published."),
)
"""Beginning of a format's name, and what it is. One line for each family, because a page is made without torch."""

_OF_A_RECIPE = ("repair", "robust part")
_NEVER_KNEW = "retrained model, never-knew"


def words_of(results: Results) -> list[tuple[str, str]]:
    """The words of a page: the general ones, then the metrics, formats and attacks of this report.

    Args:
        results: The report that was read. Names that this version does not know are left out.
    """
    from ..evaluation.metrics import METRICS

    left_out = {
        *_OF_A_RECIPE,
        *(() if any(each.role == "never_knew" for each in results.subjects) else (_NEVER_KNEW,)),
    }
    general = [(word, meaning.translate(_PLAIN)) for word, meaning in GENERAL if word not in left_out]
    known = METRICS.names()
    metrics = [(metric_label(name), _sentence(METRICS.get(name).summary)) for name in results.metrics if name in known]
    return [*general, *metrics, *_formats(results), *_attacks(results)]


_PLAIN = str.maketrans("", "", "*`")


def _formats(results: Results) -> list[tuple[str, str]]:
    names = [condition.name for condition in results.transforms if condition.kind == "format"]
    families = {start: [name for name in names if name.startswith(start)] for start, _ in FORMAT_FAMILIES}
    return [(", ".join(families[start]), meaning) for start, meaning in FORMAT_FAMILIES if families[start]]


def _attacks(results: Results) -> list[tuple[str, str]]:
    from ..attacks import ATTACKS

    names = [condition.name for condition in results.transforms if condition.kind == "attack"]
    return [(name, _sentence(ATTACKS.get(name).summary)) for name in names if name in ATTACKS.names()]


def _sentence(summary: str) -> str:
    text = summary.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
