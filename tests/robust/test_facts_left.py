"""Which facts are left: the statistic by hand, and by simulation against what it promises."""

from __future__ import annotations

import random

import pytest

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.robust.facts_left import FALSE_SHARE, FactsLeft, Seen, discoveries
from hf_unlearn.robust.recovery_probe import answer_pairs, judged
from hf_unlearn.robust.systematic import systematic_draw

DRAWS = 60
LOOKS = 8


def test_discoveries_are_those_of_the_procedure():
    p_values = {0: 0.01, 1: 0.09, 2: 0.039, 3: 0.5, 4: 0.041}
    # Ranks 1 to 5 are held against 0.02, 0.04, 0.06, 0.08, 0.1.
    assert discoveries(p_values, 0.1) == {0, 2, 4}
    assert discoveries({0: 0.021, 1: 0.05, 2: 0.06, 3: 0.07, 4: 0.11}, 0.1) == {0, 1, 2, 3}  # one large rank is enough
    assert discoveries({0: 0.03, 1: 0.9}, 0.05) == frozenset()
    assert discoveries({}, 0.1) == frozenset()


def test_scores_are_pooled_with_the_later_ones_first():
    facts = FactsLeft(3)
    facts.add({0: Seen(2.0, 1.0)}, [0.0])
    facts.add({0: Seen(1.0, 0.5), 1: Seen(-1.0, 0.01)}, [0.5])
    assert facts.pooled == {0: Seen(1.5, 0.75, look=1), 1: Seen(-1.0, 0.01, look=1)}
    assert facts.false == [0.0, 0.5]
    assert facts.mean == 0.5 * 2.0 + 0.5 * 0.0
    assert facts.by_chance == pytest.approx(1.6449 / 2**0.5, abs=1e-4)
    assert facts.below == {1}


def test_what_was_never_looked_at_is_left():
    facts = FactsLeft(3)
    assert facts.left == {0, 1, 2}
    facts.add({0: Seen(0.0, 0.5), 2: Seen(0.0, 0.5)}, [0.1, -0.1])
    assert facts.left == {1}
    assert facts.weights == {1: 1.0}
    facts.add({1: Seen(0.0, 0.01)}, [0.1, -0.1])
    assert facts.left == frozenset()
    assert facts.weights == {0: 1.0, 2: 1.0}  # all but what is below chance
    facts.add({0: Seen(0.0, -9.0), 2: Seen(0.0, -9.0)}, [])
    assert facts.weights == {0: 1.0, 1: 1.0, 2: 1.0}  # everything is below chance: nothing can be chosen


def test_what_is_known_best_weighs_most():
    facts = FactsLeft(4)
    facts.add({0: Seen(4.0, 1.0), 1: Seen(2.0, 1.0), 2: Seen(-1.0, 0.5)}, [0.0] * 9)
    assert facts.weights == {0: 16.0, 1: 4.0, 3: 10.0}


def test_a_systematic_draw_follows_its_weights():
    weights = {7: 6.0, 3: 1.5, 5: 0.5}
    drawn = [systematic_draw(weights, 4, random.Random(seed)) for seed in range(400)]
    assert {len(one) for one in drawn} == {4}
    assert {one.count(7) for one in drawn} == {3}
    assert {one.count(3) for one in drawn} == {0, 1} == {one.count(5) for one in drawn}
    assert sum(one.count(3) for one in drawn) / 400 == pytest.approx(0.75, abs=0.09)  # four standard errors
    assert len({tuple(one) for one in drawn}) > 4
    assert systematic_draw(weights, 4, random.Random(1)) == drawn[1]


def test_single_facts_are_found_beside_any_number_that_is_gone():
    false = [place / 1000 for place in range(-1000, 1000)]
    facts = FactsLeft(60)
    facts.add({number: Seen(5.0 if number < 2 else -0.3, 0.5) for number in range(60)}, false)
    assert facts.left == {0, 1}


