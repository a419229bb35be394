"""What counts of single facts see, and how often they are wrong: simulated models with 0 to 12 known facts of 74.

    python -m benchmarks.validity.single                       # the tables, about five minutes on one core
    python -m benchmarks.validity.single --runs 50             # a quick look
    python -m benchmarks.validity.single --write               # into benchmarks/validity/single_facts.md

Scores of models that never knew are log-normal. With a light tail they guess hardly anything, with a heavy one four
facts in a hundred outright. The first table has what becomes of a verdict by counts, beside what the earlier rule says
of the same scores: each metric by itself, the beta-binomial quantile, Bonferroni over all counts. The second has the
two tests that are only reported.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, ks_2samp

from benchmarks.pages import run_simulation
from hf_unlearn.verification.intervals import Bootstrap
from hf_unlearn.verification.single_facts import COMBINED, MOST_GUESSED, Asked, combine, count_facts, judge_counts

PAGE = Path(__file__).with_name("single_facts.md")
FACTS, HOLDOUT = 74, 60
KNOWN = (0, 1, 3, 6, 12)
TAILS = {"light": 0.5, "heavy": 1.3}
"""Logarithmic spread of the scores of a model that never knew; their median is 0.05."""
MEDIAN = 0.05
SHARED = 0.5
"""Correlation of the logarithms of two scores of one fact by one model, in two wordings."""
DRAWS = 200
MORE = 5
"""How many times as many runs there are where nothing is known: there, rare errors are counted."""
NEVER_KNEW = "never knew"
LEVEL = 0.025
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is asked.

    Attributes:
        words: For the table.
        wordings: Scores of each fact under each transform.
        formats: Transforms, which show the same but for a little noise.
        paired: Whether there is a never-knew model; otherwise there are 60 holdout facts.
    """

    words: str
    wordings: int
    formats: int
    paired: bool = True


SETTINGS = (
    Setting("one score", 1, 1),
    Setting("one score, seven formats", 1, 7),
    Setting("four wordings", 4, 1),
    Setting("four wordings, seven formats", 4, 7),
    Setting("four wordings, seven formats, holdout facts", 4, 7, paired=False),
)


@dataclass(frozen=True)
class Scores:
    """Scores of one simulated run, ``[formats, facts, wordings]``; those of holdout facts where it is not paired."""

    judged: _Array
    target: _Array
    never: _Array


def guesses(shape: tuple[int, int], spread: float, generator: np.random.Generator) -> _Array:
    """Scores of a model that never knew, ``[facts, wordings]``."""
    own = generator.standard_normal(shape)
    shared = generator.standard_normal((shape[0], 1))
    logarithm = spread * (SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * own)
    return np.asarray(np.minimum(MEDIAN * np.exp(logarithm), 0.95))


def simulate(setting: Setting, known: int, spread: float, generator: np.random.Generator) -> Scores:
    """One run: the judged model knows the first facts as the target does and never knew the others."""
    shape = (FACTS, setting.wordings)
    judged = guesses(shape, spread, generator)
    target, as_well = (generator.uniform(0.7, 1.0, shape) for _ in range(2))
    judged[:known] = as_well[:known]
    never = guesses(shape if setting.paired else (HOLDOUT, setting.wordings), spread, generator)
    return Scores(*(_in_formats(each, setting.formats, generator) for each in (judged, target, never)))


def _in_formats(scores: _Array, formats: int, generator: np.random.Generator) -> _Array:
    noise = np.exp(0.1 * generator.standard_normal((formats, *scores.shape)))
    return np.asarray(np.minimum(scores[None] * noise, 1.0))


def verdict(scores: Scores, paired: bool) -> str:
    """The package's own: of all counts of all formats."""
    names, others = _names("f", scores.judged.shape[1]), _names("h", scores.never.shape[1])
    counts = []
    for place in range(len(scores.judged)):
        columns = [
            Asked(
                names,
                names,
                *(each[place][:, [column]] for each in (scores.judged, scores.target, scores.never)),
                None if paired else others,
                () if paired else others,
            )
            for column in range(scores.judged.shape[2])
        ]
        counts += [count_facts(each, f"t{place}", f"w{column}") for column, each in enumerate(columns)]
        together = combine(columns)
        counts += [] if together is None else [count_facts(together, f"t{place}", COMBINED)]
    return _worst([row.status for row in judge_counts("judged", counts, None, Bootstrap(DRAWS))])


