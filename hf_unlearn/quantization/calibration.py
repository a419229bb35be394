"""Calibration text: the text GPTQ and AWQ use to choose roundings.

Both choose roundings that change the outputs of layers little *on this text*. So the text is part of the format: a
quantizer that sees the facts to forget may keep or bring back different things from one that sees ordinary text.
Ordinary text is the default, rows that repeat what is to be forgotten or what is scored are removed, and the forget
set is used only where the recipe asks for ``forget-aware``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..data.encoding import TextFormat, encode_row
from ..data.example import DataBundle, Example
from ..data.overlap import SHORTEST, Overlap, row_text, row_texts, words
from ..data.sources import Source
from ..errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEND = "set another text in export.calibration.source"
# A text of which this share repeats the forget set was not meant as ordinary text.
_MISTAKEN = 0.5


@dataclass(frozen=True)
class CalibrationSpec:
    """The text that GPTQ and AWQ are calibrated on.

    Attributes:
        kind: ``generic`` for ordinary text only, or ``forget-aware`` for half forget rows and half ordinary text. A
            format's name may say otherwise: ``gptq-int4-g128@forget-aware``.
        source: Where ordinary text comes from; the training rows of the run's generic set if left out.
        rows: Maximum number of rows, drawn with the run's seed.
        max_length: Tokens per row; longer rows are cut.
        min_tokens: Minimum number of tokens to calibrate with; the widest layer's number of inputs if left out (with
            fewer, the inputs' second moments that GPTQ inverts have no full rank).
    """

    kind: Literal["generic", "forget-aware"] = "generic"
    source: Source | None = None
    rows: int = 128
    max_length: int = 512
    min_tokens: int | None = None

    def __post_init__(self) -> None:
        for key, least in (("rows", 1), ("max_length", 2), ("min_tokens", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise RequestError(f"export.calibration.{key} is {value}: it must be at least {least}")


@dataclass(frozen=True)
class Text:
    """Ordinary text to choose from.

    Attributes:
        rows: Its rows.
        name: What a report may call it; never a local path.
        revision: Its revision on the Hub, if one was given.
    """

    rows: tuple[Example, ...]
    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Calibration:
    """Chosen calibration rows.

    Attributes:
        kind: Which choice this is.
        text: Name of the ordinary text.
        revision: Its revision on the Hub, if one was given.
        rows: Rows of ordinary text, in the order in which they are used.
        forget_rows: Rows of the forget set that come after them.
        found: Rows of the text before any were removed.
        removed: Rows that were removed, by reason: ``forget`` and ``scoring`` (overlap with these), ``short``.
        max_length: Tokens per row.
        min_tokens: See :class:`CalibrationSpec`.
        text_format: How a row becomes text.
        seed: The seed the rows were drawn with.
    """

    kind: str
    text: str
    revision: str | None
    rows: tuple[Example, ...]
    forget_rows: tuple[Example, ...]
    found: int
    removed: dict[str, int]
    max_length: int
    min_tokens: int | None
    text_format: TextFormat
    seed: int

    def encode(self, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> list[tuple[int, ...]]:
        """Token ids of every row, cut to ``max_length`` and to the model's ``positions``."""
        limit = min(self.max_length, positions or self.max_length)
        eos = tokenizer.eos_token_id is not None
        rows = (*self.rows, *self.forget_rows)
        return [encode_row(row, tokenizer, self.text_format, eos=eos).input_ids[:limit] for row in rows]

    def check_length(self, tokens: int, widest: int) -> None:
        """Refuse text that is too short for a model.

        Args:
            tokens: Tokens over all rows.
            widest: Inputs of the model's widest layer.

        Raises:
            RequestError: Says how many tokens there are and how many are needed.
        """
        least = widest if self.min_tokens is None else self.min_tokens
        if tokens < least:
            reason = "as many as the widest layer has inputs" if self.min_tokens is None else "export.calibration"
            raise RequestError(
                f"the calibration text ({self.text}) has {tokens} tokens in {len(self.rows) + len(self.forget_rows)} "
                f"rows, and {least} are needed ({reason}): raise export.calibration.rows, {MEND}, or set "
                "export.calibration.min_tokens lower"
            )

    def record(self, tokens: int) -> dict[str, Any]:
        """What the export and the report say of it: no text, and no hash from which forget rows could be guessed.

        Args:
            tokens: Tokens over all rows, as they were used.
        """
        return {
            "kind": self.kind,
            "text": self.text,
            "revision": self.revision,
            "digest": digest(self.rows),
            "rows": len(self.rows),
            "forget_rows": len(self.forget_rows),
            "tokens": tokens,
            "max_length": self.max_length,
            "found": self.found,
            "removed": dict(self.removed),
            "seed": self.seed,
        }

    def fingerprint(self) -> str:
        """sha256 over everything that decides the result. For manifests, which are not published."""
        parts: tuple[Any, ...] = (
            self.kind,
            digest(self.rows),
            digest(self.forget_rows),
            self.max_length,
            self.min_tokens,
        )
        if not self.text_format.ends_plain_rows:
            parts = (*parts, self.text_format.end)
        return hashlib.sha256(repr((*parts, self.text_format)).encode()).hexdigest()