def test_many_facts_with_a_little_are_found_together():
    """No single one stands out of the false pairs."""
    false = [place / 100 for place in range(-200, 200)]
    facts = FactsLeft(60)
    facts.add({number: Seen(0.6 if number % 3 else -0.2, 0.5) for number in range(60)}, false)
    assert facts.left == {number for number in range(60) if number % 3}
    few = FactsLeft(60)
    few.add({number: Seen(0.1, 0.5) for number in range(60)}, false)  # chance reaches 1.645 / sqrt(60) = 0.21
    assert few.left == frozenset()


def rows_of(count: int) -> list[EncodedRow]:
    """Facts whose answers have one to four tokens."""
    return [
        EncodedRow(str(n), (n, *range(10_000 + 10 * n, 10_001 + 10 * n + n % 4)), 1, group=str(n))
        for n in range(count)
    ]


class Simulated:
    """A model that adds to the right answer's log-probability what it knows, for each fact.

    Answers are likely or not whatever is asked, questions make everything likely or not, and pairs fit each other by
    chance, some of them very well. Most of the time the fit of a right pair is what it was at the last look.
    """

    def __init__(self, known: list[float], seed: int) -> None:
        self.draw = random.Random(seed)
        self.known, self.rows = known, rows_of(len(known))
        self.answers = [self.draw.gauss(-8, 1.5) for _ in known]
        self.questions = [self.draw.gauss(0, 0.5) for _ in known]
        self.kept = [self._fit(row) for row in self.rows]
        self.facts = FactsLeft(len(known))

    def _fit(self, answer: EncodedRow) -> float:
        tokens = len(answer.input_ids) - answer.n_prompt
        return self.draw.gauss(0, 1) * (3 if self.draw.random() < 0.05 else 1) / tokens**0.5

    def look(self) -> None:
        chosen = self.draw.sample(range(len(self.known)), len(self.known) // 2)
        rows = [self.rows[number] for number in chosen]
        pairs = answer_pairs(rows, self.draw)
        logps = []
        for pair in pairs:
            question, answer = chosen[pair.question], chosen[pair.answer]
            fit = self._fit(self.rows[answer])
            if question == answer:
                fit = self.known[question] + (self.kept[question] if self.draw.random() < 0.7 else fit)
            logps.append(min(0.0, self.answers[answer] + self.questions[question] + fit))
        seen = judged(pairs, logps, [len(row.input_ids) - row.n_prompt for row in rows])
        self.facts.add({chosen[place]: found for place, found in seen.right.items()}, seen.false)


def ended(known: list[float]) -> float:
    """Of so many simulated runs, the share in which nothing is left after some looks."""
    gone = 0
    for seed in range(DRAWS):
        model = Simulated(known, seed)
        for _ in range(LOOKS):
            model.look()
        gone += not (model.facts.left - (frozenset(range(len(known))) - model.facts.pooled.keys()))
    return gone / DRAWS


def test_a_model_that_never_knew_ends():
    """Both questions together find something in at most a quarter of looks; 60 draws have a standard error of 0.06."""
    assert FALSE_SHARE == 0.2
    assert ended([0.0] * 48) >= 0.75


@pytest.mark.parametrize("depth", [-4.0, -30.0, -100.0])
def test_what_is_below_chance_pays_for_nothing(depth):
    """One fact in six is known (at about a third of probability), all others are pushed down."""
    known = [7.0 if number % 6 == 0 else depth for number in range(48)]
    assert ended(known) == 0.0
    model = Simulated(known, seed=0)
    for _ in range(LOOKS):
        model.look()
    left = model.facts.left & model.facts.pooled.keys()
    assert {number for number in left if known[number] < 0} <= {1}
    assert len(left) >= 7
    assert model.facts.below >= {1, 2, 3} or depth == -4.0


def test_a_single_known_fact_does_not_end():
    assert ended([8.0] + [-20.0] * 47) <= 0.1


def test_a_little_of_everything_does_not_end():
    assert ended([1.0] * 48) <= 0.1  # nats per token
