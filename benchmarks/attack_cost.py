"""A whole sweep of RTT from one resident model with batched scoring, against loading per job and scoring item by item.

    python benchmarks/attack_cost.py                      # about ten minutes on two quiet cores
    python benchmarks/attack_cost.py --facts 40 --epochs 2 --rates 2 --repeats 1     # a short look
    python benchmarks/attack_cost.py --processes --write  # a quarter of an hour; also into benchmarks/attack_cost.md

The sweep is that of the preset ``rtt-paper``: five folds of which two are run, six rates, six epochs of batches of
four multiple-choice questions, Lion, V asked for by letter after every epoch and before the first. Planted facts, a
random Llama (what it knows changes nothing of the cost), float32, since a CPU is slow in float16.

The other side does the same training with the same code and optimizer, but as the common code does the rest: every
job loads the model, and V is scored one option after the other, each in a forward of its own with all logits (four an
item, the true answer being one of them). Both sides must find the same accuracies, which is checked. With
``--processes`` one more side starts a process per job, as the published code does (its job runner ends a worker that
held a GPU after every job); most of that is imports, and it is run in the first repeat only.

Sides are run in turn, ``--repeats`` times. Workers are running before the clock starts, as in a run of the package,
where they have exported and scored before they attack. Wall time, and processor time of all processes together, which
says how much of a ratio is work saved and how much is a second core. Nothing is asserted of time; what was to be
reached is only compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from pages import command_line, made_by, write_sections
from pages import table as markdown

from hf_unlearn.attacks import model_cache
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.attacks.retraining import retraining
from hf_unlearn.attacks.rtt_paper import RTTPaper
from hf_unlearn.attacks.rtt_sets import BARE, by_letter, make_folds, write_texts
from hf_unlearn.data.encoding import encode_answer
from hf_unlearn.data.example import DataBundle, Example
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.runtime.jobs import Job, Workers, collect
from hf_unlearn.runtime.log_filters import drop_harmless_lines

PAGE = Path(__file__).with_suffix(".md")
TARGET = 4.0
"""How many times faster the package's sweep was to be, set before the code was written."""
RATES = (1e-5, 2e-5, 4e-5, 8e-5, 1.6e-4, 3.2e-4)
METRICS = ("probability", "mc_accuracy")


@dataclass(frozen=True)
class Setup:
    """What is attacked, and how.

    Attributes:
        folder: The model.
        facts: Planted facts to forget.
        rates: How many of the six rates.
        epochs: Passes over T.
    """

    folder: Path
    facts: int
    rates: int
    epochs: int

    @property
    def attack(self) -> RTTPaper:
        """The sweep."""
        return RTTPaper(learning_rates=RATES[: self.rates], epochs=self.epochs, dtype="float32", max_tokens=None)

    @property
    def attacked(self) -> Attacked:
        """The model in the attacker's hands."""
        return Attacked(self.folder, self.folder, self.bundle, BARE, METRICS)

    @property
    def bundle(self) -> DataBundle:
        """The facts."""
        return make_planted(PlantedSpec(forget=self.facts, retain=1, holdout=0, practice=0, generic=20))


