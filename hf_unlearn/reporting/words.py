"""How names and numbers are written for people."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from ..verification.values import Interval

SPACE = "\N{NO-BREAK SPACE}"
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
METRIC_LABELS = {
    "probability": "answer probability",
    "extraction_strength": "extraction strength",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "mc_accuracy": "multiple-choice accuracy",
    "mc_probability": "multiple-choice probability",
    "kl_to_target": "KL to target (nats per token)",
    "nll": "loss on ordinary text (nats per token)",
    "perplexity": "perplexity of ordinary text",
    "fluency": "fluency (n-gram entropy)",
    "combined": "all metrics together",
    "unlearning_depth": "unlearning depth (UDS)",
    "patched_logp": "log-probability in the target (nats per token)",
}
_METRIC_IDS = re.compile(rf"\b({'|'.join(name for name in METRIC_LABELS if '_' in name)})\b")
_KEY_WORDS = {
    "kl": "KL",
    "lr": "learning rate",
    "hub id": "Hub id",
    "rtt": "RTT",
    "never knew": "retrained model (never knew)",
    "max recovered share formats": "most recovered share, as is and in formats",
    "max recovered share attacks": "most recovered share, after attacks",
    "min recovered share": "least recovered share",
    "max known facts": "most known facts",
    "max forgotten rows auc": "most AUC of forgotten rows",
    "min utility": "least utility",
    "max generic kl": "most KL on generic text",
    "max perplexity ratio": "most perplexity of ordinary text, over the target's",
    "min fluency": "least fluency",
    "draws": "bootstrap draws",
    "run folds": "folds that were run",
    "groups in T": "groups of facts to train on",
    "groups in V": "other groups to ask for",
    "rows in T": "rows to train on",
    "groups left out": "groups left out of both",
    "steps per rate": "steps at each learning rate",
    "gives up after": "epochs without gain until a learning rate is given up",
    "form": "text that is trained on",
    "asked by": "text that is asked for",
    "loss tokens": "tokens with a loss",
    "leaks": "groups that may give each other away",
    "handled": "kept",
    "given": "given to the attacker",
}


def metric_label(metric: str | None) -> str:
    """A metric's name as people read it."""
    return METRIC_LABELS.get(metric or "", (metric or "score").replace("_", " "))


def spelled(sentence: str) -> str:
    """A sentence of a report with the ids of metrics in it as words."""
    return _METRIC_IDS.sub(lambda found: metric_phrase(found[0]), sentence)


def key_words(key: str) -> str:
    """A key of a report as people read it: ``hardware.cores`` is ``hardware, cores``."""
    parts = [part.replace("_", " ").strip() for part in key.split(".")]
    return ", ".join(METRIC_LABELS.get(part.replace(" ", "_"), _KEY_WORDS.get(part, part)) for part in parts)


def day(moment: str | None) -> str:
    """The day of an ISO 8601 moment, as in ``30 November 2026``; what it is otherwise, if it is none."""
    try:
        found = datetime.date.fromisoformat((moment or "")[:10])
    except ValueError:
        return moment or ""
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}"


def metric_phrase(metric: str | None) -> str:
    """A metric's name within a sentence, without the part in brackets."""
    return metric_label(metric).split(" (")[0]


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def show(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals; an en dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def p_value(value: float | None) -> str:
    """A p value: two decimals, or that it is smaller than can be told."""
    if value is None:
        return "–"
    return f"<{SPACE}0.001" if value < 0.001 else show(value, 3 if value < 0.1 else 2)


def show_interval(interval: Interval) -> str:
    """An interval in words, so that a minus sign cannot be taken for a dash; empty where there is none."""
    return "" if interval is None else f"{show(interval[0])} to {show(interval[1])}"


def percent(share: float | None) -> str:
    """A share as a percentage, with decimals only near 0 and 100 %."""
    if share is None:
        return "–"
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}{SPACE}%"
    digits = 0 if 0.1 <= share <= 0.9 else 1 if 0.01 <= share <= 0.99 else 2
    text = f"{100 * share:.{digits}f}"
    if not float(text):
        return f"<{SPACE}0.01{SPACE}%"
    return f">{SPACE}99.99{SPACE}%" if float(text) == 100 else f"{text}{SPACE}%"