def earlier_verdict(scores: Scores) -> str:
    """What the earlier rule says, with a never-knew model."""
    found, chances = [], []
    for place in range(len(scores.judged)):
        for column in range(scores.judged.shape[2]):
            s, t, n = (each[place][:, column] for each in (scores.judged, scores.target, scores.never))
            found.append(int(((t - n >= 0.05) & (s - n >= 0.5 * (t - n))).sum()))
            chances.append(int(((t - s >= 0.05) & (n - s >= 0.5 * (t - s))).sum()))
    judged = [(known, chance) for known, chance in zip(found, chances, strict=True) if chance / FACTS <= MOST_GUESSED]
    statuses = []
    for known, chance in judged:
        allowed, surely = (_most_by_chance(chance, tail) for tail in (LEVEL, LEVEL / len(judged)))
        statuses.append("failed" if known > surely else "inconclusive" if known > allowed else "passed")
    return _worst(statuses)


@lru_cache(maxsize=1024)
def _most_by_chance(chance: int, tail: float) -> int:
    return int(betabinom.ppf(1 - tail, FACTS, chance + 0.5, FACTS - chance + 0.5))


def _worst(statuses: Sequence[str]) -> str:
    return next((status for status in ("failed", "inconclusive", "passed") if status in statuses), "reported")


def _names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:03d}" for number in range(count))


@dataclass(frozen=True)
class Counted:
    """What became of a verdict by counts: shares of the runs with each status, now and by the earlier rule."""

    setting: Setting
    tail: str
    known: int
    now: dict[str, float]
    earlier: dict[str, float] | None


def counted(setting: Setting, tail: str, known: int, runs: int, seed: int = 0) -> Counted:
    """Simulate one case.

    Args:
        setting: What is asked.
        tail: How the scores of a model that never knew are spread.
        known: How many facts the judged model knows.
        runs: How often.
        seed: Of everything that is drawn.
    """
    generator = np.random.default_rng([seed, SETTINGS.index(setting), list(TAILS).index(tail), known])
    runs_of = [simulate(setting, known, TAILS[tail], generator) for _ in range(runs)]
    now = _rates([verdict(scores, setting.paired) for scores in runs_of])
    earlier = _rates([earlier_verdict(scores) for scores in runs_of]) if setting.paired else None
    return Counted(setting, tail, known, now, earlier)


def _rates(statuses: Sequence[str]) -> dict[str, float]:
    kinds = ("passed", "inconclusive", "failed", "reported")
    return {status: statuses.count(status) / len(statuses) for status in kinds}


def _never(generator: np.random.Generator, ease: _Array) -> _Array:
    return np.asarray(
        np.minimum(MEDIAN * np.exp(0.7 * (0.7 * ease + 0.7 * generator.standard_normal(len(ease)))), 0.95)
    )


def _pushed(part: float, factor: float) -> Callable[[_Array, _Array], _Array]:
    return lambda scores, target: np.where(np.arange(len(scores)) < part * len(scores), factor * scores, scores)


def _mixture(scores: _Array, target: _Array) -> _Array:
    """As many known as make the mean that of a model that never knew, all others pushed to nothing."""
    known = max(1, round(len(scores) * float(scores.mean() / target.mean())))
    return np.where(np.arange(len(scores)) < known, target, 0.02 * scores)


MODELS: dict[str, Callable[[_Array, _Array], _Array]] = {
    NEVER_KNEW: lambda scores, target: scores,
    "6 of 74 known": lambda scores, target: np.where(np.arange(len(scores)) < 6, target, scores),
    "12 of 74 known": lambda scores, target: np.where(np.arange(len(scores)) < 12, target, scores),
    "some known, all others pushed, same mean": _mixture,
    "a tenth pushed to a fiftieth": _pushed(0.1, 0.02),
    "half pushed to a fiftieth": _pushed(0.5, 0.02),
    "all pushed to a half": _pushed(1.0, 0.5),
}
"""What the scores of a model that never knew become, given the target's."""


@dataclass(frozen=True)
class Reported:
    """How often the tests that are only reported have a p value of at most 2.5 %: shares of the runs."""

    model: str
    paired: bool
    anti_known: float
    distribution: float
    kolmogorov: float


