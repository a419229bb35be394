"""What 4 bits bring back on a real pretrained model: rates, losses, and weights stepped in float32 or in bfloat16.

    python -m benchmarks.real.quantization --out runs/quantization          # what is missing, resumable
    python -m benchmarks.real.quantization --report                         # the page and plot of what is kept

The first paper (arXiv 2410.16454) pools what is left of the forgotten knowledge over methods: 21 % in full precision
and 83 % in 4 bits, for models of 7 billion parameters that keep their utility. Here NPO and gradient ascent, each with
KL or NLL on the retain set, unlearn the capitals that SmolLM2 135M knows. Passes are computed in bfloat16; weights are
stepped in float32, or rounded to bfloat16 after each step, and every model is saved and scored in float32. Outcomes
are kept beside this file (``quantization.json``).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.pages import table
from benchmarks.real.sets import SETS, Way

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
KEPT, PAGE, PLOT = (HERE / name for name in ("quantization.json", "quantization.md", "quantization.png"))
TITLE = "# What 4 bits bring back on a real pretrained model"
SEEDS = (0,)
CONDITIONS = {
    "identity": "as it stands",
    "bf16": "bf16",
    "bnb-nf4": "NF4",
    "bnb-fp4": "FP4",
    "rtn-int4-g32": "int4-g32",
}
METRICS = {"probability": 0.0, "mc_accuracy": 0.25}
"""What is asked, and what a guess is worth."""
USEFUL = 0.8
"""Least retain probability over the target's for a method to be pooled: the claim is about those that keep utility."""

_LOSSES: dict[str, dict[str, Any]] = {"npo": {"loss_type": "npo", "beta": 0.1}, "ga": {"loss_type": "ga"}}
_RETAIN: dict[str, dict[str, Any]] = {
    "kl": {"retain_loss_type": "kl", "retain_weight": 10.0},
    "nll": {"retain_loss_type": "nll", "retain_weight": 4.0},
}
_STEPPING = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Cell:
    """One way of unlearning.

    Attributes:
        loss: On the forget set.
        retain: On the retain set.
        rate: Learning rate, constant.
        passes: Over the forget set.
        stepping: The type in which weights are kept between steps.
    """

    loss: str
    retain: str
    rate: float
    passes: int
    stepping: str

    @property
    def name(self) -> str:
        """In the recipe."""
        return f"{self.loss}-{self.retain}-{self.rate:.0e}-{self.passes}-{self.stepping}".replace("e-0", "e-")

    def entry(self) -> dict[str, Any]:
        """As a recipe's ``methods`` has it."""
        return {
            "name": self.name,
            **_LOSSES[self.loss],
            **_RETAIN[self.retain],
            "retain_per_forget": 1,
            "per_device_train_batch_size": 16,
            "num_train_epochs": self.passes,
            "learning_rate": self.rate,
            "lr_scheduler_type": "constant",
            "stepping": _STEPPING[self.stepping],
            "bf16": True,
            "save_strategy": "no",
        }


PASSES = {("npo", 5e-6): 24, ("npo", 2e-5): 6, ("ga", 5e-6): 12, ("ga", 2e-5): 3}
"""By loss and rate: about as much movement at each rate; gradient ascent needs half of the steps."""
CELLS = tuple(
    Cell(loss, retain, rate, passes, stepping)
    for ((loss, rate), passes), retain, stepping in itertools.product(PASSES.items(), _RETAIN, _STEPPING)
)


@dataclass(frozen=True)
class Outcome:
    """What is left in one model.

    Attributes:
        seed: Of the split and of training.
        cell: How it was made; ``None`` is the target.
        forget: Mean score by condition and metric.
        retain: The same of what was to be kept.
        lost_in_bf16: Share of the moved weights whose change vanishes if they are saved in bfloat16.
        codes_changed: By grid, the share of 4-bit codes that differ from the target's.
        made: The day, and versions.
    """

    seed: int
    cell: Cell | None
    forget: Mapping[str, Mapping[str, float]]
    retain: Mapping[str, Mapping[str, float]]
    lost_in_bf16: float | None
    codes_changed: Mapping[str, float]
    made: Mapping[str, str]


def recipe(seed: int, cells: Sequence[Cell]) -> dict[str, Any]:
    """The capitals, unlearned in every way, in all formats, without attacks.

    Args:
        seed: Of the split and of training.
        cells: The ways.
    """
    made = SETS["capitals-undrawn"].recipe(seed, [cell.entry() for cell in cells], Way())
    made["name"] = f"quantization-{seed}"
    made["export"] = {"formats": [name for name in CONDITIONS if name != "identity"]}
    made["evaluate"] = {"metrics": list(METRICS)}
    made["attack"] = {"other-form": False}
    made["data"]["world"] |= {"others": 0, "generic": 12, "holdout": 20}
    made["gate"] = {"metrics": list(METRICS)}
    return made