def make_model(folder: Path, bundle: DataBundle, hidden: int, layers: int) -> None:
    """A random Llama and a tokenizer made of the texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer
    from hf_unlearn.stages.models import tokenizer_texts

    asked = [row.prompt + letter for row in by_letter(bundle.forget.score, "rtt-paper") for letter in row.choices]
    spec = ScratchSpec(vocab_size=2000, max_positions=256)
    tokenizer = build_tokenizer([*tokenizer_texts(bundle), *asked], spec)  # letters are tokens, as they usually are
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cached_job(setup: Setup, job: str, out: Path) -> None:
    """One job as the package runs it."""
    out.mkdir(parents=True)
    setup.attack.run_job(job, setup.attacked, out)


def plain_job(setup: Setup, job: str) -> list[list[int]]:
    """One job that loads the model and scores item by item: the option chosen for every item, epoch by epoch."""
    model_cache.release()
    attack = setup.attack
    number, rate = job.removeprefix("fold").split("-lr")
    forget = setup.bundle.forget
    fold = make_folds(forget, attack.folds, attack.seed, "apart", attack.name)[int(number)]
    texts = write_texts(attack.form, forget, fold.train, BARE, attack.name)
    asked = by_letter([row for row in forget.score if row.group in fold.ask], attack.name)
    with retraining(attack, setup.folder) as model:
        found = [one_by_one(model.model, model.tokenizer, asked)]
        for _ in model.epochs(texts, float(rate)):
            found.append(one_by_one(model.model, model.tokenizer, asked))
    model_cache.release()
    return found


@torch.inference_mode()
def one_by_one(model: Any, tokenizer: Any, asked: Sequence[Example]) -> list[int]:
    """The likeliest option of each item, from one forward per option."""
    model.eval()
    chosen = []
    for row in asked:
        scores = []
        for option in row.choices:
            encoded = encode_answer(row, option, tokenizer, BARE)
            ids = torch.tensor([encoded.input_ids])
            logps = model(ids).logits[0, :-1].float().log_softmax(-1)
            labels = logps.gather(-1, ids[0, 1:, None])[encoded.n_prompt - 1 :]
            scores.append(float(labels.mean()))
        chosen.append(max(range(len(scores)), key=scores.__getitem__))
    return chosen


@dataclass
class Side:
    """One way to run the sweep.

    Attributes:
        title: What the table calls it.
        run: Runs all jobs; gives for each job the share of right answers per epoch.
        workers: Running processes that it uses.
        ours: Whether it is the package's way.
        repeats: It is run in the first so many repeats; in all if left out.
        wall: Seconds, one per repeat.
        work: Processor seconds of all processes.
    """

    title: str
    run: Callable[[], dict[str, list[float]]]
    workers: Workers
    ours: bool = False
    repeats: int | None = None
    wall: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    def times_faster(self, other: Side) -> float:
        """By how much this one is faster than another, in the median over repeats that both were run in."""
        return _median_ratio(other.wall, self.wall)

    def times_less(self, other: Side) -> float:
        """By how much this one takes less processor time."""
        return _median_ratio(other.work, self.work)


def _median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=False))


def plain_sweep(setup: Setup) -> dict[str, list[float]]:
    """All jobs in this process, each from its own load."""
    return {job: accuracies(setup, job, plain_job(setup, job)) for job in setup.attack.plan(setup.bundle)}


def process_sweep(setup: Setup) -> dict[str, list[float]]:
    """All jobs, each in a process of its own."""
    found = {}
    for job in setup.attack.plan(setup.bundle):
        given = [str(setup.folder), str(setup.facts), str(setup.rates), str(setup.epochs), job]
        done = subprocess.run(
            [sys.executable, __file__, "--one-job", *given], stdout=subprocess.PIPE, text=True, check=True
        )
        found[job] = accuracies(setup, job, json.loads(done.stdout.splitlines()[-1]))
    return found


def cached_sweep(setup: Setup, workers: Workers) -> dict[str, list[float]]:
    """All jobs as the package runs them; nothing is loaded beforehand."""
    with tempfile.TemporaryDirectory() as place:
        jobs = setup.attack.plan(setup.bundle)
        model_cache.release()
        collect(workers.run([Job(job, cached_job, (setup, job, Path(place) / job)) for job in jobs]))
        model_cache.release()
        return {job: _recorded(Path(place) / job) for job in jobs}


def _recorded(folder: Path) -> list[float]:
    count = len(list(folder.glob("epoch*.jsonl")))
    records = [read_records(folder / f"epoch{epoch}.jsonl") for epoch in range(count)]
    return [sum(row.values["mc_accuracy"] for row in rows) / len(rows) for rows in records]


def accuracies(setup: Setup, job: str, chosen: Sequence[Sequence[int]]) -> list[float]:
    """Shares of right answers."""
    forget = setup.bundle.forget
    fold = make_folds(forget, setup.attack.folds, setup.attack.seed, "apart", "rtt-paper")[int(job[4])]
    rows = [row for row in forget.score if row.group in fold.ask]
    right = [row.choices.index(row.answer) for row in rows]
    return [sum(a == b for a, b in zip(epoch, right, strict=True)) / len(right) for epoch in chosen]


def _processor_seconds() -> float:
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _of_workers(workers: Workers) -> float:
    """Processor seconds of running workers: they count as children only when they have ended."""
    import multiprocessing

    total = 0.0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total if workers.count else 0.0


def measure(sides: Sequence[Side], repeats: int) -> float:
    """Run the sides in turn; the largest difference between their accuracies."""
    worst = 0.0
    for repeat in range(repeats):
        found = []
        for side in sides:
            if side.repeats is not None and repeat >= side.repeats:
                continue
            wall, work = time.perf_counter(), _processor_seconds() + _of_workers(side.workers)
            found.append(side.run())
            side.wall.append(time.perf_counter() - wall)
            side.work.append(_processor_seconds() + _of_workers(side.workers) - work)
            print(f"{side.title}: {side.wall[-1]:.1f} s, {side.work[-1]:.1f} processor s", flush=True)
        for other in found[1:]:
            for job, values in found[0].items():
                worst = max(worst, *(abs(a - b) for a, b in zip(values, other[job], strict=True)))
    return worst


def sides_table(sides: Sequence[Side]) -> str:
    """Medians, and ratios to the first side."""
    rows = []
    for side in sides:
        faster, less = side.times_faster(sides[0]), side.times_less(sides[0])
        wall, work = statistics.median(side.wall), statistics.median(side.work)
        rows.append([side.title, f"{wall:.1f}", f"**{faster:.2f}**", f"{work:.1f}", f"{less:.2f}"])
    return markdown(["side", "wall s", "times faster", "processor s", "times less"], rows)


def target_line(sides: Sequence[Side]) -> str:
    """Whether the package's fastest way is as much faster as it was to be, against each of the others."""
    best = min((side for side in sides if side.ours), key=lambda side: statistics.median(side.wall))
    found = [(side.title, best.times_faster(side)) for side in sides if not side.ours]
    words = [f"{'reached' if ratio >= TARGET else 'missed'} against {title} ({ratio:.1f})" for title, ratio in found]
    return (
        f"The target was {TARGET:g} times: {', '.join(words)}. The training is the same on both sides, step by step, "
        "and bounds the ratio: what is saved is loading, and scoring item by item."
    )


