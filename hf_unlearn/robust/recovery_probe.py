"""What rehearsed attacks bring back of the facts that they do not teach, fact by fact."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import NamedTuple

import torch
from accelerate.utils import reduce

from ..data.encoding import EncodedRow
from ..models.even_share import even_share
from .base import TrainingContext
from .facts_left import FactsLeft, Seen

MOST_ROWS = 128
"""Facts looked at per round: few enough to cost little."""
OTHERS = 3
"""Answers of other rows that each question is put together with, and questions of other rows that each answer is."""
LEAST_LOOKS = 3
"""So many looks in a row must find nothing left: one of them misses facts of which little is left."""
QUIET_SHARE = 0.25
"""Of false answers; a right one that is less likely than these need not be lowered further."""
LEVEL_SHARE = 0.375
"""Of false answers; what is raised to this place among them is below their middle, and tells nothing."""
LEAST_SPREAD = 0.01
"""Nats per token: differences far below this are rounding."""


class Pair(NamedTuple):
    """The answer of one row after the question of another one, or of the same.

    Attributes:
        question: Position of the row in a list.
        answer: Position of the other one in the same list.
    """

    question: int
    answer: int

    @property
    def right(self) -> bool:
        """Whether they belong together."""
        return self.question == self.answer


@dataclass
class RecoveryProbe:
    r"""How much more likely an answer is after its own question than after others, fact by fact.

    A look scores the right pairs of question and answer, and as false pairs each question with the answers of
    :data:`OTHERS` other rows, and so each answer after as many other questions: of the same group where it has enough
    rows, so that a name in question and answer does not give the right one away. With :math:`\ell_{ij}` the mean
    log-probability per token of answer :math:`j` after question :math:`i`, :math:`n_j` its tokens and
    :math:`\ell_0` the median of the false pairs,

    .. math:: s_{ij} = \sqrt{n_j} \max(\ell_{ij}, \ell_0), \qquad d_{ij} = s_{ij} - \bar s_{\cdot j}

    with the mean over the false questions of answer :math:`j` without :math:`i`: how likely an answer is anyway is
    taken out. A right answer that is less likely than a false one usually is counts as that, however far it was pushed
    down: what it would show otherwise is what unlearning did to the answer's words, and not what the question reveals.
    The root makes long and short answers differ by about as much. The score of a fact is :math:`d_{ii}` in units of
    the root mean square of the false pairs, and :class:`~.facts_left.FactsLeft` says what is left.

    A model that never knew can be above chance, as far as questions and answers of a kind fit each other; here no such
    model is available to measure that. If prompts do not differ (plain text), the first half of a row serves as its
    prompt.

    Cost: a forward pass over at most ``1 + OTHERS`` times :data:`MOST_ROWS` rows each time.

    Attributes:
        facts: The forget rows, by their positions in the context.
        preferences: By how much a right answer is more likely than false ones after the same question, mean over the
            rows of a look, in nats per token; one per look.
        left: How many facts were left after each look.
        below: How many were below chance.
        least: Mean log-probability per token that :data:`QUIET_SHARE` of the false answers of the latest look have at
            most; ``None`` before any.
        level: What :data:`LEVEL_SHARE` of them have at most.
        floating_point_ops: Of all looks so far, as transformers counts them.
    """

    facts: FactsLeft
    preferences: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    least: float | None = None
    level: float | None = None
    floating_point_ops: int = 0

    @property
    def gone(self) -> bool:
        """Whether no fact was left in the latest looks, at least :data:`LEAST_LOOKS`, which together prefer nothing.

        Each finds what the other misses: facts below chance cannot make up for a known one in the first, and a little
        of very many facts, too little to be told from chance in a few looks, adds up in the second.
        """
        found = [place for place, left in enumerate(self.left, start=1) if left]
        latest = self.preferences[found[-1] if found else 0 :]
        return len(latest) >= LEAST_LOOKS and fmean(latest) < LEAST_SPREAD

    def look(self, context: TrainingContext, numbers: Sequence[int], seed: str) -> None:
        """Probe the model as it is. All processes call this together, and share the rows.

        Args:
            context: Of the run.
            numbers: Positions of the forget rows that were not just taught. If there are no two to compare, nothing is
                recorded.
            seed: Of what is drawn.
        """
        draw = random.Random(seed)
        chosen = self._chosen(numbers, draw)
        rows = with_prompts([context.forget_rows[number] for number in chosen])
        pairs = answer_pairs(rows, draw)
        if not pairs:
            return
        lengths = [len(row.input_ids) - row.n_prompt for row in rows]
        seen = judged(pairs, self._logps(context, rows, pairs), lengths)
        self.facts.add({chosen[place]: found for place, found in seen.right.items()}, seen.false)
        self.preferences.append(seen.preference)
        self.least, self.level = seen.least, seen.level
        self.left.append(len(self.facts.left))
        self.below.append(len(self.facts.below))

    def saved(self) -> dict[str, torch.Tensor]:
        """All that looks have found, for :meth:`restore`; bit for bit."""
        facts, pooled = self.facts, self.facts.pooled
        return {
            "look_operations": torch.tensor(self.floating_point_ops),
            "least_logp": torch.tensor(math.nan if self.least is None else self.least, dtype=torch.float64),
            "preferences": torch.tensor(self.preferences, dtype=torch.float64),
            "facts_left": torch.tensor(self.left, dtype=torch.int64),
            "facts_below": torch.tensor(self.below, dtype=torch.int64),
            "facts_seen": torch.tensor(sorted(pooled), dtype=torch.int64),
            "fact_scores": torch.tensor([pooled[number].score for number in sorted(pooled)], dtype=torch.float64),
            "fact_ranks": torch.tensor([pooled[number].rank for number in sorted(pooled)], dtype=torch.float64),
            "fact_looks": torch.tensor([pooled[number].look for number in sorted(pooled)], dtype=torch.int64),
            "false_scores": torch.tensor(facts.false, dtype=torch.float64),
            "looks": torch.tensor(facts.looks),
            "look_means": torch.tensor([facts.mean, facts.by_chance], dtype=torch.float64),
        }

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Takes back what :meth:`saved` gave."""
        self.floating_point_ops = int(saved["look_operations"])
        least = float(saved["least_logp"])
        self.least = None if math.isnan(least) else least
        self.preferences = saved["preferences"].tolist()
        self.left, self.below = saved["facts_left"].tolist(), saved["facts_below"].tolist()
        numbers, *columns = (saved[f"fact{name}"].tolist() for name in ("s_seen", "_scores", "_ranks", "_looks"))
        self.facts.pooled = {number: Seen(*found) for number, *found in zip(numbers, *columns, strict=True)}
        self.facts.false, self.facts.looks = saved["false_scores"].tolist(), int(saved["looks"])
        self.facts.mean, self.facts.by_chance = saved["look_means"].tolist()

    def _chosen(self, numbers: Sequence[int], draw: random.Random) -> list[int]:
        """At most :data:`MOST_ROWS`: those that are left first, and of them those of which least is known."""
        left, pooled = self.facts.left, self.facts.pooled
        order = draw.sample(list(numbers), len(numbers))
        latest = {number: pooled[number].look if number in pooled else -1 for number in order}
        return sorted(order, key=lambda number: (number not in left, latest[number]))[:MOST_ROWS]

    @torch.no_grad()
    def _logps(self, context: TrainingContext, rows: Sequence[EncodedRow], pairs: Sequence[Pair]) -> list[float]:
        """The mean label log-probability of each pair."""
        share = even_share(len(pairs))
        longest = max(len(row.input_ids) for row in rows)
        asked = [
            put_together(rows[pairs[place].question], rows[pairs[place].answer], longest) for place in share.places
        ]
        means: list[torch.Tensor] = []
        for batch in context.batches(asked):
            scores = context.score(batch)
            logps = scores.logps.double()
            sums = torch.zeros(scores.n_rows, dtype=torch.float64, device=logps.device)
            means.append(sums.index_add_(0, scores.rows, logps) / scores.row_lengths)
            self.floating_point_ops += context.floating_point_ops(batch) // 3  # no backward pass
        own = torch.cat(means)[: share.own]
        found = torch.zeros(len(pairs), dtype=torch.float64, device=own.device)
        found[torch.tensor(share.places[: share.own], dtype=torch.int64, device=own.device)] = own
        return reduce(found, "sum").tolist()