def outcomes_of(report: Mapping[str, Any], seed: int, cells: Sequence[Cell]) -> list[Outcome]:
    """Reads a run's report.

    Args:
        report: The run's report.
        seed: The run's.
        cells: Its ways of unlearning.
    """
    scores = {(row["model"], row["split"], row["transform"], row["metric"]): row["value"] for row in report["scores"]}
    explained = {each["model"]: each for each in report["explanation"]["models"]}
    versions = report["environment"]["versions"]
    made = {"date": report["created"][:10], **{name: str(versions[name]) for name in ("torch", "transformers")}}
    return [
        Outcome(
            seed,
            cell,
            *(
                {place: {metric: scores[name, split, place, metric] for metric in METRICS} for place in CONDITIONS}
                for split in ("forget", "retain")
            ),
            *_moved(explained.get(name)),
            made,
        )
        for name, cell in (("target", None), *((cell.name, cell) for cell in cells))
    ]


def _moved(explained: Mapping[str, Any] | None) -> tuple[float | None, dict[str, float]]:
    if explained is None:
        return None, {}
    grids = {grid: each["codes_changed"] for grid, each in explained["grids"].items()}
    return explained["lost_in_bf16"], grids


def knowledge_left(outcome: Outcome, target: Outcome, condition: str) -> dict[str, float]:
    """By metric, the score beyond a guess over that of the target as it stands; not below 0."""
    return {
        metric: max(0.0, outcome.forget[condition][metric] - guess) / (target.forget["identity"][metric] - guess)
        for metric, guess in METRICS.items()
    }


def kept(outcome: Outcome, target: Outcome, condition: str = "identity") -> float:
    """Retain probability over the target's as it stands."""
    return outcome.retain[condition]["probability"] / target.retain["identity"]["probability"]