def reported(model: str, paired: bool, runs: int, seed: int = 0) -> Reported:
    """Simulate one case.

    Args:
        model: What became of its facts.
        paired: Beside a never-knew model, whose facts are as easy as the judged model's; or beside 60 holdout facts.
        runs: How often.
        seed: Of everything that is drawn.
    """
    generator = np.random.default_rng([seed, list(MODELS).index(model), paired])
    names, others = _names("f", FACTS), _names("h", HOLDOUT)
    found = np.zeros(3)
    for _ in range(runs):
        ease = generator.standard_normal(FACTS)
        target = generator.uniform(0.7, 1.0, FACTS)
        judged = MODELS[model](_never(generator, ease), target)
        never = _never(generator, ease if paired else generator.standard_normal(HOLDOUT))
        sides = (None, ()) if paired else (others, others)
        asked = Asked(names, names, judged[:, None], target[:, None], never[:, None], *sides)
        (row,) = judge_counts("judged", [count_facts(asked, "identity", "probability")], None, Bootstrap(DRAWS))
        values = (row.anti_known_p, row.same_distribution, ks_2samp(judged, never).pvalue)
        found += [value is not None and value <= LEVEL for value in values]
    return Reported(model, paired, *(found / runs))


def count_table(rows: Sequence[Counted]) -> str:
    """One line per case."""
    lines = [
        "| asked | never-knew scores | known of 74 | passed | inconclusive | failed | not judged | "
        "earlier rule: failed | earlier rule: not judged |",
        f"|{'---|' * 9}",
    ]
    for row in rows:
        now = " | ".join(f"{row.now[status]:.1%}" for status in ("passed", "inconclusive", "failed", "reported"))
        earlier = "– | –"
        if row.earlier is not None:
            earlier = " | ".join(f"{row.earlier[status]:.1%}" for status in ("failed", "reported"))
        lines.append(f"| {row.setting.words} | {row.tail} tail | {row.known} | {now} | {earlier} |")
    return "\n".join(lines)


def reported_table(rows: Sequence[Reported]) -> str:
    """One line per case."""
    lines = [
        "| judged model | beside | anti-known | distribution | Kolmogorov-Smirnov, for comparison |",
        f"|{'---|' * 5}",
    ]
    lines += [
        f"| {row.model} | {'never-knew model' if row.paired else '60 holdout facts'} | {row.anti_known:.1%} | "
        f"{row.distribution:.1%} | {row.kolmogorov:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def page(runs: int) -> str:
    """The whole page."""
    cases = [(setting, tail, known) for setting in SETTINGS for tail in TAILS for known in KNOWN]
    counts = [counted(*case, runs if case[2] else MORE * runs) for case in cases]
    tests = [
        reported(model, paired, runs if model != NEVER_KNEW else 2 * MORE * runs)
        for model in MODELS
        for paired in (True, False)
    ]
    noise = 2.33 * (LEVEL * (1 - LEVEL)) ** 0.5
    never = [row.now["failed"] for row in counts if row.known == 0]
    many, most = MORE * runs, 2 * MORE * runs
    return "\n".join(
        [
            "# Counts of single facts",
            "",
            "Made by `python -m benchmarks.validity.single --write`, "
            f"{datetime.date.today().isoformat()}, numpy {np.__version__}, Python {platform.python_version()}; "
            f"{DRAWS} random exchanges in each run. A model knows some of {FACTS} facts about as well as the target "
            "(0.7 to 1) and never knew the others.",
            "",
            "## The verdict by counts",
            "",
            f"{runs:,} runs of each line, {many:,} where nothing is known. A model that knows nothing may fail in 2.5 "
            f"% of runs; with 99 % probability that is seen as at most {LEVEL + noise / many**0.5:.1%}. The largest "
            f"is {max(never):.1%}. Scores of "
            f"models that never knew are log-normal with median {MEDIAN}; with a heavy tail four facts in a hundred "
            "are guessed with more than 0.5. Wordings are four scores of each fact whose guesses are half shared "
            "(correlation 0.5 of the logarithms); formats show the same scores with 10 % noise. *Not judged*: more "
            "than one fact in twenty looks known by chance under every count. The *earlier rule* took each score by "
            "itself and divided 2.5 % by the number of counts.",
            "",
            count_table(counts),
            "",
            "## What is only reported",
            "",
            f"How often two p values are at most 2.5 %, {runs:,} runs of each line, {most:,} where the judged model "
            f"never knew (a true 2.5 % is seen as at most {LEVEL + noise / most**0.5:.1%} with 99 % probability): "
            "that of the number of *anti-known* "
            "facts, and that of the *distribution* of all scores (Anderson-Darling). Two models that never knew find "
            "the same facts easy (correlation 0.5). The Kolmogorov-Smirnov test does not know of that.",
            "",
            reported_table(tests),
            "",
        ]
    )


def main() -> None:
    """Simulate and print, or write, the tables."""
    run_simulation(__doc__, PAGE, page, 60)


if __name__ == "__main__":
    main()