def with_prompts(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """The rows with what their answers follow; of plain text, whose prompts do not differ, the first half."""
    if len({_prompt(row) for row in rows}) > 1:
        return [replace(row, labels=None) for row in rows]
    return [replace(row, n_prompt=len(row.input_ids) // 2, labels=None) for row in rows if len(row.input_ids) > 1]


def answer_pairs(rows: Sequence[EncodedRow], draw: random.Random) -> list[Pair]:
    """Right pairs of question and answer, and false ones: as many for each question as for each answer.

    Groups with more than :data:`OTHERS` rows are each dealt among themselves, all other rows together. A pair whose
    question or answer is the same as that of the right pair is no comparison. A row has a right pair
    if it has a false answer, and its answer two false questions.

    Args:
        rows: Those that are looked at.
        draw: Deals them.
    """
    by_group: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_group[row.group].append(place)
    decks = [members for members in by_group.values() if len(members) > OTHERS]
    decks.append([place for members in by_group.values() if len(members) <= OTHERS for place in members])
    pairs = []
    for deck in decks:
        dealt = draw.sample(deck, len(deck))
        shifts = range(1, min(OTHERS, len(deck) - 1) + 1)
        dealt_pairs = (
            Pair(question, dealt[(place + shift) % len(deck)])
            for shift in shifts
            for place, question in enumerate(dealt)
        )
        false = [pair for pair in dealt_pairs if _differ(rows[pair.question], rows[pair.answer])]
        asked, answers = Counter(pair.question for pair in false), Counter(pair.answer for pair in false)
        pairs += [Pair(place, place) for place in deck if asked[place] and answers[place] > 1]
        pairs += false
    return pairs if any(pair.right for pair in pairs) else []


@dataclass(frozen=True)
class Look:
    """What one look says.

    Attributes:
        right: By row.
        false: Scores of the false pairs.
        preference: See :attr:`RecoveryProbe.preferences`.
        least: See :attr:`RecoveryProbe.least`.
        level: See :attr:`RecoveryProbe.level`.
    """

    right: Mapping[int, Seen]
    false: Sequence[float]
    preference: float
    least: float
    level: float


def judged(pairs: Sequence[Pair], logps: Sequence[float], lengths: Sequence[int]) -> Look:
    """Scores of right and false pairs: see :class:`RecoveryProbe`.

    Args:
        pairs: See :func:`answer_pairs`.
        logps: Mean label log-probability of each, in nats per token.
        lengths: Of the rows' answers, in tokens.
    """
    false_logps = sorted(logp for pair, logp in zip(pairs, logps, strict=True) if not pair.right)
    least = median(false_logps)
    by_question: dict[int, list[float]] = defaultdict(list)
    by_answer: dict[int, list[float]] = defaultdict(list)
    scores = [math.sqrt(lengths[pair.answer]) * max(logp, least) for pair, logp in zip(pairs, logps, strict=True)]
    for pair, logp, score in zip(pairs, logps, scores, strict=True):
        if not pair.right:
            by_question[pair.question].append(logp)
            by_answer[pair.answer].append(score)
    right, false, preferences = {}, [], []
    for pair, logp, score in zip(pairs, logps, scores, strict=True):
        terms = by_answer[pair.answer]
        if pair.right:
            less, no_more = (
                bisect_left(false_logps, logp - LEAST_SPREAD),
                bisect_right(false_logps, logp + LEAST_SPREAD),
            )
            rank = (less + no_more) / (2 * len(false_logps))
            right[pair.question] = Seen(score - fmean(terms), rank)
            preferences.append(logp - fmean(by_question[pair.question]))
        elif len(terms) > 1:
            false.append(score - (math.fsum(terms) - score) / (len(terms) - 1))
    unit = max(LEAST_SPREAD, math.sqrt(fmean(each * each for each in false)))
    return Look(
        {place: Seen(seen.score / unit, seen.rank) for place, seen in right.items()},
        [each / unit for each in false],
        fmean(preferences),
        *(false_logps[int(share * len(false_logps))] for share in (QUIET_SHARE, LEVEL_SHARE)),
    )


def put_together(question: EncodedRow, answer: EncodedRow, longest: int) -> EncodedRow:
    """The answer of one row after the prompt of another; an answer that would make it longer is cut."""
    return replace(question, input_ids=(_prompt(question) + _answer(answer))[:longest], labels=None)


def _differ(first: EncodedRow, second: EncodedRow) -> bool:
    return _prompt(first) != _prompt(second) and _answer(first) != _answer(second)


def _prompt(row: EncodedRow) -> tuple[int, ...]:
    return row.input_ids[: row.n_prompt]


def _answer(row: EncodedRow) -> tuple[int, ...]:
    return row.input_ids[row.n_prompt :]