def pooled(outcomes: Sequence[Outcome], condition: str, *, stepping: str | None = None) -> tuple[float, int]:
    """Mean knowledge left over metrics and over methods that keep their utility, and how many methods they are.

    Args:
        outcomes: Targets among them.
        condition: In which precision.
        stepping: Only methods that are stepped so.
    """
    targets = {one.seed: one for one in outcomes if one.cell is None}
    chosen = [
        one
        for one in outcomes
        if one.cell is not None and stepping in (None, one.cell.stepping) and kept(one, targets[one.seed]) >= USEFUL
    ]
    left = [fmean(knowledge_left(one, targets[one.seed], condition).values()) for one in chosen]
    return (fmean(left) if left else float("nan")), len(left)


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page.

    Args:
        outcomes: All that are kept.
    """
    if not outcomes:
        return f"{TITLE}\n\nNot run yet: `python -m benchmarks.real.quantization`.\n"
    targets = {one.seed: one for one in outcomes if one.cell is None}
    made = sorted({", ".join(f"{value}" if name == "date" else f"{name} {value}" for name, value in one.made.items())
                   for one in outcomes})  # fmt: skip
    lines = [
        TITLE,
        "",
        f"`python -m benchmarks.real.quantization`; {'; '.join(made)}; two CPU cores. SmolLM2 135M Instruct, capitals "
        "of 45 countries. Each pair is answer probability / four options (a guess is 0.25). *Lost in bf16*: of the "
        "weights that moved, those whose change vanishes if they are saved in bfloat16. *Codes*: 4-bit codes that "
        "differ from the target's, in NF4.",
        "",
        "![what is left](quantization.png)",
        "",
    ]
    for seed, target in targets.items():
        mine = [one for one in outcomes if one.seed == seed]
        lines += [f"## Seed {seed}", "", _models(mine, target), ""]
    head = ["stepped in", "methods", *CONDITIONS.values()]
    rows = []
    for stepping in (*_STEPPING, None):
        counted = [pooled(outcomes, place, stepping=stepping) for place in CONDITIONS]
        rows.append([stepping or "both", str(counted[0][1]), *(f"{100 * left:.0f} %" for left, _ in counted)])
    lines += [
        "## Pooled",
        "",
        "Knowledge left: score beyond a guess, over that of the target as it stands, mean over both metrics and over "
        f"all methods that keep at least {USEFUL} of the target's retain probability.",
        "",
        table(head, rows),
        "",
    ]
    return "\n".join(lines)


def _models(outcomes: Sequence[Outcome], target: Outcome) -> str:
    head = ["model", "rate", "passes", "stepped in", *CONDITIONS.values(), "retain, as it stands", "retain, NF4"]
    rows = []
    for one in outcomes:
        cell = one.cell
        named = ["target", "", "", ""]
        if cell is not None:
            named = [f"{cell.loss} + {cell.retain}", f"{cell.rate:.0e}", str(cell.passes), cell.stepping]
        lost = "" if one.lost_in_bf16 is None else f"{100 * one.lost_in_bf16:.0f} %"
        codes = f"{100 * one.codes_changed['nf4']:.1f} %" if "nf4" in one.codes_changed else ""
        rows.append(
            [
                *named,
                *(_pair(one.forget[place]) for place in CONDITIONS),
                *(_pair(one.retain[place]) for place in ("identity", "bnb-nf4")),
                lost,
                codes,
            ]
        )
    return table([*head, "lost in bf16", "codes"], rows)


def _pair(scores: Mapping[str, float]) -> str:
    return " / ".join(
        f"{scores[metric]:.3f}" if metric == "probability" else f"{scores[metric]:.2f}" for metric in METRICS
    )


def figure(outcomes: Sequence[Outcome]) -> Figure:
    """Knowledge left in each precision, a line for each model; those that lost their utility are grey.

    Args:
        outcomes: All that are kept.
    """
    from matplotlib.figure import Figure

    targets = {one.seed: one for one in outcomes if one.cell is None}
    drawn = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels = drawn.subplots(1, len(_STEPPING), sharey=True)
    colours = {"npo-kl": "#1b6ca8", "npo-nll": "#5fb0d9", "ga-kl": "#b2420f", "ga-nll": "#eba15f"}
    for panel, stepping in zip(panels, _STEPPING, strict=True):
        shown: set[str] = set()
        for one in outcomes:
            if one.cell is None or one.cell.stepping != stepping:
                continue
            target, name = targets[one.seed], f"{one.cell.loss}-{one.cell.retain}"
            useful = kept(one, target) >= USEFUL
            left = [fmean(knowledge_left(one, target, place).values()) for place in CONDITIONS]
            panel.plot(
                list(CONDITIONS.values()),
                left,
                marker="o" if one.cell.rate < 1e-5 else "s",
                color=colours[name] if useful else "#c4c4c4",
                label=None if name in shown or not useful else name.replace("-", " + "),
                lw=1.4,
                zorder=3 if useful else 1,
            )
            shown |= {name} if useful else set()
        panel.set_title(f"weights stepped in {stepping}", fontsize=10)
        panel.set_ylim(-0.03, 1.1)
        panel.axhline(1.0, color="#777777", lw=0.8, ls=":")
        panel.grid(alpha=0.25)
        if shown:
            panel.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("knowledge left, over the target's")
    drawn.supxlabel("circles: 5e-6, squares: 2e-5; grey: lost more than a fifth of the retain set", fontsize=8)
    return drawn


def read_kept() -> list[Outcome]:
    """Outcomes of all runs so far."""
    if not KEPT.exists():
        return []
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    return [Outcome(**{**one, "cell": None if one["cell"] is None else Cell(**one["cell"])}) for one in found]


def keep(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Adds outcomes to those that are kept; all of a seed take the place of that seed's."""
    seeds = {one.seed for one in outcomes}
    whole = [*(one for one in read_kept() if one.seed not in seeds), *outcomes]
    whole.sort(key=lambda one: one.seed)
    KEPT.write_text(json.dumps([asdict(one) for one in whole], indent=1) + "\n", encoding="utf-8")
    return whole


def run_seed(seed: int, out: Path, workers: int | None) -> list[Outcome]:
    """Trains, exports and scores what is not there yet.

    Args:
        seed: Of the split and of training.
        out: Folder of all runs.
        workers: Worker processes; 0 for none.
    """
    from hf_unlearn.pipeline import run_pipeline
    from hf_unlearn.recipe import load_recipe

    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(seed, CELLS), sort_keys=False), encoding="utf-8")
    run_pipeline(load_recipe(path), folder / "run", workers=workers)
    report = (folder / "run" / "verify" / "unlearning_report.json").read_text(encoding="utf-8")
    return outcomes_of(json.loads(report), seed, CELLS)


def main() -> None:
    """Run what is missing, keep what came of it, and write page and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("runs/quantization"), help="folder of the runs")
    parser.add_argument("--workers", type=int, default=None, help="worker processes; 0 for none")
    parser.add_argument("--report", action="store_true", help="only make the page of what is kept")
    arguments = parser.parse_args()
    found = read_kept()
    if not arguments.report:
        for seed in arguments.seeds:
            found = keep(run_seed(seed, arguments.out, arguments.workers))
    text = page(found)
    PAGE.write_text(text, encoding="utf-8")
    if found:
        figure(found).savefig(PLOT, dpi=110)
    print(text)


if __name__ == "__main__":
    main()