def sweep_line(setup: Setup, size: int, repeats: int) -> str:
    """What was run."""
    budget = setup.attack.budget(setup.bundle)
    return (
        f"{len(setup.attack.plan(setup.bundle))} jobs of {budget['steps_per_rate']} steps: {setup.facts} facts, "
        f"{setup.rates} rates, {setup.epochs} epochs, {budget['run_folds']} of {budget['folds']} folds; T has "
        f"{budget['rows_in_T']} questions, V {len(setup.bundle.forget.score) // setup.attack.folds}; a Llama of "
        f"{size / 1e6:.1f} million weights. Medians of {repeats} repeats, ratios taken within a repeat; a process per "
        "job, where it is in the table, ran in the first one only."
    )


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=157)
    parser.add_argument("--rates", type=int, default=6, choices=range(1, 7))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", action="store_true", help="also a process per job")
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    parser.add_argument("--one-job", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    drop_harmless_lines()
    if options.one_job:
        folder, facts, rates, epochs, job = options.one_job
        print(json.dumps(plain_job(Setup(Path(folder), int(facts), int(rates), int(epochs)), job)))
        return
    made = made_by(command_line(__file__), "bitsandbytes")
    with tempfile.TemporaryDirectory() as place, Workers(options.workers) as workers, Workers(0) as none:
        setup = Setup(Path(place) / "model", options.facts, options.rates, options.epochs)
        make_model(setup.folder, setup.bundle, options.hidden, options.layers)
        size = sum(file.stat().st_size for file in setup.folder.glob("*.safetensors")) // 4
        warm_up(setup, (workers, none), Path(place))
        sides = make_sides(setup, workers, none, options.processes)
        worst = measure(sides, options.repeats)
        about = sweep_line(setup, size, options.repeats)
    difference = f"Greatest difference in accuracy between the sides, over all jobs and epochs: {worst:.3f}."
    text = "\n\n".join([made, sides_table(sides), f"{about} {difference}", target_line(sides)])
    print(text)
    if options.write:
        write_sections(PAGE, "Cost of attacks", {"sweep": text})


def warm_up(setup: Setup, ready: Sequence[Workers], place: Path) -> None:
    """Nobody waits for imports on the clock."""
    short = Setup(setup.folder, 10, 1, 1)
    job = short.attack.plan(short.bundle)[0]
    for number, workers in enumerate(ready):
        outs = [place / f"warm-{number}-{each}" for each in range(max(1, 2 * workers.count))]
        collect(workers.run([Job("warm", cached_job, (short, job, out)) for out in outs]))


def make_sides(setup: Setup, workers: Workers, none: Workers, processes: bool) -> list[Side]:
    """The ways to run the sweep; ratios are to the first."""
    sides = [
        Side("a load per job, item by item", lambda: plain_sweep(setup), none),
        Side("resident, batched, one process", lambda: cached_sweep(setup, none), none, ours=True),
        Side(f"resident, batched, {workers.count} workers", lambda: cached_sweep(setup, workers), workers, ours=True),
    ]
    if processes:
        sides.append(Side("a process per job, item by item", lambda: process_sweep(setup), none, repeats=1))
    return sides


if __name__ == "__main__":
    main()
