"""Steps to recover: how long a model must be retrained until half of what the target knew is back.

Two models that both end up relearned can differ by a factor of a thousand in the steps that this took. So a model is
retrained at several rates, with whole weights and with adapters, and scored after 1, 2, 4, 8 ... steps; a rate ends
with the last step or once the retain set is lost. Once the attacker has some of the forgotten facts and is asked the
others, as in RTT, and once all of them and is asked for all. The same numbers for the model that never knew say how
much of that is learning anew.

Sources: the tampering curves of EleutherAI/unlearn (``scripts/run_tamper_attack_with_plot.py``: accuracy every so many
steps of fine-tuning, whole weights or LoRA, constant rate); Che et al., arXiv 2502.05209 (unlearning undone within 16
steps). The grid of steps, the limit by retain rows and the number are this project's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, fact_scores, read_records, write_records
from ..verification.recovery import Ended, RecoveryCurve, Taught
from ..verification.scores import FactScores
from . import ATTACKS
from .base import Attacked, AttackResult
from .best import Try, best_of
from .cost import AttackCost
from .relearn import RelearnAll
from .retrained_model import Texts
from .retraining import SHARDS, Lesson, RetrainingAttack, retraining
from .retraining_settings import check_least
from .rtt_sets import BARE, Fold, make_folds, write_texts
from .tuning import Tuning

BACK = 0.95
"""Where every metric is as high as this, all is back, and nothing more is to be seen."""
_END = "end.json"
_STEP = "step"
_SPLITS = ("forget", "holdout", "retain")
Trained = Literal["full", "lora"]


class _Job(NamedTuple):
    """Attributes:
    taught: What is trained on.
    tuning: What of the model is trained.
    rate: The learning rate.
    """

    taught: Taught
    tuning: Trained
    rate: float

    @property
    def name(self) -> str:
        return f"{self.taught}-{self.tuning}-lr{self.rate!r}"

    @staticmethod
    def read(name: str) -> _Job:
        way, _, rate = name.partition("-lr")
        taught, _, tuning = way.partition("-")
        return next(
            _Job(one, other, float(rate))
            for one in get_args(Taught)
            for other in get_args(Trained)
            if (one, other) == (taught, tuning)
        )


@ATTACKS.register(
    "steps-to-recover",
    summary="retrain at several rates, with whole weights and adapters: after how many steps half is back",
    paper="EleutherAI/unlearn (tampering curves), arXiv 2502.05209 (steps until undone)",
    defaults=("learning_rates", "max_steps", "min_retain", "taught", "adapters", "batch_size"),
    needs=("groups", "never-knew control"),
    tier="deep",
)
@dataclass(frozen=True, kw_only=True)
class StepsToRecover(RetrainingAttack):
    """Settings of the curves. They are reported, and judged only if a gate names the attack.

    Attributes:
        max_steps: Steps that a rate is run for at most.
        growth: Each score comes after so many times as many steps as the one before, from one step on.
        min_retain: A rate ends once the score on retain rows is under this share of what it was before, in every
            metric; 0 for no such end.
        retain_rows: Retain rows that are asked beside, drawn once with the seed.
        taught: ``part`` trains on T and asks V as ``rtt`` does, in one fold; ``all`` trains on the whole forget set
            and asks all of it.
        adapters: Whether every rate is run with adapters too, where ``tuning`` is ``full``.
        folds: Parts of which one is V, for ``part``.
        seed: Seed of the folds, of the retain rows and of the order of rows.
    """

    max_steps: int = 3000
    growth: float = 2.0
    min_retain: float = 0.5
    retain_rows: int = 64
    taught: tuple[Taught, ...] = ("part", "all")
    adapters: bool = True
    folds: int = 5

    learning_rates: tuple[float, ...] = (2e-5, 1e-4, 3e-4, 1e-3)
    epochs: int = field(default=1, init=False)
    patience: int = field(default=0, init=False)

    name: ClassVar[str] = "steps-to-recover"
    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_least(self.name, "max_steps", self.max_steps, 1)
        check_least(self.name, "retain_rows", self.retain_rows, 1)
        if self.growth < 1.1:
            raise RequestError(
                f"{self.name}.growth is {self.growth}: it must be at least 1.1, or every step would be scored"
            )
        if not 0 <= self.min_retain < 1:
            raise RequestError(f"{self.name}.min_retain is {self.min_retain}: it must be a share below 1, or 0")
        if not self.taught:
            raise RequestError(f"{self.name}.taught is empty: name part, all or both")
        if len(set(self.taught)) < len(self.taught):
            raise RequestError(f"{self.name}.taught names one twice: once is enough")
        if self.folds < 2:
            raise RequestError(
                f"{self.name}.folds is {self.folds}: at least 2 are needed, one to train on and one to ask for"
            )
        super().__post_init__()
        for trained in self._tunings:
            Tuning(trained, self.lora_rank).check(self.name)

    @property
    def no_floor(self) -> str:  # type: ignore[override]
        """Empty where V is asked for: holdout facts can be asked beside it."""
        return "" if "part" in self.taught else RelearnAll.no_floor

    @property
    def marks(self) -> tuple[int, ...]:
        """Numbers of steps after which is scored: 1, then ``growth`` times as many each, and the last one."""
        found, mark = [], 1.0
        while round(mark) < self.max_steps:
            found.append(round(mark))
            mark *= self.growth
        return (*dict.fromkeys(found), self.max_steps)

    @property
    def needs_adapters(self) -> bool:
        """With whole weights too, unless they are left out."""
        return "lora" in self._tunings

    def step_count(self, rows: int) -> int:
        """The same for any number of rows."""
        return self.max_steps

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job for each way of training and rate."""
        for taught in self.taught:
            self._lesson(taught, bundle, BARE)
        return [
            _Job(taught, tuning, rate).name
            for taught in self.taught
            for tuning in self._tunings
            for rate in self.learning_rates
        ]

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit."""
        for tuning in self._tunings:
            Tuning(tuning, self.lora_rank, self.steps.lora_targets).check_model(self.name, attacked.folder)

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """The one that trains on more."""
        return self._lesson("all" if "all" in self.taught else "part", bundle, text_format)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Train at one rate; write the scores after each mark as ``step<N>.jsonl`` (0 is before), and why it ended."""
        taught, tuning, rate = _Job.read(job)
        bundle = attacked.bundle
        lesson = self._lesson(taught, bundle, attacked.text_format)
        retain = self._retain(bundle)
        beside = (*self.floor_rows(bundle), *retain)
        end = _Ending(self.min_retain)
        with retraining(replace(self, tuning=tuning), attacked.folder) as model:
            if (shards := model.shards()) is not None:
                (out / SHARDS).write_text(json.dumps(shards), encoding="utf-8")
            before = _apart(model.score_untouched(lesson.asked, attacked, beside), len(retain))
            _write(out, 0, before)
            ended = end.after(before)
            for mark, stays_finite in zip(self.marks, model.until(lesson.texts, rate, self.marks), strict=False):
                found = model.score(lesson.asked, attacked, beside) if stays_finite else None
                if found is None:
                    ended = "diverged"
                    break
                records = _apart(found, len(retain))
                _write(out, mark, records)
                ended = end.after(records)
                if ended is not None:
                    break
        (out / _END).write_text(json.dumps({"ended": ended or "steps"}), encoding="utf-8")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """The curves; and, as for other attacks, per metric the best rate and step, of V where that was asked."""
        measured = {_Job.read(name): _read(folder) for name, folder in folders.items()}
        curves = [
            curve for metric in metrics for job, steps in measured.items() for curve in _curve(job, metric, steps)
        ]
        scored = [job for job in measured if job.taught == self.taught_best]
        tries = [
            Try(0, place, step, scores)
            for place, job in enumerate(scored)
            for step, scores in sorted(measured[job].scores.items())
        ]
        result = best_of(tries, metrics, setting_name="job")
        details = [_told(detail, scored) for detail in result.details]
        return replace(result, details=details, curves=tuple(curves))

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """What is trained on and asked for, and what the retain rows are for."""
        told: dict[str, Any] = {"run_folds": 1, "taught": list(self.taught)}
        if "part" in self.taught:
            fold = self._fold(bundle)
            told |= {"folds": self.folds, "groups_in_T": len(fold.train), "groups_in_V": len(fold.ask)}
        if "all" in self.taught:
            told["facts_trained_on"] = len({row.fact for row in bundle.forget.score})
        return told

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What is given, rates, steps and where a rate ends."""
        trained = ", and ".join(
            Tuning(tuning, self.lora_rank, self.steps.lora_targets).describe() for tuning in self._tunings
        )
        described = self.describe(0)
        retain = self._retain(bundle)
        watched = {"min_retain": self.min_retain, "retain_rows": len(retain)} if retain and self.min_retain else {}
        return {
            **self.given(bundle),
            "learning_rates": described["learning_rates"],
            "max_steps": self.max_steps,
            "scored_after": list(self.marks),
            "optimizer": described["optimizer"].replace(self.trained.describe(), trained),
            "loss_tokens": described["loss_tokens"],
            **watched,
        }

    def cost(self, bundle: DataBundle) -> AttackCost:
        """All steps at every rate, which is the most that it can take, and a pass before all and after each mark."""
        steps = scored = 0
        for name in self.plan(bundle):
            asked = self._asked(_Job.read(name).taught, bundle)
            steps += self.max_steps
            beside = len(self.floor_rows(bundle)) + len(self._retain(bundle))
            scored += (len(asked) + beside) * (1 + len(self.marks))
        return AttackCost(len(self.plan(bundle)), steps, steps * self.batch_size, scored)

    def asked_groups(self, bundle: DataBundle) -> int:
        """The groups of what its scores are of."""
        return len({row.group for row in self._asked(self.taught_best, bundle)})

    @property
    def taught_best(self) -> Taught:
        """Which facts its scores are of: those that were not taught, where there are such."""
        return "part" if "part" in self.taught else "all"

    @property
    def _tunings(self) -> tuple[Trained, ...]:
        if self.tuning == "full":
            return ("full", "lora") if self.adapters else ("full",)
        return ("lora",) if self.tuning == "lora" else ()

    def _fold(self, bundle: DataBundle) -> Fold:
        return make_folds(bundle.forget, self.folds, self.seed, "apart", self.name)[0]

    def _asked(self, taught: Taught, bundle: DataBundle) -> tuple[Example, ...]:
        if taught == "all":
            return bundle.forget.score
        groups = self._fold(bundle).ask
        return tuple(row for row in bundle.forget.score if row.group in groups)

    def _lesson(self, taught: Taught, bundle: DataBundle, text_format: TextFormat) -> Lesson:
        if taught == "all":
            texts = Texts(bundle.forget.train, text_format, True)
        else:
            texts = write_texts("rows", bundle.forget, self._fold(bundle).train, text_format, self.name)
        if not texts.rows:
            raise RequestError(
                f"{self.name} has no rows to train on: give the facts of the forget set training rows, or remove "
                f"attack.{self.name}"
            )
        return Lesson(texts, self._asked(taught, bundle))

    def _retain(self, bundle: DataBundle) -> tuple[Example, ...]:
        rows = bundle.retain.score
        drawn = random.Random(f"{self.name}-{self.seed}").sample(range(len(rows)), min(self.retain_rows, len(rows)))
        return tuple(rows[place] for place in sorted(drawn))


class _Measured(NamedTuple):
    """Attributes:
    scores: What came back by the number of steps, with the sets in :data:`_SPLITS`.
    ended: Why it ended.
    """

    scores: Mapping[int, Mapping[tuple[str, str], FactScores]]
    ended: Ended


class _Ending:
    """Watches one rate: whether the retain set is lost, or everything is back.

    Args:
        min_retain: See :class:`StepsToRecover`.
    """

    def __init__(self, min_retain: float) -> None:
        self._least = min_retain
        self._before: dict[str, float] | None = None

    def after(self, records: Sequence[ScoredRow]) -> Ended | None:
        """Take the scores after some steps, those before the first one first; why the rate ends here, if it does."""
        means = {key: facts.mean for key, facts in fact_scores(records).items()}
        retain = {metric: mean for (split, metric), mean in means.items() if split == "retain"}
        if self._before is None:
            self._before = retain
            return None
        if all(mean >= BACK for (split, _), mean in means.items() if split == "forget"):
            return "back"
        shares = [mean / self._before[metric] for metric, mean in retain.items() if self._before[metric] > 0]
        return "retain lost" if shares and max(shares) < self._least else None


def _apart(records: Sequence[ScoredRow], retain: int) -> list[ScoredRow]:
    """Records, of which the last ones are those of retain rows that were asked beside."""
    first = len(records) - retain
    return [*records[:first], *(replace(record, set="retain") for record in records[first:])]


def _write(out: Path, step: int, records: Sequence[ScoredRow]) -> None:
    """Values only: there are many steps, and nothing else is read again."""
    bare = (replace(record, logps=(), hits=(), choice_logps=(), choice_lengths=(), answer="") for record in records)
    write_records(out / f"{_STEP}{step}.jsonl", bare)


def _read(folder: Path) -> _Measured:
    found = {int(path.stem.removeprefix(_STEP)): path for path in folder.glob(f"{_STEP}*.jsonl")}
    scores = {step: fact_scores(read_records(path)) for step, path in sorted(found.items())}
    ended = json.loads((folder / _END).read_text(encoding="utf-8"))["ended"]
    return _Measured(scores, ended)


def _curve(job: _Job, metric: str, measured: _Measured) -> Iterator[RecoveryCurve]:
    """The curve of one job in one metric; none where that was not scored."""
    steps = [step for step, scores in measured.scores.items() if ("forget", metric) in scores]
    if not steps:
        return
    forget, holdout, retain = (
        tuple(measured.scores[step][split, metric].mean for step in steps if (split, metric) in measured.scores[step])
        for split in _SPLITS
    )
    retained = tuple(mean / retain[0] for mean in retain) if retain and retain[0] > 0 else ()
    yield RecoveryCurve(
        metric, job.taught, job.tuning, job.rate, tuple(steps), forget, holdout, retained, measured.ended
    )


def _told(detail: Mapping[str, Any], jobs: Sequence[_Job]) -> dict[str, Any]:
    """What was best, with the job in words."""
    job = jobs[int(detail["job"])]
    told = {"learning_rate": job.rate, "trained": job.tuning}
    kept = {key: value for key, value in detail.items() if key not in ("job", "epoch")}
    return {**kept, **told, "step": detail["epoch"]}