def choose(
    kind: str, spec: CalibrationSpec, text: Text, bundle: DataBundle, text_format: TextFormat, seed: int
) -> Calibration:
    """Choose calibration rows.

    Args:
        kind: ``generic`` or ``forget-aware``.
        spec: How many rows, and how long.
        text: Ordinary text.
        bundle: The run's sets: what is forgotten and what is scored.
        text_format: How a row becomes text.
        seed: Seed of the draw.

    Raises:
        RequestError: The text is empty, repeats the forget set, or has no row that is not scored.
    """
    if not text.rows:
        raise RequestError(f"the calibration text ({text.name}) has no rows: {MEND}")
    long = [row for row in text.rows if len(words(row_text(row))) >= SHORTEST]
    apart = _without(long, _texts(bundle.forget))
    in_forget = len(long) - len(apart)
    if long and in_forget >= _MISTAKEN * len(long):
        raise RequestError(
            f"{in_forget} of {len(long)} rows of the calibration text ({text.name}) repeat the forget set: {MEND}, or "
            "ask for export.calibration.kind: forget-aware if the quantizer should see what is forgotten"
        )
    free = _without(apart, _scored(bundle))
    removed = {"forget": in_forget, "scoring": len(apart) - len(free), "short": len(text.rows) - len(long)}
    if not free:
        raise RequestError(
            f"no row of the calibration text ({text.name}) is left: of {len(text.rows)} rows {removed['scoring']} are "
            f"scored too, {in_forget} repeat the forget set and {removed['short']} have fewer than {SHORTEST} words: "
            f"{MEND}, or set data.generic.score_limit, so that some of its rows are not scored"
        )
    forget = bundle.forget.train if kind == "forget-aware" else ()
    forget_rows = _draw(forget, spec.rows // 2, f"forget-{seed}")
    return Calibration(
        kind=kind,
        text=text.name,
        revision=text.revision,
        rows=_draw(free, spec.rows - len(forget_rows), f"text-{seed}"),
        forget_rows=forget_rows,
        found=len(text.rows),
        removed=removed,
        max_length=spec.max_length,
        min_tokens=spec.min_tokens,
        text_format=text_format,
        seed=seed,
    )


def digest(rows: Iterable[Example]) -> str:
    """sha256 over the rows' texts, in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(hashlib.sha256(row_text(row).encode()).digest())
    return total.hexdigest()


def _texts(rows: Iterable[Example]) -> list[str]:
    return [text for row in rows for text in row_texts(row)]


def _scored(bundle: DataBundle) -> list[str]:
    scored = (row for name, rows in bundle.scored_sets().items() if name != "forget" for row in rows)
    return _texts((*scored, *bundle.generic.score))


def _without(rows: Sequence[Example], texts: list[str]) -> list[Example]:
    known = Overlap(texts)
    return [row for row in rows if not known.touches(row_text(row))]


def _draw(rows: Sequence[Example], count: int, seed: str) -> tuple[Example, ...]:
    if len(rows) <= count:
        return tuple(rows)
    places = sorted(random.Random(f"calibration-{seed}").sample(range(len(rows)), count))
    return tuple(rows[place] for place in places)
